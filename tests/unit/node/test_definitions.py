"""The definitions of the settings' sources: presets and files, and the base URL of each."""

from pathlib import Path

import pytest

from relay.config.settings import Settings, load_settings
from relay.errors import SettingsError
from relay.node.definitions import definitions_of, with_base_urls

MINE = """\
version: 2
title: Mine
base_url: https://api.mine.example/v1/
base_path: /v1
credential: {header: X-Key}
probe: /v1/me
resources:
  runs:
    type_prefix: example.mine.run.job
    source_path: /v1/runs
    path: /v1/runs/{id}
    status: /state
    states:
      - {at: /state, is: done, state: succeeded}
    fields: {id: /id}
hints:
  codes:
    boom: {meaning: It exploded, fix: Build it anew, who: developer, repeat: useless}
answers:
  whatever: 1
"""


END = len(MINE.splitlines()) + 1


def settings(tmp_path: Path, source: str, definition: str | None = MINE, **environ: str) -> Settings:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/relay.yaml").write_text(f"sources:\n  mine:\n    {source}\n")
    if definition is not None:
        (tmp_path / "etc/mine.yaml").write_text(definition)
    return load_settings(tmp_path / "etc/relay.yaml", environ)


def refusal(tmp_path: Path, source: str, definition: str | None = MINE, **environ: str) -> str:
    found = settings(tmp_path, source, definition, **environ)
    with pytest.raises(SettingsError) as caught:
        with_base_urls(found, definitions_of(found))
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{tmp_path}/etc/", "")


def test_file_is_found_beside_the_settings_and_has_the_rights_of_a_preset(tmp_path: Path) -> None:
    found = settings(tmp_path, "file: ./mine.yaml")
    definition = definitions_of(found)["mine"]
    assert (definition.name, definition.title) == ("mine", "Mine")
    assert definition.hints.codes["boom"].meaning == "It exploded"
    assert "unavailable" in definition.hints.polls
    assert with_base_urls(found, {"mine": definition}).sources["mine"].base_url == "https://api.mine.example/v1"
    assert definition.root("https://api.mine.example/v1") == "https://api.mine.example"


@pytest.mark.parametrize(
    ("source", "base_url"),
    [
        ("preset: revor", "https://revor.ai"),
        ("preset: openai-batch", "https://api.openai.com"),
        ("{preset: openai-batch, base_url: 'http://127.0.0.1:9/v1'}", "http://127.0.0.1:9/v1"),
    ],
)
def test_base_url_is_that_of_the_definition_by_default(tmp_path: Path, source: str, base_url: str) -> None:
    found = settings(tmp_path, source)
    assert with_base_urls(found, definitions_of(found)).sources["mine"].base_url == base_url


def test_credits_of_a_definition_can_be_watched(tmp_path: Path) -> None:
    found = settings(tmp_path, "{file: mine.yaml, credits_low: 500}", f"{MINE}credits: {{path: /me, available: [/n]}}")
    credits = definitions_of(found)["mine"].credits
    assert credits is not None
    assert credits.path == "/me"


def test_source_has_the_name_of_the_settings(tmp_path: Path) -> None:
    assert definitions_of(settings(tmp_path, "preset: openai-batch"))["mine"].name == "mine"


@pytest.mark.parametrize(
    ("source", "definition", "message"),
    [
        ("preset: opanai", MINE, "relay.yaml:3: sources.mine.preset: there is no preset 'opanai': anthropic-batch,"),
        ("file: other.yaml", MINE, "relay.yaml:3: sources.mine.file: other.yaml: the file cannot be read"),
        ("file: .", MINE, "relay.yaml:3: sources.mine.file: "),
        ("file: mine.yaml", MINE.replace("title", "titel"), "mine.yaml:1: title: is missing"),
        ("file: mine.yaml", MINE + "titel: x\n", f"mine.yaml:{END}: titel: is not a known key: is it title?"),
        ("file: mine.yaml", MINE + "name: x\n", f"mine.yaml:{END}: name: is not a known key"),
        ("file: mine.yaml", MINE.replace("at: /state", "at: state"), "mine.yaml:14: resources.runs.states.0.at: "),
        ("file: mine.yaml", MINE.replace("repeat", "repaet"), "mine.yaml:18: hints.codes.boom.re"),
        ("file: mine.yaml", MINE.replace("https://api", "http://api"), "is plain http, which would send"),
        ("file: mine.yaml", MINE.replace("https://", "https://a:b@"), "base_url: has a secret"),
        (
            "{file: mine.yaml, credits_low: 500}",
            MINE,
            "relay.yaml:3: sources.mine.credits_low: the definition of Mine has no `credits`, so nothing can be read:",
        ),
        ("{preset: openai-batch, credits_low: 1}", MINE, "relay.yaml:3: sources.mine.credits_low: the definition of"),
        (
            "file: mine.yaml",
            MINE.replace("https://api.mine.example", "http://127.0.0.1:8080"),
            "is the address that this relay listens on",
        ),
        (
            "file: mine.yaml",
            MINE.replace("base_url: https://api.mine.example/v1/\n", ""),
            "relay.yaml:2: sources.mine has no base_url, and its definition has none: set it to the upstream's",
        ),
    ],
)
def test_refusals_name_the_setting_and_the_place_in_the_definition(
    tmp_path: Path, source: str, definition: str, message: str
) -> None:
    assert message in refusal(tmp_path, source, definition)


def test_default_base_url_that_is_the_relay_s_own_is_refused() -> None:
    found = load_settings(None, {"RELAY_SERVER__PUBLIC_URL": "https://revor.ai"})
    with pytest.raises(SettingsError, match=r"RELAY_SERVER__PUBLIC_URL: .* is this relay's own server\.public_url"):
        with_base_urls(found, definitions_of(found))
