"""Each CRM's stand-in behind one interface, a subscription to it, and attempts that can be killed or lose an answer.

For the conformance suite of kinds that write to CRMs.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Protocol, get_args

import orjson

from relay.core.deliveries.credentials import TOKEN_HERE, SinkCredential, origin_text
from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.deliveries.dialogue import Ended, Memory, Step
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from subscribers.base import Kind, RenderContext
from subscribers.hubspot import HubSpot
from subscribers.hubspot.render import BODIES, KEY_PROPERTY
from subscribers.pipedrive import Pipedrive
from subscribers.salesforce import Salesforce
from tests.subscribers.slack.test_dialogue import job
from tests.support.hubspot_account import SINK, prepare, stored
from tests.vendors import hubspot as hubspot_vendor
from tests.vendors import pipedrive as pipedrive_vendor
from tests.vendors import salesforce as salesforce_vendor

NOW = 1779271208.0
EMAIL = "jane@example.com"
CONTEXT = RenderContext(public_url="https://relay.example")
KEY = re.compile(r"evt_[0-9a-z]+[.-][0-9A-Za-z_]+")

Fate = Literal[
    *("killed before it is stored", "killed before it is sent", "killed before the answer"),
    *("killed before the end is recorded", "lost request", "lost answer", "error of a proxy", "login page"),
]
"""What becomes of an attempt at one of its requests. The last three: the CRM has carried it out."""
FATES: tuple[Fate, ...] = get_args(Fate)


class Clock:
    """A clock that tests move."""

    now = NOW

    def __call__(self) -> float:
        return self.now


def event(metadata: Mapping[str, Any], kind: str = "failed", nth: int = 1) -> Event:
    """An event of a job with this metadata."""
    made = job(kind, nth)
    document = made.document()
    document["data"]["metadata"] = dict(metadata)
    return replace(made, body=orjson.dumps(document))


class Vendor(Protocol):
    """One CRM: a customer's account at its stand-in.

    kind        of sink
    known       metadata of somebody whom the CRM knows; `unknown` of somebody whom it does not
    options     of the subscription
    scope       named by the refusal of `forbidden`
    forbidden   status and body of its answer if a permission is missing; `limited` after too many requests
    partial     a 2xx that says that nothing was written
    """

    kind: Kind
    sink: str
    token: str
    known: Mapping[str, Any]
    unknown: Mapping[str, Any]
    scope: str
    forbidden: tuple[int, bytes]
    limited: tuple[int, bytes]
    partial: tuple[int, bytes]

    def respond(self, request: OutboundRequest) -> Response:
        """The response to a request with its credential."""
        ...

    def written(self) -> list[str]:
        """The records that the relay has made, each by what it is and its key."""
        ...

    def markup(self) -> list[str]:
        """The texts of these records that the CRM shows as HTML."""
        ...

    def people(self) -> int:
        """The number of people it knows."""
        ...

    def refusals(self) -> list[str]:
        """What it has refused, but for look-ups of what is not there."""
        ...


class PipedriveVendor:
    """A company."""

    kind: Kind = Pipedrive()
    sink = f"https://{pipedrive_vendor.HOST}"
    token = pipedrive_vendor.TOKEN
    known: Mapping[str, Any] = {"email": EMAIL}
    unknown: Mapping[str, Any] = {"email": "nobody@example.com"}
    scope = "contacts:read"
    forbidden = (403, b'{"success": false, "error": "Scope and URL mismatch", "errorCode": 403}')
    limited = (429, b'{"success": false, "error": "request over limit", "errorCode": 429}')
    partial = (200, b'{"success": false, "error": "no", "data": null}')

    def __init__(self, clock: Callable[[], float]) -> None:
        self.company = pipedrive_vendor.Pipedrive(clock)
        self.company.burst = self.company.search_burst = 100_000
        self.company.add_person("Jane Doe", EMAIL)

    def respond(self, request: OutboundRequest) -> Response:
        return self.company.take(request)

    def written(self) -> list[str]:
        rows = [("note", one["content"]) for one in self.company.notes]
        rows += [("activity", one["note"]) for one in self.company.activities]
        return [f"{what} {_key_in(text)}" for what, text in rows]

    def markup(self) -> list[str]:
        return [one["content"] for one in self.company.notes] + [one["note"] for one in self.company.activities]

    def people(self) -> int:
        return len(self.company.persons)

    def refusals(self) -> list[str]:
        return self.company.mistakes


class SalesforceVendor:
    """An org with the relay's object."""

    kind: Kind = Salesforce()
    sink = salesforce_vendor.ORIGIN
    token = salesforce_vendor.TOKEN
    known: Mapping[str, Any] = {"email": EMAIL}
    unknown: Mapping[str, Any] = {"email": "nobody@example.com"}
    forbidden = (403, b'[{"errorCode": "INSUFFICIENT_ACCESS_OR_READONLY", "message": "no", "fields": []}]')
    limited = (403, b'[{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "TotalRequests Limit exceeded."}]')
    scope = "permissions Create and Edit"
    partial = (300, b'["/services/data/v62.0/sobjects/Job_Event__c/a00xx0000000001AAA"]')

    def __init__(self, clock: Callable[[], float]) -> None:
        self.org = salesforce_vendor.Salesforce(api_limit=10**9)
        self.org.add("Contact", LastName="Doe", Email=EMAIL)

    def respond(self, request: OutboundRequest) -> Response:
        return self.org.take(request, token=None)

    def written(self) -> list[str]:
        rows = [(object, row) for object in ("Job_Event__c", "Task") for row in self.org.rows(object)]
        return [f"{object} {_key_in(row['Event_Id__c'])}" for object, row in rows]

    def markup(self) -> list[str]:
        return []

    def people(self) -> int:
        return len(self.org.rows("Contact")) + len(self.org.rows("Lead"))

    def refusals(self) -> list[str]:
        return self.org.mistakes


class HubSpotVendor:
    """An account with the relay's properties."""

    kind: Kind = HubSpot()
    sink = SINK
    token = hubspot_vendor.TOKEN
    known: Mapping[str, Any] = {"email": EMAIL}
    unknown: Mapping[str, Any] = {"email": "nobody@example.com"}
    scope = "crm.objects.contacts.write"
    forbidden = (
        403,
        b'{"status": "error", "category": "MISSING_SCOPES", "message": "no", "errors": [{"message": "x", "context": '
        b'{"requiredGranularScopes": ["crm.objects.contacts.write"]}}]}',
    )
    limited = (429, b'{"status": "error", "category": "RATE_LIMITS", "policyName": "TEN_SECONDLY_ROLLING"}')
    partial = (
        207,
        b'{"status": "COMPLETE", "results": [], "numErrors": 1, "errors": [{"status": "error", "category": '
        b'"VALIDATION_ERROR", "message": "no"}]}',
    )
    keyed: ClassVar[bool] = True

    def __init__(self, clock: Callable[[], float]) -> None:
        self.hubspot = hubspot_vendor.HubSpot(burst=100_000, now=clock)
        self.hubspot.daily = 10**9
        self.hubspot.add("contacts", email=EMAIL)
        prepare(self.hubspot, keyed=self.keyed)

    def respond(self, request: OutboundRequest) -> Response:
        return self.hubspot.take(request)

    def _made(self) -> list[tuple[str, str]]:
        return [
            (object, one.properties[body])
            for object, body in BODIES.items()
            for one in self.hubspot.records[object].values()
        ]

    def written(self) -> list[str]:
        return [f"{what} {_key_in(text)}" for what, text in self._made()]

    def markup(self) -> list[str]:
        return [text for _, text in self._made()]

    def people(self) -> int:
        return len(self.hubspot.records["contacts"])

    def refusals(self) -> list[str]:
        return [one for one in self.hubspot.mistakes if KEY_PROPERTY not in one]


class UnkeyedHubSpotVendor(HubSpotVendor):
    """An account without the property that the relay finds its records by."""

    keyed: ClassVar[bool] = False


class PlainHubSpotVendor(UnkeyedHubSpotVendor):
    """An account where that property is one like any other."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        for object in BODIES:
            self.hubspot.definitions[object][KEY_PROPERTY] = hubspot_vendor.Definition(name=KEY_PROPERTY)


VENDORS: Mapping[str, Callable[[Callable[[], float]], Vendor]] = {
    "pipedrive": PipedriveVendor,
    "hubspot": HubSpotVendor,
    "salesforce": SalesforceVendor,
}
WORLDS = {
    **VENDORS,
    "hubspot without its key": UnkeyedHubSpotVendor,
    "hubspot with a plain key": PlainHubSpotVendor,
}
"""And two whose records are found by other means."""


def _key_in(text: str) -> str:
    found = KEY.search(text)
    assert found is not None, text
    return found[0]


def token_placed(request: OutboundRequest, token: str) -> OutboundRequest:
    """The request as the sender sends it: with the token where the kind wants it, else as a bearer token."""
    headers = tuple((name, token if value == TOKEN_HERE else value) for name, value in request.headers)
    own = any(value == TOKEN_HERE for _, value in request.headers)
    return replace(request, headers=headers if own else (*headers, ("Authorization", f"Bearer {token}")))


class CrmWorld:
    """A subscription to one CRM, and what it remembers. `deliver` is one attempt; `steps` are its requests."""

    def __init__(self, name: str, **options: Any) -> None:
        self.clock = Clock()
        self.vendor = WORLDS[name](self.clock)
        self.kind = self.vendor.kind
        self.subscription = subscription_to(self.vendor, **options)
        self.context = CONTEXT
        self.memories: dict[tuple[str, str], Memory] = {}
        self.steps: list[Step] = []

    def deliver(
        self,
        about: Event,
        *,
        fate: Fate | None = None,
        at: int = 0,
        answer: tuple[int, bytes] | None = None,
        error: str | None = None,
        subscription: Subscription | None = None,
    ) -> Outcome | None:
        """The outcome; None if the attempt was killed. `at`: the request, from 0, that has the fate, or that gets
        this answer or error without being carried out."""
        subscription = subscription or self.subscription
        dialogue = self.kind.dialogue(subscription)
        assert dialogue is not None
        key = dialogue.key(about, subscription)
        place = (subscription.id, key or "")
        self.steps = []
        shared = [] if dialogue.shared is None else dialogue.shared(about, subscription, self.context)
        shared_places = [("", one) for one in shared]
        context = replace(self.context, known=[self.memories.get(one, {}) for one in shared_places])
        steps = dialogue.steps(about, subscription, context, self.memories.get(place, {}), self.clock.now)
        try:
            step = next(steps)
            while True:
                here = len(self.steps) == at
                if here and fate == "killed before it is stored":
                    return None
                self._keep([place], step.remember)
                self._keep(shared_places, step.share)
                assert step.private, "the answer or the URL may say something about a person"
                self.steps.append(step)
                if here and fate == "killed before it is sent":
                    return None
                response = self._response(step, fate, answer, error) if here else self._response(step, None, None, None)
                if response is None:
                    return None
                step = steps.send(response)
        except StopIteration as end:
            ended: Ended = end.value
        if fate == "killed before the end is recorded":
            return None
        self._keep([place], ended.remember)
        self._keep(shared_places, ended.share)
        return ended.outcome

    def tried(self, about: Event, **how: Any) -> Outcome:
        """The outcome of an attempt that is not killed."""
        outcome = self.deliver(about, **how)
        assert outcome is not None
        return outcome

    def _keep(self, places: Sequence[tuple[str, str]], memory: Memory | None) -> None:
        if memory is not None:
            assert places
            assert all(key for _, key in places)
            self.memories |= dict.fromkeys(places, stored(memory))

    def _response(
        self, step: Step, fate: Fate | None, answer: tuple[int, bytes] | None, error: str | None
    ) -> Response | None:
        now = self.clock.now
        if error is not None:
            return Response(started_at=now, duration_ms=1.0, error=error)
        if answer is not None:
            return Response(started_at=now, duration_ms=1.0, status_code=answer[0], excerpt=answer[1])
        if fate == "lost request":
            return Response(started_at=now, duration_ms=1.0, error="timeout", late=True)
        response = self.vendor.respond(token_placed(step.request, self.vendor.token))
        match fate:
            case "killed before the answer":
                return None
            case "lost answer":
                return Response(started_at=now, duration_ms=1.0, error="read")
            case "error of a proxy":
                return Response(started_at=now, duration_ms=1.0, status_code=502, excerpt=b"<html>Bad gateway")
            case "login page":
                return Response(started_at=now, duration_ms=1.0, status_code=200, excerpt=b"<html>Sign in")
        return response

    def settle(self, about: Event, subscription: Subscription | None = None) -> Outcome:
        """Tries again until the delivery is over."""
        for _ in range(8):
            outcome = self.deliver(about, subscription=subscription)
            assert outcome is not None
            if outcome.verdict != "retry":
                return outcome
            self.clock.now += max(outcome.wait_seconds, 5.0)
        raise AssertionError(f"it is tried for ever: {outcome}")


def subscription_to(vendor: Vendor, id: str = "sub_01jvpq0000000000000000000b", **options: Any) -> Subscription:
    """A subscription to a CRM with an access token."""
    fields = {"credentialtype": "ACCESSTOKEN", "accesstoken": vendor.token}
    credential = SinkCredential(id="crd_1", origin=origin_text(vendor.sink), fields=fields)
    return Subscription(id=id, sink=vendor.sink, kind=vendor.kind.name, credential=credential, options=options)
