"""docs/design/states.md draws the code's state machines: their states are the same, and every function exists."""

import importlib
import re
from functools import reduce
from pathlib import Path
from typing import NamedTuple, get_args

import pytest

from relay.core.deliveries.delivery import DeliveryState
from relay.core.deliveries.replay import ReplayState
from relay.core.incidents import IncidentState
from relay.core.jobs.job import JOB_EVENTS
from relay.core.records import Resolution
from relay.core.subscriptions.subscription import State as SubscriptionState

ROOT = Path(__file__).resolve().parents[2]
ARROW = re.compile(r"^ +(\S+) --> (\S+): (\S+)$")
END = "[*]"

STATES = {
    "Job": {*JOB_EVENTS, "tracked", "untracked"} - {"overdue", "progress"},
    "Delivery": {*get_args(DeliveryState), "blocked"},
    "Lease of a delivery": {"free", "held"},
    "Subscription": {*get_args(SubscriptionState)},
    "Intent": {*get_args(Resolution), "in_flight", "unknown"},
    "Incident": {*get_args(IncidentState)},
    "Replay": {*get_args(ReplayState)},
    "Lease of a polling account": {"free", "held"},
}


class Arrow(NamedTuple):
    source: str
    target: str
    function: str


def diagrams() -> dict[str, list[Arrow]]:
    text = (ROOT / "docs" / "design" / "states.md").read_text(encoding="utf-8")
    found: dict[str, list[Arrow]] = {}
    for section in text.split("\n## ")[1:]:
        drawn = re.search(r"```mermaid\nstateDiagram-v2\n(.*?)```", section, re.DOTALL)
        assert drawn is not None, f"no diagram in {section[:30]!r}"
        lines = drawn[1].splitlines()
        arrows = [Arrow(*match.groups()) for line in lines if (match := ARROW.match(line))]
        assert len(arrows) == len(lines), f"a line that is no arrow: {lines}"
        found[section.split("\n", 1)[0]] = arrows
    return found


DIAGRAMS = diagrams()


def test_the_document_has_a_diagram_of_each_state_machine() -> None:
    assert set(DIAGRAMS) == set(STATES)


@pytest.mark.parametrize("name", STATES)
def test_diagram_has_every_state_of_the_code_and_no_other(name: str) -> None:
    drawn = {state for arrow in DIAGRAMS[name] for state in (arrow.source, arrow.target)} - {END}
    assert drawn == STATES[name]


@pytest.mark.parametrize("name", STATES)
def test_every_state_is_entered_and_left(name: str) -> None:
    for state in STATES[name]:
        others = [arrow for arrow in DIAGRAMS[name] if arrow.source != arrow.target]
        assert any(arrow.target == state for arrow in others), f"no arrow leads to {state}"
        if state != "status_unknown":
            assert any(arrow.source == state for arrow in others), f"no arrow leaves {state}"


@pytest.mark.parametrize("function", sorted({arrow.function for arrows in DIAGRAMS.values() for arrow in arrows}))
def test_function_of_an_arrow_exists(function: str) -> None:
    assert callable(resolved(function))


def resolved(function: str) -> object:
    """The object with this dotted name below `relay`."""
    parts = function.split(".")
    for length in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(("relay", *parts[:length])))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[length:], module)
    raise AssertionError(f"no module for {function}")
