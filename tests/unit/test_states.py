"""docs/states.md draws the state machines that the code has: every function and state exists, and none is missing."""

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache, reduce
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
    "Job": {*JOB_EVENTS, "tracked", "untracked"} - {"overdue"},
    "Delivery": {*get_args(DeliveryState), "blocked"},
    "Lease of a delivery": {"free", "held"},
    "Subscription": {*get_args(SubscriptionState)},
    "Intent": {*get_args(Resolution), "in_flight", "unknown"},
    "Incident": {*get_args(IncidentState)},
    "Replay": {*get_args(ReplayState)},
    "Lease of a polling account": {"free", "held"},
}
WRITES = {
    "Delivery": r"UPDATE deliveries SET (?:(?!WHERE|FROM).)*\bstate = ",
    "Lease of a delivery": r"UPDATE deliveries SET (?:(?!WHERE|FROM).)*\blease_token = ",
    "Subscription": r"UPDATE subscriptions SET (?:(?!WHERE id).)*\bstate = ",
    "Intent": r"UPDATE intents SET (?:(?!WHERE).)*\b(?:fate|reason) = ",
    "Incident": r"incidents? .*DO UPDATE SET .*state = |IncidentRow.*DO UPDATE SET",
    "Replay": r"UPDATE replays SET (?:(?!WHERE).)*\bstate = ",
    "Lease of a polling account": r"(?:UPDATE accounts|DO UPDATE) SET holder = ",
}
"""SQL that changes a state. Each of these statements must be used by a function of the diagram."""
NO_CHANGE = {("Lease of a delivery", "deliveries.replay_statements.REOPEN")}
"""Statements that write the column without a change: these deliveries have no lease."""
Name = tuple[str, str]
STORE = ROOT / "relay" / "store"
MODULES = {".".join(path.relative_to(STORE).with_suffix("").parts): path for path in STORE.rglob("*.py")}


class Arrow(NamedTuple):
    source: str
    target: str
    function: str


def diagrams() -> dict[str, list[Arrow]]:
    text = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
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


@pytest.mark.parametrize("name", WRITES)
def test_every_statement_that_changes_a_state_is_in_the_diagram(name: str) -> None:
    named = [arrow.function.split(".") for arrow in DIAGRAMS[name]]
    reached = reached_from({(module_of(parts), parts[-1]) for parts in named if parts[0] == "store"})
    statements = {
        (module, constant)
        for module, tree in store().items()
        for constant, text in constants(tree)
        if re.search(WRITES[name], text) and (name, f"{module}.{constant}") not in NO_CHANGE
    }
    assert statements, "the pattern finds no statement"
    assert statements <= reached, statements - reached


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


def constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The module constants, each with the text of its value on one line."""
    for node in tree.body:
        if isinstance(node, ast.Assign):
            text = " ".join(ast.unparse(node.value).replace("\\n", " ").split())
            yield from ((target.id, text) for target in node.targets if isinstance(target, ast.Name))


def references(module: str, tree: ast.Module) -> Iterator[tuple[Name, set[Name]]]:
    """The functions and constants of a module, each with those of the store that it refers to."""
    imported: dict[str, Name] = {}
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("relay.store."):
            source = str(node.module).removeprefix("relay.store").removeprefix(".")
            for one in node.names:
                below = f"{source}.{one.name}".removeprefix(".")
                if below in MODULES:
                    aliases[one.asname or one.name] = below
                else:
                    imported[one.asname or one.name] = (source, one.name)
    for node in ast.walk(tree):
        names: list[str]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            names += [target.attr for target in node.targets if isinstance(target, ast.Attribute)]
        else:
            continue
        found: set[Name] = set()
        for one in ast.walk(node):
            if isinstance(one, ast.Name):
                found.add(imported.get(one.id, (module, one.id)))
            elif isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name):
                owner = module if one.value.id == "self" else aliases.get(one.value.id)
                if owner is not None:
                    found.add((owner, one.attr))
        yield from (((module, name), found) for name in names)


@cache
def store() -> dict[str, ast.Module]:
    """The modules of the store by their dotted names below it. Not read on import: every worker imports this file."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def module_of(parts: list[str]) -> str:
    """The module in `store.jobs.registrations.Registrar.register`: `jobs.registrations`."""
    return next(name for length in (2, 1) if (name := ".".join(parts[1 : 1 + length])) in MODULES)


@cache
def all_references() -> dict[Name, set[Name]]:
    found: dict[Name, set[Name]] = {}
    for module, tree in store().items():
        for name, referred in references(module, tree):
            found.setdefault(name, set()).update(referred)
    return found


def reached_from(functions: set[Name]) -> set[Name]:
    """All that these functions refer to, directly or through what they call."""
    reached: set[Name] = set()
    waiting = list(functions)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += all_references().get(name, ())
    return reached
