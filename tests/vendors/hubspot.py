"""The stand-in of HubSpot's CRM API (`relay/cli/demo/vendors/hubspot.py`) for tests: a subscription to it, which
remembers as the store does and can be killed."""

from dataclasses import replace
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.routing import Route

from relay.cli.demo.vendors import hubspot
from relay.cli.demo.vendors.endpoint import Answer
from relay.cli.demo.vendors.hubspot import PORTAL, TOKEN, Definition, Fault, Record
from relay.core.credentials import SinkCredential, origin_text
from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.dialogue import Ended, Memory, Step, Steps
from relay.core.events import Event
from relay.core.subscription import Subscription
from subscribers.base import RenderContext
from subscribers.hubspot import HUBSPOT
from subscribers.hubspot import HubSpot as Kind
from subscribers.hubspot_records import KEY, OWN_PROPERTIES

__all__ = ["PORTAL", "TOKEN", "Account", "Definition", "Fault", "HubSpot", "Record", "app", "prepare", "subscription"]

NOW = 1779271208.0
SINK = "https://api.hubapi.com"
CONTEXT = RenderContext(public_url="https://relay.example")
READ_BYTES = 65_536
KILLED = Outcome(verdict="retry", reason="killed")


class HubSpot(hubspot.HubSpot):
    """One account."""

    def merge(self, kind: str, id: str, into: str) -> None:
        """Somebody merges an object into another one."""
        record, other = self.records[kind].pop(id), self.records[kind][into]
        self.merged[kind, id] = into
        for made in (*self.records["notes"].values(), *self.records["tasks"].values()):
            if (kind, id) in made.about:
                made.about = {*made.about - {(kind, id)}, (kind, into)}
        if "email" in record.properties:
            self.addresses[record.properties["email"].lower()] = into
        other.properties = {**record.properties, **other.properties}


def app(hubspot: HubSpot) -> Starlette:
    """The account over HTTP."""
    methods = ["GET", "POST", "PATCH", "PUT", "DELETE"]
    return Starlette(routes=[Route("/{path:path}", hubspot.receive, methods=methods)])


def subscription(sink: str = SINK, token: str = TOKEN, **fields: Any) -> Subscription:
    fields_of = {"credentialtype": "ACCESSTOKEN", "accesstoken": token}
    credential = SinkCredential(id="crd_1", origin=origin_text(sink), fields=fields_of)
    return Subscription(id="sub_1", sink=sink, **{"kind": "hubspot", "credential": credential, **fields})


def prepare(hubspot: HubSpot, *, keyed: bool = True) -> None:
    """Makes the properties of the relay. Not `keyed`: without the key of notes and tasks."""
    for object in ("contacts", "deals"):
        for one in OWN_PROPERTIES:
            hubspot.definitions[object][one["name"]] = Definition(name=one["name"], type=one["type"])
    for object in ("notes", "tasks") if keyed else ():
        hubspot.definitions[object][KEY["name"]] = Definition(name=KEY["name"], unique=True)


def response_of(answer: Answer) -> Response:
    if not answer.status:
        return Response(started_at=NOW, duration_ms=1.0, error="read", detail="the connection broke")
    return Response(
        started_at=NOW,
        duration_ms=1.0,
        status_code=answer.status,
        headers=answer.headers,
        excerpt=answer.body[:READ_BYTES],
    )


class Account:
    """A subscription to the stand-in. `ready`: the properties of the relay are there; `keyed`: the key too."""

    def __init__(self, *, ready: bool = True, keyed: bool = True, **options: Any) -> None:
        self.now = NOW
        self.hubspot = HubSpot(burst=100_000, now=lambda: self.now)
        self.subscription = subscription(options=options)
        self.context = CONTEXT
        self.memories: dict[str, Memory] = {}
        self.steps: list[Step] = []
        self.token = TOKEN
        if ready:
            prepare(self.hubspot, keyed=keyed)

    def deliver(self, event: Event, *, dies_before: int | None = None, dies_after: int | None = None) -> Outcome:
        """One attempt. The process is killed before a request is sent, or after HubSpot has carried it out; from 0."""
        key = HUBSPOT.key(event, self.subscription)
        memory = self.memories.get(key or "", {})
        steps = HUBSPOT.steps(event, self.subscription, self.context, memory, self.now)
        return self.run(steps, key, dies_before=dies_before, dies_after=dies_after).outcome

    def greet(self, **options: Any) -> Ended:
        steps = Kind().greeting(replace(self.subscription, options=options), self.now)
        assert steps is not None
        return self.run(steps, None)

    def run(
        self, steps: Steps, key: str | None, *, dies_before: int | None = None, dies_after: int | None = None
    ) -> Ended:
        sent = 0
        try:
            step = next(steps)
            while True:
                assert step.private
                if step.remember is not None:
                    assert key is not None
                    self.memories[key] = _stored(step.remember)
                if sent == dies_before:
                    return Ended(outcome=KILLED)
                self.steps.append(step)
                response = response_of(self.answer(step.request))
                if sent == dies_after:
                    return Ended(outcome=KILLED)
                sent += 1
                step = steps.send(response)
        except StopIteration as end:
            ended = end.value
        assert isinstance(ended, Ended)
        if ended.remember is not None and key is not None:
            self.memories[key] = _stored(ended.remember)
        return ended

    def answer(self, request: OutboundRequest) -> Answer:
        headers = {**dict(request.headers), "Authorization": f"Bearer {self.token}"}
        return self.hubspot.answer(request.method, request.url, headers, request.body)

    @property
    def operations(self) -> list[str]:
        return [operation for operation, _ in self.hubspot.calls]


def _stored(memory: Memory) -> Memory:
    body = orjson.dumps(dict(memory))
    assert len(body) <= 16_384
    stored: Memory = orjson.loads(body)
    return stored
