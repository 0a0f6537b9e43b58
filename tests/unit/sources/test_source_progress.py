"""Progress: how far an upstream says a job is, read by the definition and bounded."""

from typing import Any

import pytest

from relay.core.events.event import Origin, from_transition
from relay.core.jobs.job import NOT_SEEN, Advance, Job, Observation, detect
from relay.core.jsontext import loads
from relay.sources.definition import SourceDefinition, load_definition
from relay.sources.mapping import observe_item
from relay.sources.sections import ProgressFields

PLACES = {
    "percent": "/progress/percent",
    "fraction": "/progress/fraction",
    "done": "/progress/done",
    "total": "/progress/total",
    "stage": "/progress/stage",
    "position": "/queue/position",
}
JOB = Job(uid="job_1", external_id="1", source="batches", account="default")


def definition_of(places: dict[str, str] | None = None) -> SourceDefinition:
    found = load_definition("openai-batch")
    name, resource = next(iter(found.resources.items()))
    progress = ProgressFields.model_validate(PLACES if places is None else places)
    return found.model_copy(update={"resources": {name: resource.model_copy(update={"progress": progress})}})


def seen(progress: object, definition: SourceDefinition | None = None, **item: Any) -> Observation:
    found = observe_item(
        definition or definition_of(), {"id": "1", "status": "in_progress", "progress": progress, **item}, now=0.0
    )
    assert isinstance(found, Observation)
    return found


@pytest.mark.parametrize(
    ("progress", "read"),
    [
        ({"percent": 40}, Advance(percent=40)),
        ({"percent": 250.5}, Advance(percent=100)),
        ({"percent": 0}, Advance(percent=0)),
        ({"fraction": 0.25}, Advance(percent=25)),
        ({"percent": 10, "fraction": 0.25}, Advance(percent=10)),
        ({"done": 1, "total": 3}, Advance(percent=33.333, done=1, total=3)),
        ({"done": 5, "total": 0}, Advance(done=5, total=0)),
        ({"done": 7}, Advance(done=7)),
        ({"stage": "encoding\x00"}, Advance(stage="encoding")),
        ({"stage": "x" * 5000}, Advance(stage="x" * 128)),
        ({"percent": True, "done": "7", "stage": 3}, None),
        ({"percent": -1, "fraction": float("nan"), "done": 10**400, "total": float("inf")}, None),
        ("40 %", None),
        (None, None),
    ],
)
def test_progress_is_read_and_bounded(progress: object, read: Advance | None) -> None:
    assert seen(progress).advance == read


def test_position_in_a_queue_is_a_whole_number() -> None:
    assert seen(None, queue={"position": 3}).advance == Advance(position=3)
    assert seen(None, queue={"position": "third"}).advance is None


def test_job_of_a_source_without_progress_has_none() -> None:
    assert seen({"percent": 40}, load_definition("replicate")).advance is None


def test_event_that_is_too_large_keeps_the_progress() -> None:
    observation = seen({"percent": 40}, queue={"position": 3}, filler="x" * 70_000)
    (transition,), _ = detect(NOT_SEEN, observation)
    origin = Origin(source="https://api.example/jobs", type_prefix="com.example.job", dataschema="http://x/job.json")
    event = from_transition("evt_1", JOB, transition, origin, seen=observation)
    data = loads(event.body)["data"]
    assert data["truncated"]
    assert (data["job"]["progress"], data["job"]["queue"]) == ({"percent": 40}, {"position": 3})


def test_changes_are_events_only_where_the_definition_asks_for_them() -> None:
    asks = ProgressFields.model_validate({"stage": "/progress/stage", "position": "/queue/position", "events": True})
    assert not ProgressFields.model_validate(PLACES).events
    found = load_definition("openai-batch")
    name, resource = next(iter(found.resources.items()))
    told = found.model_copy(update={"resources": {name: resource.model_copy(update={"progress": asks})}})
    assert seen({"stage": "encoding"}, told).advance == Advance(stage="encoding", is_told=True)
    assert seen({}, told).advance is None
    assert told.event_origins("https://x", "")[""].tells_progress
    assert not found.event_origins("https://x", "")[""].tells_progress


@pytest.mark.parametrize("places", [{}, {"total": "/total"}, {"position": "/queue/position", "total": "/total"}])
def test_events_that_have_nothing_to_tell_are_refused(places: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="events: nothing to tell"):
        ProgressFields.model_validate({**places, "events": True})
