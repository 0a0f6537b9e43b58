"""Detection delay against requests spent: the relay's planner, the usual ways to poll, and the bound.

`python tests/benchmarks/polling.py [--jobs N] [--seeds 3] [--k 4] [--only workload] [--out DIR] [--span arrivals]
[--fast]` runs eight workloads, prints a table and writes polling.json, polling.md and polling.svg. Progress goes to
the standard error stream, a line a run. With few jobs the figures are worse: a run's length then nears the span.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from polling_baselines import BASELINES, LaneBackoff, best_hinted_backoff
from polling_figure import Panel, figure
from polling_workloads import NAMES, World, make
from polling_world import SharedLimit, simulate

from relay.core.planner import Planner, PlannerConfig

RELAY, BEST, BEST_LANES, BOUND = "relay", "best back-off + hints", "best + lane order", "bound"
WAYS = (RELAY, *BASELINES, BEST, BEST_LANES)
NO_HINT = "lanesU-nohint"
FIGURE_K = (1.25, 2.0, 4.0, 8.0)
FIGURE_WORKLOADS = ("lanes60", "bimodal", "heavy", "mix")
FIGURE_WAYS = (RELAY, "fixed 30 s", "google", BEST, BOUND)
RESERVE = 0.3
SHARED_HEADROOM = 1.6
"""The shared limit, as a multiple of what k requests a job are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One simulation: a way to poll, on a workload, with k requests a job allowed."""

    workload: str
    way: str
    k: float
    seed: int
    jobs: int
    arrivals: bool
    shared: bool = False


def bound(world: World, requests_per_job: float) -> float | None:
    """Mean delay in seconds that the true distributions allow at so many requests a job; None while not computed."""
    return None


def perform(run: Run) -> dict[str, Any]:
    """Runs it, in whatever process. Returns the outcome as plain values, the run's own among them."""
    begun = time.perf_counter()
    world = make(run.workload, run.seed, run.jobs)
    rate = world.requests_per_second(run.k, arrivals=run.arrivals)
    scale: float | None = None
    if run.shared:
        limit = SharedLimit(round(SHARED_HEADROOM * rate * 60), seed=run.seed, starts_at=world.jobs[0].created_at)
        planner = Planner(PlannerConfig(reserve=RESERVE, seed=run.seed))
        outcome = simulate(world, planner, seed=run.seed, limit=limit)
    elif run.way == RELAY:
        outcome = simulate(world, _planner(rate, run.seed), seed=run.seed)
    elif run.way == BEST:
        outcome, scale = best_hinted_backoff(world, rate, run.seed)
    elif run.way == BEST_LANES:
        outcome, scale = best_hinted_backoff(world, rate, run.seed, LaneBackoff)
    else:
        outcome = simulate(world, BASELINES[run.way](rate, run.seed), seed=run.seed)
    lowest = bound(world, outcome.requests_per_job) if run.way == RELAY else None
    return {
        **asdict(run),
        **asdict(outcome),
        "requests_per_job": outcome.requests_per_job,
        "scale": scale,
        "bound_seconds": lowest,
        "elapsed_seconds": time.perf_counter() - begun,
    }


def _planner(rate: float, seed: int) -> Planner:
    return Planner(PlannerConfig(max_requests_per_second=rate, seed=seed))


def perform_all(runs: list[Run], workers: int) -> list[dict[str, Any]]:
    """All runs, on several processes, with a line of progress for each."""
    with ProcessPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(perform, run) for run in runs]
        for number, done in enumerate(as_completed(futures), 1):
            result = done.result()
            print(
                f"{number}/{len(runs)} {result['workload']} k={result['k']:g} seed {result['seed']} "
                f"{result['way']}{' (shared limit)' if result['shared'] else ''}: "
                f"{result['mean_delay_seconds']:.2f} s, {result['requests_per_job']:.2f} requests a job, "
                f"took {result['elapsed_seconds']:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return [future.result() for future in futures]


def plan(workloads: list[str], k: float, seeds: int, jobs: int, arrivals: bool, fast: bool) -> list[Run]:
    """The table's runs, those with another client on the key, and the figure's; the longest first."""
    every = [
        Run(workload=workload, way=way, k=k, seed=seed, jobs=jobs, arrivals=arrivals)
        for workload in workloads
        for way in sorted(WAYS, key=lambda way: way not in (BEST, RELAY))
        if way != BEST_LANES or workload == NO_HINT
        for seed in range(1, seeds + 1)
    ]
    every += [
        Run(workload=workload, way=RELAY, k=k, seed=1, jobs=jobs, arrivals=arrivals, shared=True)
        for workload in workloads
        if workload == "mix" or len(workloads) == 1
    ]
    if not fast:
        every += [
            Run(workload=workload, way=way, k=other, seed=1, jobs=jobs, arrivals=arrivals)
            for workload in workloads
            if workload in FIGURE_WORKLOADS
            for other in FIGURE_K
            if other != k
            for way in FIGURE_WAYS
            if way != BOUND
        ]
    return every


def worst(results: list[dict[str, Any]], value: str, **wanted: Any) -> float | None:
    """The highest value among the runs that match; None where there is none."""
    values = [
        result[value]
        for result in results
        if result[value] is not None and all(result[name] == what for name, what in wanted.items())
    ]
    return max(values) if values else None


def table(results: list[dict[str, Any]], k: float) -> list[list[str]]:
    """Rows of text, the heading first: mean delay, worst of the seeds, and in brackets the requests a job sent."""
    rows = [["workload", *WAYS, BOUND, "p99", "first 30", "unfinished"]]
    for workload in NAMES:
        here = {"workload": workload, "k": k, "shared": False}
        if worst(results, "requests", **here) is None:
            continue
        row = [workload]
        for way in WAYS:
            delay = worst(results, "mean_delay_seconds", way=way, **here)
            spent = worst(results, "requests_per_job", way=way, **here)
            row.append("–" if delay is None or spent is None else f"{delay:.3g} ({spent:.2f})")
        for value in ("bound_seconds", "p99_delay_seconds", "first_jobs_mean_delay_seconds"):
            found = worst(results, value, way=RELAY, **here)
            row.append("–" if found is None else f"{found:.3g}")
        rows.append([*row, f"{worst(results, 'unfinished', **here):.0f}"])
    return rows


def shared_rows(results: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text about the runs with another client on the key."""
    rows = [["with another client on the key", "mean delay", "requests a job", "our 429s", "its 429s"]]
    for result in results:
        if result["shared"]:
            ours = result["rejected"] / result["requests"]
            theirs = result["others_rejected"] / max(result["others_requests"], 1)
            numbers = [f"{result['mean_delay_seconds']:.3g}", f"{result['requests_per_job']:.2f}"]
            rows.append([result["workload"], *numbers, f"{ours:.2%}", f"{theirs:.2%}"])
    return rows if len(rows) > 1 else []


def markdown(rows: list[list[str]]) -> str:
    """A Markdown table; all but the first column are numbers."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    return "\n".join(lines) + "\n"


def text(rows: list[list[str]]) -> str:
    """The same for a terminal."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def panels(results: list[dict[str, Any]]) -> list[Panel]:
    """The figure's panels: for each workload and way, (requests a job allowed, mean delay) with the first seed."""
    found = []
    for workload in FIGURE_WORKLOADS:
        lines: dict[str, list[tuple[float, float]]] = {}
        for result in results:
            if result["workload"] != workload or result["shared"] or result["seed"] != 1:
                continue
            if result["way"] in FIGURE_WAYS:
                lines.setdefault(result["way"], []).append((result["k"], result["mean_delay_seconds"]))
            if result["bound_seconds"] is not None:
                lines.setdefault(BOUND, []).append((result["k"], result["bound_seconds"]))
        if lines:
            order = {way: sorted(lines[way]) for way in FIGURE_WAYS if way in lines}
            found.append(Panel(title=workload, lines=order))
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, help="jobs a workload: 10,000, with --fast 2,000")
    parser.add_argument("--seeds", type=int, help="how many seeds, of which the worst counts: 3, with --fast 1")
    parser.add_argument("--k", type=float, default=4.0, help="requests a job that the limit allows")
    parser.add_argument("--only", choices=NAMES, help="one workload")
    parser.add_argument("--out", type=Path, default=Path("."), help="where the three files go")
    spans = "over which k requests a job are spread: to the last true end, or to the last job's creation"
    parser.add_argument("--span", choices=("ends", "arrivals"), default="ends", help=spans)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--fast", action="store_true", help="fewer jobs, one seed, and no figure")
    options = parser.parse_args()
    jobs = options.jobs or (2_000 if options.fast else 10_000)
    seeds = options.seeds or (1 if options.fast else 3)
    workloads = [options.only] if options.only else list(NAMES)
    results = perform_all(
        plan(workloads, options.k, seeds, jobs, options.span == "arrivals", options.fast), options.workers
    )
    tables = [rows for rows in (table(results, options.k), shared_rows(results)) if rows]
    print("\n\n".join(text(rows) for rows in tables))
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {"jobs": jobs, "seeds": seeds, "k": options.k, "span": options.span}
    (options.out / "polling.json").write_text(json.dumps({**settings, "runs": results}, indent=1) + "\n")
    heading = (
        f"Mean delay in seconds from a job's end to our knowing it, the worst of {seeds} seeds, and in brackets the "
        f"requests a job that were sent; {jobs:,} jobs a workload, {options.k:g} requests a job allowed "
        f"over the span to the last {'end' if options.span == 'ends' else 'creation'}.\n\n"
    )
    (options.out / "polling.md").write_text(heading + "\n".join(markdown(rows) for rows in tables))
    if not options.fast:
        (options.out / "polling.svg").write_text(figure(panels(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
