"""The stand-in of HubSpot's CRM API (`relay/cli/demo/vendors/hubspot.py`) for tests: a subscription to it, which
remembers as the store does and can be killed."""

from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.routing import Route

from relay.cli.demo.vendors.endpoint import Answer
from relay.cli.demo.vendors.hubspot import TOKEN, Definition, Fault, HubSpot, Record
from relay.core.credentials import SinkCredential, origin_text
from relay.core.delivery import OutboundRequest, Outcome, Response
from relay.core.dialogue import Ended, Memory, Steps
from relay.core.events import Event
from relay.core.subscription import Subscription
from subscribers.base import RenderContext
from subscribers.hubspot import HUBSPOT, KEY_PROPERTY, definitions, set_up

__all__ = ["TOKEN", "Account", "Definition", "Fault", "HubSpot", "Record", "app", "subscription"]

NOW = 1779271208.0
SINK = "https://api.hubapi.com"
CONTEXT = RenderContext(public_url="https://relay.example")


def app(hubspot: HubSpot) -> Starlette:
    """The account over HTTP."""
    methods = ["GET", "POST", "PATCH", "PUT", "DELETE"]
    return Starlette(routes=[Route("/{path:path}", hubspot.receive, methods=methods)])


def subscription(sink: str = SINK, token: str = TOKEN, **fields: Any) -> Subscription:
    fields_of = {"credentialtype": "ACCESSTOKEN", "accesstoken": token}
    credential = SinkCredential(id="crd_1", origin=origin_text(sink), fields=fields_of)
    return Subscription(id="sub_1", sink=sink, **{"kind": "hubspot", "credential": credential, **fields})


def response_of(answer: Answer) -> Response:
    if not answer.status:
        return Response(started_at=NOW, duration_ms=1.0, error="read", detail="the connection broke")
    return Response(
        started_at=NOW, duration_ms=1.0, status_code=answer.status, headers=answer.headers, excerpt=answer.body
    )


class Account:
    """A subscription to the stand-in. `ready`: the properties of the relay are there."""

    def __init__(self, *, ready: bool = True, **options: Any) -> None:
        self.hubspot = HubSpot(burst=100_000)
        self.subscription = subscription(options=options)
        self.memories: dict[str, Memory] = {}
        self.requests: list[OutboundRequest] = []
        self.token = TOKEN
        if ready:
            for object, known in self.hubspot.definitions.items():
                for one in definitions(object):
                    unique = one["name"] == KEY_PROPERTY
                    known[one["name"]] = Definition(name=one["name"], type=one["type"], unique=unique)

    def deliver(self, event: Event, *, dies_before: int | None = None, dies_after: int | None = None) -> Outcome:
        """One attempt. The process is killed before a request is sent, or after HubSpot has carried it out; from 0."""
        key = HUBSPOT.key(event, self.subscription)
        memory = self.memories.get(key or "", {})
        return self.run(
            HUBSPOT.steps(event, self.subscription, CONTEXT, memory, NOW),
            key,
            dies_before=dies_before,
            dies_after=dies_after,
        )

    def set_up(self, *, create: bool) -> Outcome:
        return self.run(set_up(self.subscription, create=create, now=NOW), None)

    def run(
        self, steps: Steps, key: str | None, *, dies_before: int | None = None, dies_after: int | None = None
    ) -> Outcome:
        killed = Outcome(verdict="retry", reason="killed")
        sent = 0
        try:
            step = next(steps)
            while True:
                if step.remember is not None:
                    assert key is not None
                    self.memories[key] = _stored(step.remember)
                if sent == dies_before:
                    return killed
                self.requests.append(step.request)
                headers = {**dict(step.request.headers), "Authorization": f"Bearer {self.token}"}
                answer = self.hubspot.answer(step.request.method, step.request.url, headers, step.request.body)
                if sent == dies_after:
                    return killed
                sent += 1
                step = steps.send(response_of(answer))
        except StopIteration as end:
            ended = end.value
        assert isinstance(ended, Ended)
        if ended.remember is not None:
            assert key is not None
            self.memories[key] = _stored(ended.remember)
        return ended.outcome

    @property
    def operations(self) -> list[str]:
        return [operation for operation, _ in self.hubspot.calls]


def _stored(memory: Memory) -> Memory:
    body = orjson.dumps(dict(memory))
    assert len(body) <= 16_384
    stored: Memory = orjson.loads(body)
    return stored
