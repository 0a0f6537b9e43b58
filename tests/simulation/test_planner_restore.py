"""A restored planner goes through the same further polls at the same times as the one that gave the snapshot."""

import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.planner import Planner, PlannerConfig
from relay.core.planner.pacer import Bucket
from tests.support.scale import scaled

NOW = 1_779_271_200.0
CHANNELS = ("email", "linkedin", "")


def reported(limit: int, remaining: int) -> dict[str, str]:
    return {"X-RateLimit-Limit": str(limit), "X-RateLimit-Remaining": str(remaining), "X-RateLimit-Window-Ms": "60000"}


def item_of(job_id: str, luck: random.Random, now: float) -> dict[str, Any]:
    """Something that this job may be, whatever it was."""
    status = luck.choice(("queued", "queued", "scheduled", "running", "running", "running", "succeeded"))
    item: dict[str, Any] = {"status": status, "action": job_id[0], "channel": CHANNELS[int(job_id[1:]) % 3]}
    if status == "scheduled" or luck.random() < 0.2:
        item["scheduled_at"] = now + luck.uniform(-30, 300)
    if status in ("running", "succeeded"):
        item["started_at"] = now - luck.uniform(0, 60)
    if status == "succeeded":
        item["finished_at"] = now - luck.uniform(0, 5)
    if status == "queued" and luck.random() < 0.2:
        item["next_attempt_at"] = now + luck.uniform(-5, 200)
    return item


def learn_all(planner: Planner) -> None:
    """Tables that a snapshot does not hold are computed between decisions, and come into force when they are there."""
    while planner.statistics.refit_step():
        pass


def answer(planner: Planner, job_id: str, now: float, luck: random.Random, limit: int) -> None:
    draw = luck.random()
    headers = reported(limit, luck.randrange(limit // 2, limit)) if limit else {}
    if draw < 0.06:
        planner.failed(job_id, luck.choice((404, 429, 500, 503, None)), {**headers, "Retry-After": "3"}, now)
    else:
        planner.observed(job_id, item_of(job_id, luck, now), headers, now - 0.1, now)
    learn_all(planner)


def restart_at(planner: Planner, now: float, decisions: int, seed: str, limit: int) -> list[tuple[float, str]]:
    """Polls jobs when they are due; the answers depend on a seed, the job and the turn alone."""
    found: list[tuple[float, str]] = []
    while len(found) < decisions:
        at = planner.next_request_at(now)
        learn_all(planner)
        if at is None:
            break
        if at > now:
            now = max(at, now + 1e-6)
        elif (job_id := planner.take(now)) is not None:
            found.append((now, job_id))
            answer(planner, job_id, now, random.Random(f"{seed}{job_id}{len(found)}"), limit)
            if planner.next_poll_at(job_id) is None:  # it has ended: another one comes
                planner.track(f"{'ab'[len(found) % 2]}{1_000 + len(found)}", None, now)
    return found


lives = st.lists(
    st.one_of(
        st.tuples(st.just("track"), st.integers(1, 3), st.booleans()),
        st.tuples(st.just("look"), st.integers(1, 8), st.just(True)),
        st.tuples(st.just("pass"), st.integers(0, 200), st.just(True)),
        st.tuples(st.just("weight"), st.integers(0, 5), st.booleans()),
        st.tuples(st.just("forget"), st.integers(0, 5), st.just(True)),
        st.tuples(st.just("set back"), st.integers(0, 4_000), st.just(True)),
    ),
    min_size=3,
    max_size=15,
)


@settings(max_examples=scaled(8, 30))
@given(lives, st.integers(0, 99), st.sampled_from([0, 60, 600]), st.sampled_from([0.5, 5.0, None]))
def test_a_restored_planner_takes_the_same_jobs_at_the_same_moments(
    life: list[tuple[str, int, bool]], seed: int, limit: int, rate: float | None
) -> None:
    config = PlannerConfig(max_requests_per_second=rate, seed=seed)
    planner, now, luck, made = Planner(config), NOW, random.Random(seed), 0
    for turn, (move, number, known) in enumerate(life):
        match move:
            case "track":
                for _ in range(number):
                    made += 1
                    job_id = f"{'ab'[made % 2]}{made}"
                    planner.track(job_id, item_of(job_id, luck, now) if known else None, now, weight=1.0 + made % 2)
            case "look":
                found = restart_at(planner, now, number, f"{seed}{turn}", limit)
                now = found[-1][0] if found else now
            case "pass":
                now += number
            case "set back":
                now -= number
            case "weight":
                planner.set_weight(f"{'ab'[number % 2]}{number}", 4.0 if known else 0.25, now)
            case _:
                planner.forget(f"{'ab'[number % 2]}{number}")
    planner.next_request_at(now)
    now += 5.0  # a clock that ran a little behind what it had shown before has caught up
    planner.next_request_at(now)
    learn_all(planner)
    snapshot = json.loads(json.dumps(planner.snapshot()))
    restored = Planner.restore(config, snapshot)
    assert restored.snapshot() == snapshot
    planner.pacer.bucket = Bucket()  # empty, as the restored one's is
    expected = restart_at(planner, now, 25, str(seed), limit)
    found = restart_at(restored, now, 25, str(seed), limit)
    assert [job_id for _, job_id in found] == [job_id for _, job_id in expected]
    for (at, _), (expected_at, _) in zip(found, expected, strict=True):
        assert abs(at - expected_at) < 1e-3
