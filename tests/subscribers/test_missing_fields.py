"""Every kind renders every type of event, whichever field of its data is missing or empty.

An error while rendering would end the delivery as dead.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from relay.core.deliveries.dialogue import previewed
from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.subscriptions.filters import known_types
from relay.core.subscriptions.subscription import PROTOCOLS, Subscription
from subscribers import registry
from subscribers.base import Kind, RenderContext
from tests.support.job_events import NOW, OF_SAMPLES, sample

SAMPLES = [sample(type) for type in known_types([OF_SAMPLES])]
CONTEXT = RenderContext(public_url="https://relay.example", search_keys=("deal",))
BELOW = ("hint", "counts")
"""Objects in the data whose own fields are left out as well."""
ATTRIBUTES = ("channel", "action", "status", "subject", "account")
KINDS = {name: kind for name, kind in registry.kinds().items() if name not in {"webhook", *PROTOCOLS}}
"""Those that put events in words or fields. The others send them as they are."""


def incomplete(document: Mapping[str, Any], turn: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The documents that lack one field, by its path: it is missing or null, by turns. First the one without data."""
    data = document["data"]
    yield "data", {**document, "data": {}}
    paths = [(name,) for name in ATTRIBUTES if name in document] + [("data", name) for name in data]
    paths += [("data", name, inner) for name in BELOW for inner in data.get(name) or ()]
    for number, path in enumerate(paths, start=turn):
        yield ".".join(path), changed(document, path, missing=number % 2 == 0)


def changed(document: Mapping[str, Any], path: Sequence[str], *, missing: bool) -> Mapping[str, Any]:
    name, *below = path
    if below:
        return {**document, name: changed(document[name], below, missing=missing)}
    rest = {key: value for key, value in document.items() if key != name}
    return rest if missing else {**rest, name: None}


INCOMPLETE = [
    (event.type, path, replace(event, body=dumps(document)))
    for turn, event in enumerate(SAMPLES)
    for path, document in incomplete(event.document(), turn)
]


def rendered(kind: Kind, event: Event, subscription: Subscription) -> None:
    dialogue = kind.dialogue(subscription)
    if dialogue is not None:
        previewed(dialogue.steps(event, subscription, CONTEXT, {}, NOW))
    else:
        kind.render(event, subscription, CONTEXT)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_every_event_is_rendered_whichever_field_is_missing(kind: Kind) -> None:
    subscription = Subscription(id="sub_1", sink="https://hooks.slack.com/services/T0/B0/secret", kind=kind.name)
    failed = []
    for type, path, event in INCOMPLETE:
        try:
            rendered(kind, event, subscription)
        except Exception as error:
            failed.append(f"{type} without {path}: {error!r}")
    assert failed == []


@pytest.mark.parametrize("name", ["slack", "teams", "discord"])
def test_every_digest_is_rendered_whichever_fields_are_missing(name: str) -> None:
    subscription = Subscription(id="sub_1", sink="https://hooks.example/x", kind=name)
    kind = registry.kind_named(name)
    for begin in range(0, len(INCOMPLETE), 40):
        kind.render_bundle([event for *_, event in INCOMPLETE[begin : begin + 40]], subscription, CONTEXT)
