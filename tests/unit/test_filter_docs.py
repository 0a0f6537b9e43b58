"""The examples of docs/filters.md: each is a list of filters that is allowed and does what its sentence says."""

import json
import re
from typing import Any

import pytest

from relay.core import filters
from relay.core.filters import EventView, parse_filters
from relay.core.samples import sample_event
from relay.expressions import cel, event_filters
from relay.expressions.cel import compile_cel
from tests.unit.test_docs import ROOT

PAGE = (ROOT / "docs" / "filters.md").read_text()
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
        (2, event("queued", {"metadata": {"deal": 41}}), event("queued", {"metadata": {"deal": 40}})),
        (2, event("queued", {"metadata": {"deal": 41}}), event("queued", {"metadata": {}})),
        (3, TAGGED, event("queued", {"metadata": {"tags": []}})),
        (3, event("queued", group="spring-1"), event("queued", group="autumn")),
        (3, TAGGED, event("queued")),
        (4, event("failed", {"hint": {"repeat": "safe"}}), event("failed", {"hint": {"repeat": "may_send_twice"}})),
        (4, event("failed", {"hint": {"repeat": "safe"}}), event("succeeded")),
    ],
)
def test_examples_do_what_they_say(number: int, let_through: EventView, held_back: EventView) -> None:
    parsed = parse_filters(EXAMPLES[number], compile_cel)
    assert parsed.passes(let_through), parsed.why_not(let_through)
    assert not parsed.passes(held_back)


def test_every_example_is_tried() -> None:
    assert len(EXAMPLES) == 5


def test_limits_are_as_documented() -> None:
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE))
    for what, limit in (
        ("filters of a subscription, nested ones included", filters.MAX_FILTERS),
        ("levels of nesting", filters.MAX_FILTER_LEVELS),
        ("attributes in one `exact`, `prefix` or `suffix`", filters.MAX_COMPARED),
        ("characters of a text to compare with", filters.MAX_OPERAND_CHARACTERS),
        ("expressions of a subscription", filters.MAX_EXPRESSIONS),
        ("characters of an expression", cel.MAX_CHARACTERS),
        ("levels of brackets", cel.MAX_BRACKETS),
    ):
        assert rows[what] == f"{limit:,}", what
    for seconds in (filters.MAX_EVALUATION_SECONDS, event_filters.MAX_EVENT_SECONDS):
        assert f"{seconds * 1e3:.0f} ms" in rows["expressions of a subscription, for one event"]
    assert f"{cel.MAX_REGEX_SECONDS * 1e3:.0f} ms" in rows["regular expressions"]


def test_dialects_functions_and_attributes_are_documented() -> None:
    quoted = set(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)))
    assert {*filters.DIALECTS, *filters.ATTRIBUTES} <= quoted
    assert quoted >= cel.FUNCTIONS | cel.METHODS | cel.MACROS
