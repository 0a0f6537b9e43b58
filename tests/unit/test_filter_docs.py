"""The examples of docs/reference/filters.md: each is a list of valid filters and does what its sentence says."""

import json
import re
from typing import Any

import pytest

from relay.core.samples import sample_event
from relay.core.subscriptions import filters
from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import parse_filters
from tests.unit.test_docs import ROOT

PAGE = (ROOT / "docs" / "reference" / "filters.md").read_text()
EXAMPLES = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]


def event(kind: str, data: dict[str, Any] | None = None, **attributes: str) -> EventView:
    from tests.unit.core.test_events import ORIGIN

    made = sample_event(
        f"{ORIGIN.type_prefix}.{kind}", event_id="evt_1", now=1e9, origin=ORIGIN, dataschema_base="https://relay.test"
    )
    document = {**made.document(), **attributes}
    document["type"] = f"ai.revor.job.{kind}"
    document["data"] |= data or {}
    return EventView(json.dumps(document).encode())


TAGGED = event("queued", {"metadata": {"tags": ["vip"]}})


@pytest.mark.parametrize(
    ("number", "let_through", "held_back"),
    [
        (0, event("failed", group="spring"), event("failed", group="test-1")),
        (0, event("failed"), event("succeeded")),
        (0, event("failed", channel="linkedin"), event("failed", channel="email")),
        (1, event("failed"), event("queued")),
        (1, event("succeeded", resultstatus="accepted"), event("succeeded", resultstatus="skipped")),
        (2, TAGGED, event("queued", {"metadata": {"tags": []}})),
        (2, event("queued", group="spring-1"), event("queued", group="autumn")),
        (2, TAGGED, event("queued")),
        (3, event("failed", {"hint": {"repeat": "safe"}}), event("failed", {"hint": {"repeat": "may_send_twice"}})),
        (3, event("failed", {"hint": {"repeat": "safe"}}), event("succeeded")),
    ],
)
def test_examples_do_what_they_say(number: int, let_through: EventView, held_back: EventView) -> None:
    parsed = parse_filters(EXAMPLES[number])
    assert parsed.passes(let_through), parsed.why_not(let_through)
    assert not parsed.passes(held_back)


def test_every_example_is_tried() -> None:
    assert len(EXAMPLES) == 4


def test_what_is_written_instead_of_cel_is_allowed() -> None:
    upgrading = (ROOT / "docs" / "operate" / "upgrading.md").read_text()
    section = upgrading.partition("## Filters instead of CEL\n")[2].partition("\n## ")[0]
    assert section
    shown = [json.loads(text) for text in re.findall(r"`(\{[^`]+\})`", section) if '"cel"' not in text]
    assert len(shown) >= 13
    for one in (*shown, *(json.loads(text) for text in re.findall(r"\| `(\{.+?\})` \|$", PAGE, re.MULTILINE))):
        parse_filters([one])
    assert "docs/operate/upgrading.md" in filters.INSTEAD_OF_CEL
    assert "Filters instead of CEL" in filters.INSTEAD_OF_CEL
