"""The sandbox's world: lifecycles, lanes, and their items."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.clock import from_rfc3339
from relay.sandbox.lifecycle import RETRYABLE_BY_CODE, Mix, SandboxJob, Script
from relay.sandbox.world import World

SAMPLES = json.loads((Path(__file__).parents[2] / "fixtures" / "revor-samples.json").read_text())
NOW = 1_779_271_200.0  # 2026-05-20T10:00:00Z

DONE = Script(final="succeeded", attempt_failures=0, run_seconds=7, start_delay_seconds=1)


def make(world: World, now: float = NOW, **more: Any) -> SandboxJob:
    return world.create(**{"account": "acme", "channel": "email", "now": now, **more})


def statuses(job: SandboxJob) -> list[str]:
    return [step.status for step in job.steps]


def test_documented_example_is_reproduced_exactly() -> None:
    world = World(seed=1)
    job = make(world, script=DONE)
    expected = SAMPLES["job_succeeded"]["body"]["item"]
    item = world.item_at(job, NOW + 8)
    item["result"]["message_id"] = expected["result"]["message_id"]
    item["id"] = expected["id"]
    assert item == expected
    assert list(item) == list(expected)
    assert list(item["result"]) == list(expected["result"])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    speed=st.sampled_from([1.0, 7.0, 60.0, 1000.0]),
    mode=st.sampled_from(["start", "end"]),
    calls=st.lists(
        st.tuples(st.sampled_from(["email", "linkedin"]), st.integers(0, 400), st.floats(0, 90)), max_size=25
    ),
)
def test_invariants_of_every_world(seed: int, speed: float, mode: Any, calls: list[tuple[str, int, float]]) -> None:
    mix = Mix(succeeded=1, retried=1, failed=1, cancelled=1)
    world = World(seed=seed, speed=speed, count_attempts=mode, mix=mix)
    now, lanes = NOW, {}
    for channel, interval, pause in calls:
        now += pause / speed
        job = make(world, now=now, channel=channel, interval_seconds=interval)
        times = [step.at for step in job.steps]
        assert times == sorted(times)
        assert statuses(job)[0] == "queued"
        assert statuses(job)[-1] in {"succeeded", "failed", "cancelled"}
        assert not {"succeeded", "failed", "cancelled"} & set(statuses(job)[:-1])
        assert job.scheduled_at is not None
        assert job.scheduled_at >= job.created_at
        counts = [step.attempt_count for step in job.steps]
        assert counts == sorted(counts)
        assert counts[-1] == statuses(job).count("running")
        for step in job.steps:
            item = world.item_at(job, step.at)
            waits = step.status in {"queued", "scheduled"} and step.failed_attempt is not None
            assert (item["next_attempt_at"] is not None) == waits
            assert (item["finished_at"] is not None) == (item["status"] in {"succeeded", "failed", "cancelled"})
            assert (item["result"] is not None) == (item["status"] == "succeeded")
            if item["error"]:
                assert item["error"]["retryable"] is RETRYABLE_BY_CODE[item["error"]["code"]]
            if waits:
                assert item["error"]["retryable"] is True
        start = job.first_started_at
        if start is not None:
            assert start > job.scheduled_at or speed >= 1000
            before = lanes.get(channel)
            if before is not None:
                spacing = max(60, interval) / speed
                assert start >= before.first_started_at + spacing - 0.002
                assert start >= before.ended_at - 0.001
            lanes[channel] = job


def test_true_lifecycle_is_complete() -> None:
    world = World(seed=1)
    job = make(world, script=Script(final="succeeded", attempt_failures=1, waiting_status="queued"))
    lifecycle = world.truth(job, NOW)
    assert lifecycle["id"] == job.id
    assert lifecycle["finished"] is False
    assert world.truth(job, job.ended_at)["finished"] is True
    assert lifecycle["final_item"] == world.item_at(job, math.inf)
    assert lifecycle["failed_attempts"] == 1
    assert [(t["status"], t["failed_attempt"]) for t in lifecycle["transitions"]] == [
        ("queued", None),
        ("running", None),
        ("queued", 1),
        ("running", None),
        ("succeeded", None),
    ]
    assert from_rfc3339(lifecycle["created_at"]) == NOW
    for transition in lifecycle["transitions"]:
        assert from_rfc3339(transition["at"]) == pytest.approx(transition["at_epoch_seconds"], abs=1e-6)
    assert lifecycle["transitions"][-1]["at"] == lifecycle["final_item"]["finished_at"]
    assert lifecycle["transitions"][-2]["at"] == lifecycle["final_item"]["started_at"]
