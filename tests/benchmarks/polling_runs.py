"""Which simulations the polling benchmark is made of, and how they are run on several processes."""

import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

from polling_baselines import BASELINES, LaneBackoff, best_hinted_backoff
from polling_bound import bound, known
from polling_workloads import World, make
from polling_world import Outcome, SharedLimit, simulate

from relay.core.planner import Planner, PlannerConfig

RELAY, BEST, BEST_LANES, BOUND = "relay", "best back-off + hints", "best + lane order", "bound"
KNOWN = "known distributions"
"""The relay's planner under the same limit, but with the true distributions planted: nothing is to be learned."""
WAYS = (RELAY, *BASELINES, BEST, BEST_LANES)
NO_HINT = "lanesU-nohint"
SCARCE_K = 1.25
SHARED_WORKLOADS = ("mix",)
RESERVE = 0.3
SHARED_HEADROOM = 1.6
"""The shared limit, as a multiple of what k requests a job are."""
HEAVY_WEIGHT = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One simulation: a way to poll, on a workload, with k requests a job allowed.

    `shared`: another client uses the key. `weighted`: half of the jobs, drawn by lot, weigh HEAVY_WEIGHT.
    `bounds`: also the bound is computed, at the requests that were sent; `bound_at_k`: and at k.
    """

    workload: str
    way: str
    k: float
    seed: int
    jobs: int
    arrivals: bool
    shared: bool = False
    weighted: bool = False
    bounds: bool = False
    bound_at_k: bool = False


def perform(run: Run) -> dict[str, Any]:
    """Runs it, in whatever process. Returns the outcome as plain values, the run's own among them."""
    begun = time.perf_counter()
    world = make(run.workload, run.seed, run.jobs)
    outcome, scale = _simulated(run, world)
    sent = at_k = None
    if run.bounds:
        found = bound(world, outcome.requests_per_job, run.seed)
        sent = found.outcome.mean_delay_seconds
        if run.bound_at_k:
            at_k = bound(world, run.k, run.seed, found.price_seconds).outcome.mean_delay_seconds
    return {
        **asdict(run),
        **asdict(outcome),
        "requests_per_job": outcome.requests_per_job,
        "scale": scale,
        "bound_seconds": sent,
        "bound_at_k_seconds": at_k,
        "elapsed_seconds": time.perf_counter() - begun,
    }


def _simulated(run: Run, world: World) -> tuple[Outcome, float | None]:
    rate = world.requests_per_second(run.k, arrivals=run.arrivals)
    if run.way == BEST:
        return best_hinted_backoff(world, rate, run.seed)
    if run.way == BEST_LANES:
        return best_hinted_backoff(world, rate, run.seed, LaneBackoff)
    if run.way == KNOWN:
        return known(world, rate, run.seed), None
    if run.way != RELAY:
        return simulate(world, BASELINES[run.way](rate, run.seed), seed=run.seed), None
    if run.shared:
        limit = SharedLimit(round(SHARED_HEADROOM * rate * 60), seed=run.seed, starts_at=world.jobs[0].created_at)
        planner = Planner(PlannerConfig(reserve=RESERVE, seed=run.seed))
        return simulate(world, planner, seed=run.seed, limit=limit), None
    planner = Planner(PlannerConfig(max_requests_per_second=rate, seed=run.seed))
    weights = _weights(world, run.seed) if run.weighted else None
    return simulate(world, planner, seed=run.seed, weights=weights), None


def _weights(world: World, seed: int) -> dict[str, float]:
    rng = random.Random(f"weights {seed}")
    return {job.id: HEAVY_WEIGHT if rng.random() < 0.5 else 1.0 for job in world.jobs}


def perform_all(runs: list[Run], workers: int) -> list[dict[str, Any]]:
    """All runs, on several processes, with a line of progress for each."""
    with ProcessPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(perform, run) for run in runs]
        for number, done in enumerate(as_completed(futures), 1):
            result = done.result()
            marks = [mark for mark in ("shared", "weighted", "bounds") if result[mark]]
            print(
                f"{number}/{len(runs)} {result['workload']} k={result['k']:g} seed {result['seed']} "
                f"{result['way']}{' (' + ', '.join(marks) + ')' if marks else ''}: "
                f"{result['mean_delay_seconds']:.2f} s, {result['requests_per_job']:.2f} requests a job, "
                f"took {result['elapsed_seconds']:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return [future.result() for future in futures]


def plan(workloads: list[str], k: float, seeds: int, jobs: int, *, arrivals: bool, bars: bool) -> list[Run]:
    """The runs of the table and those with another client on the key, and with `bars` those that only bars need. The
    longest come first. Bounds that no bar needs are of the first seed only."""
    found: dict[Run, None] = {}

    def add(workload: str, way: str, k: float, seed: int, **marks: bool) -> None:
        found.setdefault(Run(workload=workload, way=way, k=k, seed=seed, jobs=jobs, arrivals=arrivals, **marks))

    for workload in workloads:
        for seed in range(1, seeds + 1):
            for way in WAYS:
                if way != BEST_LANES or workload == NO_HINT:
                    relay = way == RELAY
                    add(workload, way, k, seed, bounds=relay, bound_at_k=relay and seed == 1)
                    if bars:
                        add(workload, way, SCARCE_K, seed, bounds=relay and seed == 1)
            if bars:
                add(workload, KNOWN, k, seed)
                add(workload, RELAY, k, seed, weighted=True)
                add(workload, RELAY, SCARCE_K, seed, weighted=True)
            if workload in SHARED_WORKLOADS or len(workloads) == 1:
                add(workload, RELAY, k, seed, shared=True)
    return sorted(found, key=lambda run: (not run.bounds, run.way not in (BEST, BEST_LANES, RELAY, KNOWN)))
