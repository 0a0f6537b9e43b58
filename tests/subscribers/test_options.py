"""One declaration per field of a kind: its words, its example, and the folder that alone knows it."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from subscribers.common import options as common
from subscribers.fields import kind_fields, model_of
from subscribers.options import Options, Settings
from subscribers.registry import kinds

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("config", "protocolsettings")
ALSO_ELSEWHERE = frozenset(
    ("address", "attach", "batch", "channel", "object", "record", "strict", "subject", "template", "unmatched")
)
"""Words that mean something else too: of these only a use as an option counts."""
KNOWN_TO = {
    "template": [
        ROOT / "relay" / path
        for path in (
            "core/subscriptions/subscription.py",
            "api/subscriptions/declared.py",
            "cli/subscriptions/apply.py",
            "web/subscription_form.py",
        )
    ]
}
"""A template takes time to render, may hold secrets and is JSON, whatever the kind."""


def declarations() -> Iterator[tuple[str, Path]]:
    """Each field, and a folder in which it is declared."""
    for kind in kinds():
        for part in PARTS:
            model = model_of(kind, part)
            for one in () if model is None else model.__mro__:
                if issubclass(one, Options) and one not in (Options, Settings):
                    folder = ROOT / Path(*one.__module__.split(".")[:-1])
                    yield from ((name, folder) for name in one.__annotations__ if name in one.model_fields)


def declared() -> dict[str, set[Path]]:
    """Each field, and the folders that may know it."""
    found: dict[str, set[Path]] = {}
    for name, folder in declarations():
        shared = folder / "options.py" == Path(common.__file__)
        found.setdefault(name, set()).add(ROOT / "subscribers" if shared else folder)
    return found


def uses(name: str) -> re.Pattern[str]:
    """What looks like a use of a field."""
    as_option = rf"(?:options|config|settings)(?:\.get\(|\[)[\"']{name}[\"']|(?:config|options)\.{name}\b"
    in_texts = rf"/(?:config|protocolsettings)/{name}\b"
    return re.compile(f"{as_option}|{in_texts}" if name in ALSO_ELSEWHERE else rf"\b{name}\b")


@pytest.mark.parametrize("name", sorted(declared()))
def test_field_stands_in_the_folder_that_declares_it_and_nowhere_else(name: str) -> None:
    folders, pattern = declared()[name], uses(name)
    elsewhere = [
        f"{path.relative_to(ROOT)}: {hit[0]}"
        for path in (*ROOT.glob("relay/**/*.py"), *ROOT.glob("subscribers/**/*.py"))
        if not any(path.is_relative_to(folder) for folder in folders) and path not in KNOWN_TO.get(name, ())
        for hit in pattern.finditer(path.read_text())
    ]
    assert elsewhere == []


def test_every_field_has_words_and_an_example() -> None:
    for part in PARTS:
        for field in kind_fields(part):
            for names, way in field.ways.items():
                assert way.description, (names, field.name)
                assert way.examples or not field.has_choice, (names, field.name)


def test_examples_are_valid() -> None:
    for kind in kinds():
        for part in PARTS:
            model = model_of(kind, part)
            examples = (
                {}
                if model is None
                else {name: one.examples[0] for name, one in model.model_fields.items() if one.examples}
            )
            if model is not None:
                model.model_validate(examples)
