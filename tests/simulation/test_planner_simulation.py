"""The planner against simulated upstreams: how late it is for what it spends, and how it shares a limit.

The worlds are those that `tests/benchmarks/polling.py` measures it on, small. All is seeded; no clock is read.
"""

import gc
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.core.planner import Planner, PlannerConfig
from tests.support.scale import scaled, soak_only

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from polling_baselines import GoogleDefault, HintedBackoff
from polling_bound import known
from polling_presets import BY_NAME, make_preset, perform_preset, relay
from polling_runs import HEAVY_WEIGHT
from polling_workloads import EPOCH, LANE_SPAN_SECONDS, MIX_SPAN_SECONDS, SimulatedJob, World, make
from polling_world import Outcome, SharedLimit, simulate


def allowed(world: World, requests_per_job: float) -> float:
    """Requests a second: so many a job over the span in which jobs arrive."""
    if world.name == "mix":
        span = MIX_SPAN_SECONDS
    else:
        span = LANE_SPAN_SECONDS if world.name.startswith("lanes") else len(world.jobs) / 1.0
    return requests_per_job * len(world.jobs) / span


def run(world: World, requests_per_second: float, seed: int = 1) -> Outcome:
    planner = Planner(PlannerConfig(max_requests_per_second=requests_per_second, seed=seed))
    return simulate(world, planner, seed=seed)


pytestmark = pytest.mark.verify

JOBS = scaled(500, 1_500)


@pytest.mark.parametrize(
    ("workload", "mean_delay_seconds", "of_googles_delay"),
    [
        pytest.param("lanes60", scaled(5.37, 3.33), 0.06, marks=soak_only),
        ("lanesU", scaled(3.8, 2.61), 0.02),
        pytest.param("lanesU-nohint", scaled(12.78, 10.0), 0.06, marks=soak_only),
        ("heavy", scaled(6.11, 7.54), 1.1),
        pytest.param("bimodal", scaled(1.76, 2.62), scaled(0.36, 0.15), marks=soak_only),
        ("retry", scaled(1.5, 1.67), scaled(0.32, 0.3)),
        pytest.param("drift", scaled(2.57, 2.75), 0.9, marks=soak_only),
        ("mix", scaled(5.43, 2.79), scaled(0.11, 0.06)),
    ],
)
def test_four_requests_a_job_are_enough(workload: str, mean_delay_seconds: float, of_googles_delay: float) -> None:
    """A fast part of the benchmark: what it measures at this size, and a quarter more for what rounding may change;
    and against google-api-core's default back-off: heavy tails without a hint save nothing, lanes almost everything."""
    world = make(workload, 1, JOBS)
    rate = allowed(world, 4.0)
    outcome, googles = run(world, rate), simulate(world, GoogleDefault(rate, 1), seed=1)
    assert outcome.unfinished == 0
    assert outcome.mean_delay_seconds <= 1.25 * mean_delay_seconds
    assert outcome.mean_delay_seconds <= of_googles_delay * googles.mean_delay_seconds
    assert workload in ("heavy", "drift") or outcome.p99_delay_seconds <= 0.8 * googles.p99_delay_seconds


PROGRESS = ("runway", "revor websets")


@pytest.mark.parametrize("name", PROGRESS)
def test_progress_that_an_upstream_reports_saves_requests(name: str) -> None:
    preset = BY_NAME[name]
    seeing, blind = (relay(preset, make_preset(preset, 1, 100, progress=progress), 1) for progress in (True, False))
    assert seeing.requests <= 0.75 * blind.requests
    assert seeing.mean_delay_seconds <= 1.2 * blind.mean_delay_seconds


@pytest.mark.parametrize("name", PROGRESS)
def test_progress_that_misleads_costs_little(name: str) -> None:
    """It stands at a quarter when half of the time has passed, and a job ends when most of it seems left."""
    preset = BY_NAME[name]
    world, blind = (make_preset(preset, 1, 100, progress=progress) for progress in (True, False))
    wrong = replace(world, jobs=tuple(replace(job, bend=-1.0) for job in world.jobs))
    misled, without = (relay(preset, each, 1) for each in (wrong, blind))
    assert misled.mean_delay_seconds <= 1.1 * without.mean_delay_seconds
    assert misled.requests <= 1.02 * without.requests


@pytest.mark.parametrize("name", ["apify", "azure-lro"])
def test_workload_of_a_preset_runs_to_its_end(name: str) -> None:
    """With requests that the upstream holds, and with pauses that it asks for."""
    found = perform_preset(name, 1, 30)
    assert not any(found[way]["unfinished"] for way in ("client", "relay", "bound"))
    assert found["relay"]["requests_per_job"] <= 2 * found["client"]["requests_per_job"]


@pytest.mark.parametrize("seed", scaled([1], [1, 2, 3]))
def test_first_jobs_of_a_class_are_polled_nearly_as_well_as_with_known_statistics(seed: int) -> None:
    """A fifth of them run for 900 s, and when the first get there nothing is known of 900 s: polls of them teach."""
    world = make("bimodal", seed, JOBS)
    rate = allowed(world, 4.0)
    first = run(world, rate, seed).first_jobs_mean_delay_seconds
    assert first <= 2.5 * known(world, rate, seed).first_jobs_mean_delay_seconds


@pytest.mark.parametrize(
    ("workload", "jobs"),
    scaled([("lanesU", 1_000)], [("lanes60", 4_000), ("lanesU", 4_000), ("mix", 1_500)]),
)
def test_a_job_that_weighs_four_times_as_much_is_known_sooner(workload: str, jobs: int) -> None:
    world = make(workload, 1, jobs)
    weights = {job.id: (1.0, HEAVY_WEIGHT)[number % 2] for number, job in enumerate(world.jobs)}
    planner = Planner(PlannerConfig(max_requests_per_second=allowed(world, 4.0), seed=1))
    delays = simulate(world, planner, seed=1, weights=weights).weight_mean_delays_seconds
    assert delays[f"{HEAVY_WEIGHT:g}"] <= 0.65 * delays["1"]


@pytest.mark.parametrize("workload", scaled(["retry"], ["lanes60", "retry", "heavy"]))
def test_with_enough_budget_ends_are_seen_soon(workload: str) -> None:
    """What the budget leaves over is spent on looking sooner, and never more than the budget."""
    world = make(workload, 2, 300)
    rate = allowed(world, 30.0)
    outcome, usual = run(world, rate), simulate(world, HintedBackoff(rate, 1.0), seed=1)
    assert outcome.mean_delay_seconds <= 1.5
    assert outcome.mean_delay_seconds <= 0.4 * usual.mean_delay_seconds
    assert outcome.requests <= rate * (world.ends_at - world.jobs[0].created_at + 60)


def test_lane_order_alone_saves_most_of_the_delay() -> None:
    world = make("lanesU-nohint", 3, 600)
    unreported = replace(world, jobs=tuple(replace(job, lane="") for job in world.jobs))
    rate = allowed(world, 4.0)
    assert run(world, rate).mean_delay_seconds <= 0.25 * run(unreported, rate).mean_delay_seconds


class CountedLimit(SharedLimit):
    """A shared limit that counts what each window was used for; the other client sends steadily."""

    burst_share = 1e-9

    def __init__(self, limit: int, *, steady_share: float) -> None:
        super().__init__(limit, seed=1, starts_at=EPOCH)
        self.steady_share = steady_share
        self.used: dict[int, int] = {}

    def _accept(self, at: float) -> bool:
        accepted = super()._accept(at)
        self.used[self._window] = self._used
        return accepted


def crowd(*ends: float) -> World:
    """Jobs that all begin at once."""
    return World(
        "crowd",
        tuple(
            SimulatedJob(f"j{number}", "", "a", "c", EPOCH, None, ((min(1.0, end / 2) + EPOCH, end + EPOCH),))
            for number, end in enumerate(ends)
        ),
    )


def test_a_limit_is_shared_without_rejections() -> None:
    """Wherever in a window the others' burst falls; theirs cannot all be spared, since nothing foretells a burst."""
    world = crowd(*(2.0 + number * 0.6 for number in range(1_000)))
    requests, rejected, others = 0, 0, []
    for seed in range(1, scaled(3, 5)):
        limit = SharedLimit(100, seed=seed, starts_at=EPOCH)
        outcome = simulate(world, Planner(PlannerConfig(reserve=0.3, seed=1)), seed=seed, limit=limit)
        requests, rejected = requests + outcome.requests, rejected + outcome.rejected
        others.append(outcome.others_rejected / outcome.others_requests)
    assert rejected <= 0.002 * requests
    assert sum(others) / len(others) <= 0.08


@pytest.mark.parametrize(("limit", "others", "ours"), [(120, 0.0, 0.7), (1200, 0.0, 0.7), (120, 0.2, 0.5)])
def test_what_others_leave_is_used(limit: int, others: float, ours: float) -> None:
    """All of the limit but the reserve and what others use."""
    shared = CountedLimit(limit, steady_share=max(others, 1e-9))
    outcome = simulate(crowd(*[0.1] * (limit * 4)), Planner(PlannerConfig(reserve=0.3, seed=1)), seed=1, limit=shared)
    whole_windows = sorted(shared.used)[1:-1]
    per_window = sum(shared.used[window] for window in whole_windows) / len(whole_windows) - others * limit
    assert 0.9 * ours * limit <= per_window <= 1.05 * ours * limit
    assert outcome.rejected == 0


@pytest.mark.parametrize(
    "item",
    [
        {"status": "scheduled", "scheduled_at": "2027-01-15T09:00:00Z"},
        pytest.param({"status": "queued"}, marks=soak_only),
        pytest.param({"status": "running", "started_at": "2027-01-15T07:00:00Z"}, marks=soak_only),
    ],
)
def test_a_million_jobs_keep_little_state(item: dict[str, Any]) -> None:
    """Bytes a job, its id not counted, at as many jobs as fill the dictionary of jobs as far as a million do."""
    names = [f"job{number:06}" for number in range(15_600)]
    item = {**item, "action": "outreach.dispatch", "channel": "email"}
    planner = Planner(PlannerConfig())
    planner.track("first", item, EPOCH)  # makes the tables of the one price that is met here
    gc.collect()
    tracemalloc.start()
    try:
        for number, name in enumerate(names):
            planner.track(name, item, EPOCH + number / 20_000)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not hasattr(planner.open_jobs.jobs["first"], "__dict__")
    assert taken / len(names) <= 400
