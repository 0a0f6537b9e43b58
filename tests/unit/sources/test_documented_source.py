"""docs/guides/sources.md: its example loads, plays through every fate, and every key of a definition is described."""

import re
import runpy
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from relay.core.jobs.job import TERMINAL, Observation
from relay.errors import SettingsError
from relay.sandbox.recorded import RecordedWorld, Recording
from relay.sources.definition import Resource, SourceDefinition, load_definition, presets
from relay.sources.mapping import observe_item, read_create, read_error, registered
from relay.sources.pointers import at

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "guides" / "sources.md").read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
NOW = 1_779_271_300.0
BASE = "https://api.acme.example"


def block(key: str) -> dict[str, Any]:
    """The only block of the page with this key at its top."""
    (found,) = [one for one in BLOCKS if key in one]
    assert isinstance(found, dict)
    return found


def loaded(folder: Path, definition: dict[str, Any], hints: dict[str, Any]) -> SourceDefinition:
    (folder / "acme").mkdir()
    (folder / "acme" / "definition.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    (folder / "acme" / "hints.yaml").write_text(yaml.safe_dump(hints))
    return load_definition("acme", directory=folder)


@pytest.fixture
def acme(tmp_path: Path) -> SourceDefinition:
    return loaded(tmp_path, block("version"), block("hints")["hints"])


RECORDING = Recording.model_validate(block("answers")["answers"])


@pytest.mark.parametrize("fate", RECORDING.resources["renders"].fates)
def test_example_plays_each_of_its_fates(acme: SourceDefinition, fate: str) -> None:
    world = RecordedWorld(recording=RECORDING)
    body = {"tags": {"deal": 42}}
    job = world.create("renders", NOW, body=body, fate=fate)

    created = registered(acme, world.created(job, BASE).body, now=NOW)
    assert created is not None
    assert created.external_id == str(job.id)
    assert read_create(acme.resource.request, orjson.dumps(body)).metadata == {"deal": 42}
    seen = [
        observe_item(acme, at(world.reply(job, begins, BASE).body, acme.resource.item), now=begins)
        for begins in job.begins
    ]
    observed = [one for one in seen if isinstance(one, Observation)]
    assert len(observed) == len(job.stages)
    assert all(one.known for one in observed)
    assert [one.status in TERMINAL for one in observed] == [False] * (len(observed) - 1) + [True]
    if fate == "broken":
        assert observed[-1].problem is not None
        hint = acme.hint_for(observed[-1].problem, "failed")
        assert hint is not None
        assert hint.meaning == block("hints")["hints"]["codes"]["no_scene"]["meaning"]


def test_example_records_every_state_and_error(acme: SourceDefinition) -> None:
    world = RecordedWorld(recording=RECORDING)
    proven = set()
    for fate in RECORDING.resources["renders"].fates:
        job = world.create("renders", NOW, fate=fate)
        proven |= {acme.resource.rule_of(at(world.reply(job, one, BASE).body, ("render",))) for one in job.begins}
    assert proven == set(acme.resource.states)
    for error in RECORDING.errors.values():
        assert read_error(acme, orjson.dumps(error.body)).code


def test_example_of_rules_is_valid() -> None:
    jobs = block("version")["resources"]["renders"]
    Resource.model_validate({**jobs, "states": block("states")["states"]})


def test_other_examples_are_valid(tmp_path: Path) -> None:
    definition = block("version")
    renders = {**definition["resources"]["renders"], **block("creates")}
    acme = {**definition, "resources": {"renders": renders}, "credits": block("credits")["credits"]}
    assert loaded(tmp_path, acme, block("hints")["hints"]).credits is not None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("probes", "/v2/me", "is not a known key: is it probe?"),
        ("probe", "v2/me", "does not match"),
        ("limit", {"requests": 0, "per_seconds": 1}, "limit.requests"),
    ],
)
def test_mistake_names_its_line(tmp_path: Path, key: str, value: object, said: str) -> None:
    with pytest.raises(SettingsError, match=rf"acme/definition.yaml:[0-9]+: .*{re.escape(said)}"):
        loaded(tmp_path, {**block("version"), key: value}, {})


def test_every_key_of_a_definition_is_described() -> None:
    text = runpy.run_path(str(ROOT / ".ci" / "docs.py"))["definition_keys"]()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert [row for row in rows if re.search(r"\|\s*\|$", row)] == []


def test_every_preset_is_listed() -> None:
    assert set(re.findall(r"^\| `([a-z-]+)`: \[", PAGE, re.MULTILINE)) == set(presets())
