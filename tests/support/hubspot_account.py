"""A subscription to the stand-in of HubSpot, which remembers as the store does and can be killed."""

from dataclasses import replace
from typing import Any

import orjson

from relay.core.deliveries.credentials import SinkCredential, origin_text
from relay.core.deliveries.delivery import OutboundRequest, Outcome, Response
from relay.core.deliveries.dialogue import Ended, Memory, Step, Steps
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from subscribers.base import RenderContext
from subscribers.hubspot import HubSpot as Kind
from subscribers.hubspot.dialogue import DIALOGUE
from subscribers.hubspot.render import KEY, OWN_PROPERTIES
from tests.vendors.hubspot import TOKEN, Definition, HubSpot

NOW = 1779271208.0
SINK = "https://api.hubapi.com"
CONTEXT = RenderContext(public_url="https://relay.example")
KILLED = Outcome(verdict="retry", reason="killed")


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
        key = DIALOGUE.key(event, self.subscription)
        memory = self.memories.get(key or "", {})
        steps = DIALOGUE.steps(event, self.subscription, self.context, memory, self.now)
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
                    self.memories[key] = stored(step.remember)
                if sent == dies_before:
                    return Ended(outcome=KILLED)
                self.steps.append(step)
                response = self.take(step.request)
                if sent == dies_after:
                    return Ended(outcome=KILLED)
                sent += 1
                step = steps.send(response)
        except StopIteration as end:
            ended = end.value
        assert isinstance(ended, Ended)
        if ended.remember is not None and key is not None:
            self.memories[key] = stored(ended.remember)
        return ended

    def take(self, request: OutboundRequest) -> Response:
        headers = (*request.headers, ("Authorization", f"Bearer {self.token}"))
        return self.hubspot.take(replace(request, headers=headers))

    @property
    def operations(self) -> list[str]:
        return [operation for operation, _ in self.hubspot.calls]


def stored(memory: Memory) -> Memory:
    """A memory as the store gives it back."""
    body = orjson.dumps(dict(memory))
    assert len(body) <= 16_384
    stored: Memory = orjson.loads(body)
    return stored
