"""What a person can write of a subscription: a field of a model is in the form, in the options of the command line, in
the OpenAPI description and in the documents, without another edit."""

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

import relay.cli
from relay.api import app
from relay.api.subscriptions import kind_fields as kind_schemas
from relay.api.subscriptions import models
from relay.cli.subscriptions import settings as command_line
from relay.core.values import duration_seconds
from subscribers import fields, registry
from subscribers.base import Offer
from subscribers.fields import WrittenField
from subscribers.registry import kinds
from tests.support import api_fixtures
from tests.support.api_world import SLACK, World
from tests.support.web_world import Browser

ROOT = Path(__file__).resolve().parents[2]
CACHES = (
    fields.kind_fields,
    kind_schemas._schemas,
    models.written_fields,
    command_line.settings,
    command_line._options,
)


class ColouredOptions(kinds()["slack"].options):  # type: ignore[misc]
    """With a field that no other module knows."""

    colour: Literal["red", "blue"] | None = Field(
        default=None, description="The colour of the bar beside a message.", examples=["red"]
    )


@pytest.fixture
def colour(monkeypatch: pytest.MonkeyPatch) -> Iterator[WrittenField]:
    """A new field of one kind."""
    for one in CACHES:
        one.cache_clear()
    monkeypatch.setattr(type(kinds()["slack"]), "options", ColouredOptions)
    monkeypatch.setattr(app, "openapi_json", api_fixtures._openapi_json)  # that of other tests is made once
    yield next(one for one in models.written_fields() if one.path == "config.colour")
    for one in CACHES:
        one.cache_clear()


def options_of_add() -> dict[str, str]:
    """The options of `relay subscriptions add` with their help."""
    command = typer.main.get_command(relay.cli.app).commands["subscriptions"].commands["add"]  # type: ignore[attr-defined]
    return {name: one.help or "" for one in command.params for name in one.opts}


def schema_of(program: dict[str, Any], field: WrittenField) -> Any:
    """How the OpenAPI description has a field of a request."""
    schemas = program["document"]()["components"]["schemas"]
    owner = {"": "SubscriptionCreate", "config": "SubscriptionConfig", "protocolsettings": "ProtocolSettings"}
    names = [owner[field.part]] if field.part in owner else [name for name in schemas if "Credential" in name]
    found = [schemas[name]["properties"][field.name] for name in names if field.name in schemas[name]["properties"]]
    assert found, field.path
    return found[0]


async def test_every_field_is_in_the_form_the_options_the_description_and_the_documents(browser: Browser) -> None:
    forms = [(await browser.get("/ui/subscriptions/new", kind=kind)).soup for kind in kinds()]
    xpath = "//*[self::input or self::select or self::textarea][@name]"
    controls = {one.get("name") for form in forms for one in form.all(xpath)}
    options, program = options_of_add(), runpy.run_path(str(ROOT / ".ci" / "docs.py"))
    documents = {
        name: (ROOT / "docs" / "reference" / name).read_text("utf-8") for name in ("http-reference.md", "commands.md")
    }
    assert len(models.written_fields()) > 50
    for field in models.written_fields():
        schema = schema_of(program, field)
        assert field.name in documents["http-reference.md"]
        if not field.cli.own:
            continue
        assert field.path in controls or field.path == "sinkcredential", field.path
        if field.part != "sinkcredential" and field.has_choice:
            option = f"--{field.short.replace('_', '-')}"
            assert field.words.replace("`", "") in options[option]
            assert f"`{option}" in documents["commands.md"]
        assert all(way.description in str(schema) for way in field.ways.values() if field.part in ("", "config"))


async def test_form_has_the_fields_of_the_chosen_kind(browser: Browser, world: World) -> None:
    page = await browser.get("/ui/subscriptions/new", kind="webhook")
    chosen = {**page.soup.form("/ui/subscriptions/new").fields, "config.kind": "nats", "config.channel": "typed"}
    shown = (await browser.post("/ui/subscriptions/preview", chosen)).soup.form("/ui/subscriptions/new").fields
    of_kinds = {one.path for one in models.written_fields() if one.part in ("config", "protocolsettings")}
    of_kinds -= {one.path for one in models.written_fields() if one.is_common}
    kind = kinds()["nats"]
    of_nats = {*(f"config.{name}" for name in kind.options.model_fields), "protocolsettings.subject"}
    assert shown.keys() & of_kinds == {*of_nats, "config.channel"}, "what was typed stays"


async def test_new_field_shows_up_everywhere(browser: Browser, world: World, colour: WrittenField) -> None:
    words = "slack: The colour of the bar beside a message."
    assert colour.words == words
    page = await browser.get("/ui/subscriptions/new", kind="slack")
    assert [one.get("value") for one in page.soup.all("//select[@name='config.colour']/option")] == ["", "red", "blue"]
    assert (
        page.soup.one("//*[@id='config.colour-hint']").text_content()
        == "The colour of the bar beside a message. Example: red"
    )
    assert options_of_add()["--colour"] == f"{words} Example: red"

    program = runpy.run_path(str(ROOT / ".ci" / "docs.py"))
    assert "The colour of the bar" in str(schema_of(program, colour))
    assert "| `--colour TEXT` | slack: The colour of the bar" in program["commands"]("subscriptions")
    assert "| `colour` | `red`, `blue` or null |" in program["api_reference"]()

    form = page.soup.form("/ui/subscriptions/new").fields
    made = await browser.post("/ui/subscriptions/new", {**form, "sink": SLACK, "config.colour": "blue"})
    assert made.status == 200, made.soup.text
    ((stored,),) = [await world.store.subscriptions.all()]
    assert stored.options["colour"] == "blue"
    edit = await browser.get(f"/ui/subscriptions/{stored.id}/edit")
    assert edit.soup.one("//select[@name='config.colour']/option[@selected]").get("value") == "blue"


class Gong(type(kinds()["webhook"])):  # type: ignore[misc]
    """A kind that no other module knows."""

    name = "gong"
    offer = Offer(name="Gong", words="It sounds.", address="The address of the gong.", example="https://gong.example")


class Bare(type(kinds()["webhook"])):  # type: ignore[misc]
    """One that says nothing of itself."""

    name = "bare"
    offer = Offer()


async def test_new_kind_has_a_tile_and_a_form(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_KINDS", {**kinds(), "gong": Gong(), "bare": Bare()})
    tiles = (await browser.get("/ui/subscriptions/new")).soup.links()
    assert tiles["Gong It sounds."] == "/ui/subscriptions/new?kind=gong"
    assert tiles["Bare Your own program gets each event."] == "/ui/subscriptions/new?kind=bare"
    form = (await browser.get(tiles["Gong It sounds."])).soup
    assert form.one("//small[@id='sink-hint']").text == "The address of the gong. Example: https://gong.example"
    assert form.form("/ui/subscriptions/new").fields["config.kind"] == "gong"


WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), max_size=4)
VALUES = {
    "words": WORDS | st.lists(st.floats(0, 1e6) | st.integers(0, 10**6), max_size=3),
    "word or words": WORDS,
    "json": st.recursive(st.text() | st.integers(-(2**53), 2**53) | st.booleans(), st.lists, max_leaves=5),
    "decimal": st.floats(0, 1e9),
    "number": st.integers(0, 10**9),
}


@pytest.mark.parametrize("shape", VALUES)
@given(st.data())
def test_what_a_field_shows_reads_as_the_same_value(shape: str, data: st.DataObject) -> None:
    field = next(one for one in models.written_fields() if one.shape == shape)
    value = data.draw(VALUES[shape])
    read = field.read(field.text_of(value))
    if isinstance(value, list) and any(isinstance(one, int | float) for one in value) and shape == "words":
        read = [duration_seconds(one) if isinstance(one, str) else one for one in read]
    assert read == value
