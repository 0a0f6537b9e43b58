"""HubSpot: sets properties of a job's contact and deal, adds a note to their timeline, and a task for a failure.

Setting properties may be repeated. Creating a note or a task may not: the ledger records the intent before the request,
and after a crash or a time-out `questions.py` first looks the record up. `render.py` makes the content, `requests.py`
the requests; `answers.py` reads the answers.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from relay.clock import from_rfc3339
from relay.core.deliveries import ledger
from relay.core.deliveries.delivery import Outcome, Response
from relay.core.deliveries.dialogue import Ended, Memory, Step, Steps
from relay.core.deliveries.ledger import Entry
from relay.core.events.event import Event
from relay.core.events.sentences import enumerated
from relay.core.subscriptions.subscription import PORTAL, Subscription
from relay.errors import FieldError
from subscribers import base
from subscribers.base import RenderContext
from subscribers.common import crm
from subscribers.hubspot import requests
from subscribers.hubspot.answers import CREATE_PROPERTIES, ID, Answer, object_id, read_answer
from subscribers.hubspot.options import NOTE, PROPERTIES, RECORDS, TASK, HubSpotOptions
from subscribers.hubspot.questions import was_made
from subscribers.hubspot.render import (
    KEY_PROPERTY,
    UPDATED_AT,
    Content,
    content_of,
    made_of,
    needed_properties,
    record_errors,
)
from subscribers.wording.text import mapping

HOSTS = r"api(-[a-z0-9]{1,10})?\.hubapi\.com"
LATE_SECONDS = 300.0
"""Older events set properties only if no newer event has: a replay must not overwrite newer values."""

Asked = Generator[Step, Response, Answer]
Asks = Generator[Step, Response, Outcome | None]
"""Returns the outcome if it ends the delivery."""

_SINK = "https://api.hubapi.com"
_IDS = {"contact_id": ID, "deal_id": ID}
_METADATA = {"contacts": "contact_id", "deals": "deal_id"}
_SAID = {
    PROPERTIES: "properties of the contact and the deal",
    NOTE: "a note",
    TASK: "after a failure a task",
}
_TOKENS = ("ACCESSTOKEN", "REFRESHTOKEN")


class HubSpot(crm.Crm):
    """Writes the outcome of a job to its contact and its deal."""

    name = "hubspot"
    title = "HubSpot"
    by_name = base.ByName(
        token="service key (HubSpot: Development, Keys, Service keys)",  # noqa: S106  (no token)
        home=_SINK,
        names="contact_id, deal_id or email",
        example='{"email": "jane@example.com"}',
    )
    options = HubSpotOptions
    rate_per_second: float | None = 2.5
    """HubSpot's lowest limit is 100 requests in 10 seconds, and an event takes up to four."""

    def check(self, subscription: Subscription) -> None:
        """Refuses URLs with a path, settings that HubSpot ignores, invalid options, and a missing token."""
        errors = crm.common_errors(subscription, "HubSpot", _SINK)
        base.refuse([*errors, *_credential_errors(subscription), *record_errors(subscription)])

    def records(self, options: HubSpotOptions) -> str:
        """See `Crm`."""
        given = options.record or RECORDS
        return enumerated([_SAID[one] for one in ((given,) if isinstance(given, str) else given)])

    def dialogue(self, subscription: Subscription) -> base.Dialogue | None:
        """Always."""
        return HUBSPOT

    def portal(self, subscription: Subscription) -> str | None:
        """The account, else the token: HubSpot counts the requests of each token."""
        return portal_of(subscription)

    def greeting(self, subscription: Subscription, now: float) -> Steps | None:
        """Reads the account, and reads or creates the properties that deliveries need."""
        return _greeting(subscription, now)


def portal_of(subscription: Subscription) -> str:
    """The account that a subscription writes to, else the token."""
    credential = subscription.credential
    return f"hubspot/{subscription.options.get(PORTAL) or (credential.id if credential else '')}"


# --- memory


@dataclass(kw_only=True)
class Written:
    """The records of one event in HubSpot.

    ids     of the contact, the deal, the note and the task, by the type of object
    intent  the note or task that may have been created
    keyed   the intent has our key in a separate property
    portal  the account of these records
    """

    portal: str
    ids: dict[str, str] = field(default_factory=dict)
    intent: Entry | None = None
    keyed: bool = False

    @classmethod
    def read(cls, memory: Memory, portal: str) -> "Written":
        """Reads a stored memory, without its invalid parts."""
        made = mapping(memory.get(ledger.MADE))
        ids = {
            object: id
            for object, given in made.items()
            if object in ("contacts", "deals", "notes", "tasks") and (id := object_id(given)) is not None
        }
        intent = ledger.read_entry(memory) if memory.get("state") == "intended" else None
        before = made.get("portal")
        return cls(
            portal=before if isinstance(before, str) else portal,
            ids=ids,
            intent=intent,
            keyed=memory.get("keyed") is True,
        )

    def memory(self) -> Memory:
        """The memory to store: ids only, no text and no address."""
        state = {"state": "written"} if self.intent is None else self.intent.memory()
        return {**state, "keyed": self.keyed, ledger.MADE: {"portal": self.portal, **self.ids}}

    def intends(self, object: str, now: float, *, keyed: bool) -> Memory:
        """The memory to store before an object is created."""
        target: dict[str, str | int] = {_METADATA[one]: id for one, id in self.ids.items() if one in _METADATA}
        self.intent = Entry(record=object.removesuffix("s"), target=target, portal=self.portal, at=now)
        self.keyed = keyed
        return self.memory()

    @property
    def about(self) -> list[tuple[str, str]]:
        """The contact and the deal that a note or a task is associated with."""
        return [(object, id) for object, id in self.ids.items() if object in _METADATA]


def _key(event: Event, subscription: Subscription) -> str | None:
    """None if the event creates no note or task."""
    return ledger.event_key(event.id) if made_of(event, subscription) else None


def _steps(event: Event, subscription: Subscription, context: RenderContext, memory: Memory, now: float) -> Steps:
    """Looks up a note or task that may have been created. Then updates the contact and the deal, which returns their
    ids, and creates the note and the task for them."""
    return (yield from _Delivery(event, subscription, context, memory, now).steps())


HUBSPOT = base.Dialogue(key=_key, steps=_steps)
"""How an event is delivered."""


class _Delivery:
    """One attempt."""

    def __init__(
        self, event: Event, subscription: Subscription, context: RenderContext, memory: Memory, now: float
    ) -> None:
        self._event, self._subscription, self._context, self._now = event, subscription, context, now
        self._portal = portal_of(subscription)
        self._written = Written.read(memory, self._portal)
        self._is_settled = "state" not in memory
        """True once a person has resolved the doubt: the record does not exist."""
        self._key = crm.key_of(event, subscription)
        self._pause: float | None = None

    def steps(self) -> Steps:
        made, written = made_of(self._event, self._subscription), self._written
        if written.intent is None and made and all(object in written.ids for object in made):
            return Ended(outcome=ledger.WRITTEN)
        if written.portal != self._portal:
            begun = written.intent is not None or not written.ids.keys().isdisjoint(("notes", "tasks"))
            if begun and not self._is_settled:
                return Ended(outcome=ledger.uncertain("written_elsewhere"))
            written = self._written = Written(portal=self._portal)
        if written.intent is not None:
            outcome = yield from self._resolve(written.intent)
            if outcome is not None:
                return self._ended(ledger.still_in_doubt(outcome))
        left = [object for object in made if object not in written.ids]
        if made and not left:
            return self._ended(ledger.WRITTEN)
        content = content_of(self._event, self._subscription, self._context)
        outcome = yield from self._write_targets(content)
        if outcome is not None:
            return self._ended(outcome)
        for object in left:
            outcome = yield from self._make(object, content.made[object])
            if outcome is not None:
                return self._ended(outcome)
        return self._ended(Outcome(verdict="delivered", reason="ok"))

    def _ended(self, outcome: Outcome) -> Ended:
        """Adds the pause from the last answer, and the memory."""
        if outcome.verdict == "delivered" and self._pause is not None:
            outcome = replace(outcome, retry_after_seconds=self._pause)
        written = self._written
        if _key(self._event, self._subscription) is None:
            return Ended(outcome=outcome)
        return Ended(outcome=outcome, remember=written.memory() if written.ids or written.intent else ledger.CLEARED)

    def _ask(self, step: Step, *, about_object: bool = True) -> Asked:
        answer = read_answer((yield step), self._now, about_object=about_object)
        self._pause = answer.outcome.retry_after_seconds
        return answer

    # --- contact and deal

    def _write_targets(self, content: Content) -> Asks:
        """Updates the contact and the deal. Returns an outcome if it ends the delivery."""
        who = crm.identity(self._event, self._context, _IDS)
        contact, deal = who.ids.get("contact_id"), who.ids.get("deal_id")
        targets: list[tuple[str, str, bool]] = []
        if contact is not None or who.email is not None:
            targets.append(("contacts", str(contact or who.email), contact is None))
        if deal is not None:
            targets.append(("deals", str(deal), False))
        policy = HubSpotOptions.of(self._subscription).unmatched
        for object, id, by_email in targets:
            if object in self._written.ids:
                continue
            answer = yield from self._write(object, id, content.properties, by_email=by_email)
            if answer.missing and object == "contacts" and policy == "create" and who.email is not None:
                answer = yield from self._create_contact(who.email, content.properties)
            if answer.id is not None:
                self._written.ids[object] = answer.id
            elif not answer.missing:
                return answer.outcome
            elif policy == "fail":
                return crm.not_matched(self._subscription, "unmatched")
        return None if self._written.about else crm.not_matched(self._subscription, "unmatched")

    def _write(self, object: str, id: str, properties: Mapping[str, str] | None, *, by_email: bool) -> Asked:
        """Sets properties. Only reads the object if there are none to set, or if it has newer ones."""
        if properties is None:
            return (yield from self._ask(requests.read(self._subscription, object, id, by_email=by_email)))
        if UPDATED_AT in properties and self._now - self._event.time > LATE_SECONDS:
            step = requests.read(self._subscription, object, id, UPDATED_AT, by_email=by_email)
            answer = yield from self._ask(step)
            newest = _seconds(mapping(answer.document.get("properties")).get(UPDATED_AT))
            if not answer.ok or (newest is not None and newest > self._event.time):
                return answer
        step = requests.update(self._subscription, object, id, properties, by_email=by_email)
        return (yield from self._ask(step))

    def _create_contact(self, email: str, properties: Mapping[str, str] | None) -> Asked:
        """Creates a contact. May be repeated: addresses are unique, and HubSpot then returns the existing contact."""
        values = {**(properties or {}), "email": email}
        answer = yield from self._ask(requests.create(self._subscription, "contacts", values))
        if answer.existing is None:
            conflict = Answer(outcome=Outcome(verdict="retry", reason="conflict"))
            return conflict if answer.taken is not None or answer.missing else answer
        answer = yield from self._write("contacts", answer.existing, properties, by_email=False)
        if answer.missing:  # deleted, or merged into another one, since
            return Answer(outcome=Outcome(verdict="retry", reason="conflict"))
        return answer

    # --- note and task

    def _resolve(self, intent: Entry) -> Asks:
        """Looks up the note or task that may have been created. Returns None once its fate is known."""
        object, written = f"{intent.record}s", self._written
        if object not in ("notes", "tasks"):
            return ledger.uncertain("unreadable")
        found = yield from was_made(
            self._ask, self._subscription, object, self._key, intent, written.about, self._now, keyed=written.keyed
        )
        if isinstance(found, Outcome):
            written.intent = replace(intent, at=min(intent.at, self._now))  # the clock may have been set back
            return found
        written.intent = None
        if found is not None:
            written.ids[object] = found
        return None

    def _make(self, object: str, properties: Mapping[str, str]) -> Asks:
        """Creates a note or a task. Returns an outcome if it ends the delivery."""
        written = self._written
        for keyed in (True, False):
            values = {**properties, KEY_PROPERTY: self._key} if keyed else properties
            remember = written.intends(object, self._now, keyed=keyed)
            step = requests.create(self._subscription, object, values, written.about, remember)
            answer = yield from self._ask(step)
            if not (keyed and KEY_PROPERTY in answer.unknown):
                break
        if answer.id is None and answer.taken is not None and KEY_PROPERTY in (answer.taken or (KEY_PROPERTY,)):
            return (yield from self._taken(object, answer))
        if answer.id is not None:
            written.ids[object], written.intent = answer.id, None
            return None
        if answer.doubtful:
            return replace(answer.outcome, in_doubt=True)
        written.intent = None
        if answer.missing:  # the contact or the deal was deleted since: the next attempt looks it up
            written.ids = {name: id for name, id in written.ids.items() if name not in _METADATA}
            return Outcome(verdict="retry", reason="target_deleted")
        return answer.outcome

    def _taken(self, object: str, refusal: Answer) -> Asks:
        """Handles a key that exists: an earlier attempt created the record, and its memory is lost."""
        answer = yield from self._ask(requests.read_by_key(self._subscription, object, self._key))
        if answer.id is None:
            if answer.missing:  # it is not visible yet
                return replace(refusal.outcome, verdict="retry", in_doubt=True)
            return ledger.still_in_doubt(answer.outcome)
        self._written.ids[object], self._written.intent = answer.id, None
        return None


def _seconds(value: object) -> float | None:
    """A time of HubSpot, in epoch seconds: milliseconds, or RFC 3339."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        return int(value) / 1000 if value.isdecimal() else from_rfc3339(value)
    except ValueError:
        return None


# --- check of a new subscription


def _greeting(subscription: Subscription, now: float) -> Steps:
    """Reads the account, then the properties of each type of object."""
    create = HubSpotOptions.of(subscription).create_properties
    answer = read_answer((yield requests.account(subscription)), now, about_object=False)
    portal = str(answer.document.get("portalId"))
    if answer.ok and not ID.fullmatch(portal):
        return Ended(outcome=Outcome(verdict="retry", reason="the answer names no account"))
    for object, definitions in needed_properties(subscription).items():
        if answer.ok:
            answer = yield from _properties(subscription, object, definitions, now, create=create)
    return Ended(outcome=answer.outcome, remember={PORTAL: portal} if answer.ok else None)


def _properties(
    subscription: Subscription, object: str, definitions: Sequence[Mapping[str, Any]], now: float, *, create: bool
) -> Asked:
    """Reads or creates properties of one type of object. Two refusals are accepted: deliveries work without a
    unique key property; and without the scopes of deals, only events with a deal fail."""
    steps = [requests.create_group(subscription, object)] if create else []
    make = requests.create_property if create else requests.read_property
    steps += [make(subscription, object, definition) for definition in definitions]
    for step in steps:
        answer = read_answer((yield step), now, about_object=False)
        if answer.ok or answer.taken is not None:
            continue
        if object == "deals" and answer.forbidden:
            break
        if object in ("notes", "tasks") and (answer.missing or answer.outcome.verdict == "dead"):
            continue
        if answer.missing:
            reason = f"{answer.outcome.reason}: could not {step.name}: {CREATE_PROPERTIES}"
            return replace(answer, outcome=replace(answer.outcome, reason=reason))
        return answer
    return Answer(outcome=Outcome(verdict="delivered", reason="ok"))


def _credential_errors(subscription: Subscription) -> list[FieldError]:
    credential = subscription.credential
    if credential is not None and credential.type in _TOKENS:
        return []
    detail = (
        "a service key is needed (HubSpot: Development, Keys, Service keys): "
        '{"credentialtype": "ACCESSTOKEN", "accesstoken": "pat-…"}'
    )
    code = "missing" if credential is None else "credential_unsuitable"
    return [FieldError(pointer="/sinkcredential", code=code, detail=detail)]
