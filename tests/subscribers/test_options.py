"""One declaration per field of a subscription: its words, its example, and the folder that alone knows a kind's. From
it come the OpenAPI description, the options of the command line, the form and the tables of the documents."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.api.deliveries.sink_credentials import CREDENTIALS, ShownCredential
from relay.api.subscriptions import models
from relay.core.deliveries.credentials import SECRET_FIELDS
from subscribers.common import options as common
from subscribers.fields import model_of
from subscribers.options import Options, Settings
from subscribers.registry import kinds

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("config", "protocolsettings")
SOURCES = [
    *ROOT.glob("relay/**/*.py"),
    *ROOT.glob("subscribers/**/*.py"),
    *ROOT.glob("relay/web/templates/*.html"),
    *ROOT.glob("relay/web/texts/**/*.yaml"),
]
"""What may not know a kind's field, but in its folder: the dashboard's templates and texts too."""
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
        for path in SOURCES
        if not any(path.is_relative_to(folder) for folder in folders) and path not in KNOWN_TO.get(name, ())
        for hit in pattern.finditer(path.read_text())
    ]
    assert elsewhere == []


def test_the_form_and_the_options_name_no_field_but_kind_and_start() -> None:
    """Those that every subscription has stand in the model only; a pointer or a test of a value is no declaration."""
    names = {*models.SubscriptionConfig.model_fields, *models.ProtocolSettings.model_fields} - {"kind", "start"}
    names |= {name for model in CREDENTIALS.values() for name in model.model_fields} - {"credentialtype"}
    for path in ("relay/web/subscription_form.py", "relay/web/templates/subscription_form.html"):
        text = (ROOT / path).read_text()
        assert [name for name in sorted(names) if re.search(rf"""["'.]{name}["']""", text)] == [], path
    text = (ROOT / "relay/cli/subscriptions/settings.py").read_text()
    assert [name for name in models.SubscriptionConfig.model_fields if f'"{name}"' in text] == []


def test_every_field_has_words_and_an_example() -> None:
    for field in models.written_fields():
        for names, way in field.ways.items():
            assert way.description or not field.cli.own or field.name == "credentialtype", (names, field.path)
            assert way.examples or field.is_common or not field.has_choice or field.part == "sinkcredential", field.path


def test_what_is_secret_is_never_shown() -> None:
    secret = {one.name for one in models.written_fields() if one.part == "sinkcredential" and one.is_secret}
    assert secret == SECRET_FIELDS
    assert not secret & set(ShownCredential.model_fields)


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
