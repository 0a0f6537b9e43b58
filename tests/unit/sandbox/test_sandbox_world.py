"""The sandbox's world: lifecycles, lanes, and their items."""

import ast
import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.clock import from_rfc3339
from relay.sandbox.connect_accounts import MAX_CONNECT_ACCOUNTS, MAX_OUTAGES, ConnectAccounts
from relay.sandbox.fate import RETRYABLE_BY_CODE, Mix, Script
from relay.sandbox.fields import Refused
from relay.sandbox.lifecycle import Behaviour, SandboxJob, accepted_item
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


def test_created_item_is_as_documented() -> None:
    world = World(seed=1)
    accepted = accepted_item(make(world))
    expected = SAMPLES["create_response"]["body"]["item"]
    assert {**accepted, "id": expected["id"]} == expected
    assert list(accepted) == list(expected)


def test_failed_job_has_the_fields_that_clients_expect() -> None:
    world = World(seed=1)
    script = Script(final="failed", attempt_failures=1, error_code="connect_account_reconnect_required")
    job = make(world, channel="linkedin", script=script)
    expected = SAMPLES["job_failed"]["body"]["item"]
    item = world.item_at(job, math.inf)
    assert {name: item[name] for name in expected} == {**expected, "id": job.id}


def test_each_status_begins_at_its_time() -> None:
    world = World(seed=1)
    job = make(world, script=DONE)
    read = [world.item_at(job, NOW + second)["status"] for second in (-5, 0, 0.999, 1, 7.999, 8, 1e9)]
    assert read == ["queued", "queued", "queued", "running", "running", "succeeded", "succeeded"]


def test_later_job_becomes_scheduled() -> None:
    world = World(seed=1)
    make(world, script=DONE)
    job = make(world, script=DONE)
    assert job.scheduled_at == NOW + 60
    assert [(step.status, step.at - NOW) for step in job.steps] == [
        ("queued", 0),
        ("scheduled", pytest.approx(0.05)),
        ("running", 61),
        ("succeeded", 68),
    ]


@pytest.mark.parametrize(("mode", "counts"), [("start", [0, 1, 1, 2, 2]), ("end", [0, 0, 1, 1, 2])])
def test_attempts_are_counted_at_start_or_end(mode: Any, counts: list[int]) -> None:
    world = World(seed=1, behaviour=Behaviour(count_attempts=mode))
    job = make(world, script=Script(final="succeeded", attempt_failures=1, waiting_status="queued"))
    assert statuses(job) == ["queued", "running", "queued", "running", "succeeded"]
    assert [step.attempt_count for step in job.steps] == counts


@pytest.mark.parametrize(("mode", "shown"), [("clear", False), ("keep", True)])
def test_item_between_attempts(mode: Any, shown: bool) -> None:
    world = World(seed=1, behaviour=Behaviour(started_at_while_waiting=mode))
    script = Script(
        final="succeeded",
        attempt_failures=1,
        waiting_status="scheduled",
        start_delay_seconds=1,
        run_seconds=2,
        retry_pause_seconds=30,
    )
    job = make(world, script=script)
    item = world.item_at(job, NOW + 3)
    assert item["status"] == "scheduled"
    assert item["next_attempt_at"] == "2026-05-20T10:00:33.000Z"
    assert item["started_at"] == ("2026-05-20T10:00:01.000Z" if shown else None)
    assert item["finished_at"] is None
    assert item["error"]["retryable"] is True
    again = world.item_at(job, NOW + 34)
    assert (again["status"], again["started_at"], again["next_attempt_at"], again["error"]) == (
        "running",
        "2026-05-20T10:00:34.000Z",
        None,
        None,
    )


def test_retry_pauses_grow() -> None:
    world = World(seed=1)
    job = make(world, script=Script(final="succeeded", attempt_failures=3))
    pauses = [step.next_attempt_at - step.at for step in job.steps if step.next_attempt_at is not None]
    for pause, base in zip(pauses, (30, 120, 600), strict=True):
        assert base <= pause <= base * 1.2 + 0.001


def test_cancelled_job_never_ran_and_delays_no_other() -> None:
    world = World(seed=1)
    make(world, script=DONE)
    job = make(world, script=Script(final="cancelled"))
    after = make(world, script=DONE)
    item = world.item_at(job, math.inf)
    assert item["status"] == "cancelled"
    assert (item["started_at"], item["attempt_count"], item["result"], item["error"]) == (None, 0, None, None)
    assert item["finished_at"] is not None
    assert job.created_at <= job.ended_at < NOW + 61
    assert after.first_started_at == NOW + 121


def test_post_like_without_a_match_is_skipped() -> None:
    world = World(seed=1)
    script = dataclasses.replace(DONE, skipped=True)
    job = make(world, channel="linkedin", action="outreach.linkedin.post_like", script=script)
    item = world.item_at(job, math.inf)
    assert (item["status"], item["result"]["status"]) == ("succeeded", "skipped")


def test_only_post_likes_are_skipped() -> None:
    world = World(seed=1)
    job = make(world, script=dataclasses.replace(DONE, skipped=True))
    assert world.item_at(job, math.inf)["result"]["status"] == "accepted"


# Lanes


def test_a_lane_belongs_to_one_account_and_channel() -> None:
    world = World(seed=1)
    jobs = [make(world, account=a, channel=c) for a in ("acme", "beta") for c in ("email", "linkedin", "whatsapp")]
    assert {job.scheduled_at for job in jobs} == {NOW}
    assert make(world).scheduled_at == NOW + 60


@pytest.mark.parametrize(("asked", "kept"), [(1, 60), (60, 60), (200, 200), (86_400, 86_400), (100_000, 86_400)])
def test_the_interval_is_60_to_86400(asked: int, kept: int) -> None:
    world = World(seed=1)
    make(world)
    assert make(world, interval_seconds=asked).scheduled_at == NOW + kept


def test_an_idle_lane_schedules_at_once() -> None:
    world = World(seed=1)
    make(world, script=DONE)
    assert make(world, now=NOW + 1000).scheduled_at == NOW + 1000


def test_retried_job_delays_its_lane() -> None:
    world = World(seed=1)
    first = make(world, script=Script(final="succeeded", attempt_failures=2))
    second = make(world, script=DONE)
    assert second.scheduled_at == NOW + 60  # set at creation, before the delay was known
    assert second.first_started_at == pytest.approx(first.ended_at + 0.2, abs=0.001)
    third = make(world, now=second.first_started_at, script=DONE)
    assert third.scheduled_at == pytest.approx(second.first_started_at + 60)


def test_job_outside_its_lane_does_not_wait() -> None:
    world = World(seed=1)
    script = dataclasses.replace(DONE, in_lane=False, show_scheduled_at=False)
    jobs = [make(world, script=script) for _ in range(3)]
    assert {job.first_started_at for job in jobs} == {NOW + 1}
    assert accepted_item(jobs[0])["scheduled_at"] is None
    assert make(world, script=DONE).scheduled_at == NOW


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
    world = World(seed=seed, behaviour=Behaviour(speed=speed, count_attempts=mode), mix=mix)
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


# Chance


def lives(seed: int, now: float = NOW, count: int = 40) -> list[Any]:
    world = World(seed=seed)
    jobs = [make(world, now=now, channel=("email", "linkedin", "whatsapp")[i % 3]) for i in range(count)]
    return [
        (job.id, job.fate, [(s.status, round(s.at - now, 2), s.attempt_count, s.error_code) for s in job.steps])
        for job in jobs
    ]


def test_same_seed_and_order_give_the_same_lifecycles() -> None:
    assert lives(7) == lives(7) == lives(7, now=NOW + 5000)
    assert lives(7) != lives(8)


def test_fate_does_not_depend_on_other_jobs() -> None:
    plain, scripted = World(seed=3), World(seed=3)
    make(plain)
    make(scripted, script=Script(final="failed", attempt_failures=3))
    assert make(plain, channel="whatsapp").fate == make(scripted, channel="linkedin", now=NOW + 9).fate


def test_the_shares_of_the_default_mix() -> None:
    world = World(seed=5)
    seen: Counter[str] = Counter()
    for _ in range(8000):
        fate = make(world).fate
        seen["retried" if fate.final == "succeeded" and fate.failures else fate.final] += 1
    shares = {name: number / 8000 for name, number in seen.items()}
    assert shares == pytest.approx({"succeeded": 0.75, "retried": 0.15, "failed": 0.07, "cancelled": 0.03}, abs=0.015)


def test_every_error_code_occurs_with_its_retryable_flag() -> None:
    world = World(seed=5, mix=Mix(succeeded=0, retried=0, failed=1, cancelled=0))
    jobs = [make(world) for _ in range(300)]
    assert {job.fate.error_code for job in jobs} == set(RETRYABLE_BY_CODE)
    for job in jobs:
        if job.fate.error_code in {"external_api_worker_unavailable", "external_api_billing_retryable"}:
            assert len(job.fate.failures) == 3  # such an error ends a job only when no retry is left


def test_run_times_are_lognormal_with_a_median_of_7_seconds() -> None:
    world = World(seed=5)
    runs = sorted(make(world).fate.runs_seconds[0] for _ in range(2001))
    assert runs[1000] == pytest.approx(7, rel=0.1)


def test_speed_divides_every_duration() -> None:
    slow, fast = World(seed=9), World(seed=9, behaviour=Behaviour(speed=60))
    for _ in range(30):
        a, b = make(slow), make(fast)
        assert [s.status for s in a.steps] == [s.status for s in b.steps]
        for x, y in zip(a.steps, b.steps, strict=True):
            assert (y.at - NOW) * 60 == pytest.approx(x.at - NOW, abs=1.5)


@pytest.mark.parametrize("speed", [0, -1, math.inf, math.nan, 1e7])
def test_invalid_speed_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        World(behaviour=Behaviour(speed=speed))


@pytest.mark.parametrize("mix", [{"succeeded": -1}, {"failed": math.nan}, {"skipped": 2}])
def test_invalid_mix_is_refused(mix: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"mix|skipped"):
        Mix(**mix)
    with pytest.raises(ValueError, match="mix"):
        Mix(succeeded=0, retried=0, failed=0, cancelled=0)


# Keeping


def test_only_the_account_that_created_a_job_sees_it() -> None:
    world = World(seed=1)
    job = make(world)
    assert world.job(job.id) is job
    assert world.job(job.id, account="acme") is job
    assert world.job(job.id, account="beta") is None
    assert world.job("nothing") is None


def test_the_oldest_finished_job_makes_room() -> None:
    world = World(seed=1, max_jobs=2)
    first, second = make(world, script=DONE), make(world, channel="linkedin", script=DONE)
    with pytest.raises(Refused, match="task_unavailable"):
        make(world)
    third = make(world, now=NOW + 100)
    assert list(world.jobs()) == [second, third]
    assert world.job(first.id) is None
    assert (len(world), world.created_count) == (2, 3)


def test_lanes_are_bounded() -> None:
    world = World(seed=1, max_lanes=2)
    for account in ("a", "b", "c"):
        make(world, account=account)
    assert make(world, account="c").scheduled_at == NOW + 60
    assert make(world, account="a").scheduled_at == NOW  # forgotten


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


def test_sandbox_imports_only_leaves_of_the_relay() -> None:
    components = set()
    for path in (Path(__file__).parents[3] / "relay" / "sandbox").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            components |= {name for name in names if name.split(".")[0] in {"relay", "subscribers"}}
    assert {room for room in components if not room.startswith("relay.sandbox.")} == {"relay.clock"}


def test_accounts_and_their_outages_are_bounded() -> None:
    accounts = ConnectAccounts()
    for count in range(MAX_OUTAGES + 5):
        accounts.set("connect_account_email", NOW + 2 * count, can_send=False)
        accounts.set("connect_account_email", NOW + 2 * count + 1, can_send=True)
    assert len(accounts.outages("connect_account_email")) == MAX_OUTAGES
    for count in range(MAX_CONNECT_ACCOUNTS - len(accounts.listed())):
        accounts.set(f"account {count}", NOW, channel="email")
    with pytest.raises(Refused, match="10000 accounts already"):
        accounts.set("one more", NOW, channel="email")
