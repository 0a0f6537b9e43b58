"""Each preset against its recorded answers: every stage of every fate is understood, and no rule is left unproven."""

from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import yaml

from relay.core.jobs.job import TERMINAL, Observation
from relay.sandbox.recorded import Calls, RecordedJob, RecordedWorld, Recording, Reply
from relay.sources import definition as definition_module
from relay.sources.definition import SourceDefinition, load_definition, presets
from relay.sources.mapping import Malformed, observe_item, read_error, registered
from relay.sources.pointers import at

SOURCES = Path(definition_module.__file__).parent
RECORDED = tuple(name for name in presets() if (SOURCES / name / "answers.yaml").exists())
NOW = 1_779_271_300.0
BASE = "https://upstream.example"
CREATED = {"endpoint": "/v1/chat/completions", "input_file_id": "file-1", "metadata": {"deal": "42"}}


class Preset(NamedTuple):
    definition: SourceDefinition
    recording: Recording
    calls: Calls

    def of(self, resource: str) -> SourceDefinition:
        """The definition with this resource as the first one."""
        return self.definition.model_copy(update={"resources": {resource: self.definition.resources[resource]}})


def preset(name: str) -> Preset:
    folder = SOURCES / name
    return Preset(
        load_definition(name),
        Recording.model_validate(yaml.safe_load((folder / "answers.yaml").read_text())),
        Calls(yaml.safe_load((folder / "definition.yaml").read_text())),
    )


PRESETS = {name: preset(name) for name in RECORDED}
FATES = [
    (name, resource, fate)
    for name, (_, recording, _) in PRESETS.items()
    for resource, recorded in recording.resources.items()
    for fate in recorded.fates
]


def replies(recording: Recording, resource: str, fate: str) -> tuple[RecordedJob, list[tuple[float, Reply]]]:
    """A job and the answer to a read at the beginning of each of its stages."""
    world = RecordedWorld(recording=recording)
    job = world.create(resource, NOW, body=CREATED, fate=fate)
    return job, [(begins, world.reply(job, begins, BASE)) for begins in job.begins]


def item_of(definition: SourceDefinition, reply: Reply) -> dict[str, Any]:
    found = at(reply.body, definition.resource.item)
    return found if isinstance(found, dict) else {}


@pytest.mark.parametrize("name", [name for name in presets() if name != "revor"])
def test_preset_names_its_documentation_and_has_recorded_answers(name: str) -> None:
    assert name in PRESETS
    assert PRESETS[name].definition.documentation.startswith("https://")
    assert set(PRESETS[name].recording.resources) == set(PRESETS[name].definition.resources)


@pytest.mark.parametrize(("name", "resource", "fate"), FATES)
def test_every_stage_is_understood(name: str, resource: str, fate: str) -> None:
    definition = PRESETS[name].of(resource)
    job, stages = replies(PRESETS[name].recording, resource, fate)
    seen = [
        observe_item(
            definition,
            item_of(definition, reply),
            now=begins,
            external_id=str(job.id),
            status_code=reply.status,
        )
        for begins, reply in stages
    ]

    observations = [one for one in seen if isinstance(one, Observation)]
    assert not [one for one in seen if isinstance(one, Malformed)]
    assert [one.known for one in observations] == [True] * len(stages)
    assert [one.status in TERMINAL for one in observations] == [False] * (len(stages) - 1) + [True]
    if observations[-1].status == "failed":
        assert observations[-1].problem is not None
        assert observations[-1].problem.message
    assert all(one.problem is None for one in observations[:-1])


@pytest.mark.parametrize("name", RECORDED)
def test_no_rule_is_left_unproven(name: str) -> None:
    definition, recording, _ = PRESETS[name]
    proven = {
        definition.resources[resource].rule_of(item_of(PRESETS[name].of(resource), reply), reply.status)
        for resource, recorded in recording.resources.items()
        for fate in recorded.fates
        for _, reply in replies(recording, resource, fate)[1]
    }
    rules = {rule for resource in definition.resources.values() for rule in resource.states}
    assert rules - proven == set()


@pytest.mark.parametrize("name", RECORDED)
def test_answer_to_a_create_is_a_job(name: str) -> None:
    for resource, pattern in PRESETS[name].calls.creates:
        definition = PRESETS[name].of(resource)
        world = RecordedWorld(recording=PRESETS[name].recording)
        job = world.create(resource, NOW, body=CREATED)
        answer = world.created(job, BASE)
        (create,) = (one for one in definition.resource.creates if pattern.fullmatch(one.path))
        found = registered(definition, answer.body, now=NOW, create=create)
        assert found is not None, create.path
        assert found.external_id == str(job.id)
        assert create.id is None or found.observation is None


@pytest.mark.parametrize("name", RECORDED)
def test_errors_are_read(name: str) -> None:
    definition, recording, _ = PRESETS[name]
    for meaning in ("unauthorized", "not_found", "rate_limited", "unavailable"):
        error = read_error(definition, orjson.dumps(recording.errors[meaning].body))
        assert error.code or error.message, meaning
