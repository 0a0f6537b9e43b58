"""Detection delay against requests spent: the relay's planner, the usual ways to poll, and the bound.

`python tests/benchmarks/polling.py [--bars] [--jobs N] [--seeds 3] [--k 4] [--only workload] [--out DIR] [--fast]` runs
eight workloads, prints a table and writes polling.json and polling.md. With `--bars` it also says of each
bar whether it is met, and ends with 1 if one is not. Progress goes to the standard error stream, a line a run.

The limit allows k requests a job over the span of the arrivals: 4 h for lanes, 2 h for the mix, and for jobs that come
one by one the time from the first to the last creation. Jobs still run when that has passed, and the limit goes on: so
some more than k can be sent a job, most where runs are long. `--span ends` spreads the same number to the last true end
instead. With few jobs the figures are worse, as a run's length then nears the span.

With `--presets` it runs a workload for each preset of a source instead (polling_presets.py) and writes presets.json and
presets.md: mean delay and requests a job of the official client, of the relay at the API's documented limit, of the
bound, and of the relay at fewer requests than the client.

The bound is the relay's planner with the true distributions at a constant price and without a limit (polling_bound.py).
In the table and the bars it is that at as many requests a job as the relay sent; bars tell besides what it is at k.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from polling_bars import BAR, bar_rows, bars
from polling_presets import perform_presets, preset_table
from polling_runs import BOUND, RELAY, WAYS, perform_all, plan
from polling_workloads import NAMES

PRESET_JOBS = 200


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
        here = {"workload": workload, "k": k, "shared": False, "weighted": False}
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


def of_presets(jobs: int, workers: int, out: Path) -> int:
    """Runs the presets and writes their two files."""
    results = perform_presets(1, jobs, workers)
    rows = preset_table(results)
    print(text(rows))
    (out / "presets.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "presets.md").write_text(markdown(rows))
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, help="jobs a workload: 10,000, with --fast 2,000")
    parser.add_argument("--seeds", type=int, help="how many seeds, of which the worst counts: 3, with --fast 1")
    parser.add_argument("--k", type=float, default=4.0, help="requests a job that the limit allows")
    parser.add_argument("--bars", action="store_true", help="say whether each bar is met; 1 if one is not")
    parser.add_argument("--presets", action="store_true", help="a workload for each preset instead; 200 jobs each")
    parser.add_argument("--only", choices=NAMES, help="one workload")
    parser.add_argument("--out", type=Path, default=Path("."), help="where the two files go")
    spans = "over which k requests a job are spread: that of the arrivals, or to the last true end"
    parser.add_argument("--span", choices=("arrivals", "ends"), default="arrivals", help=spans)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--fast", action="store_true", help="fewer jobs, one seed")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.presets:
        return of_presets(options.jobs or PRESET_JOBS, options.workers, options.out)
    jobs = options.jobs or (2_000 if options.fast else 10_000)
    seeds = options.seeds or (1 if options.fast else 3)
    workloads = [options.only] if options.only else list(NAMES)
    arrivals = options.span == "arrivals"
    runs = plan(workloads, options.k, seeds, jobs, arrivals=arrivals, bars=options.bars)
    results = perform_all(runs, options.workers)
    judged = bars(results, options.k) if options.bars else []
    missed = [bar for bar in judged if bar.kind == BAR and not bar.met]
    tables = [rows for rows in (table(results, options.k), shared_rows(results)) if rows]
    if judged:
        tables.append(bar_rows(judged))
    print("\n\n".join(text(rows) for rows in tables))
    if judged:
        must = sum(bar.kind == BAR for bar in judged)
        print(f"\n{must - len(missed)} of {must} bars are met")
    settings = {"jobs": jobs, "seeds": seeds, "k": options.k, "span": options.span}
    reported = [{**asdict(bar), "met": bar.met} for bar in judged]
    (options.out / "polling.json").write_text(
        json.dumps({**settings, "bars": reported, "runs": results}, indent=1) + "\n"
    )
    span = "the arrivals' span" if arrivals else "the span to the last end"
    heading = (
        f"Mean delay in seconds from a job's end to our knowing it, the worst of {seeds} seeds, and in brackets the "
        f"requests a job that were sent; {jobs:,} jobs a workload, {options.k:g} requests a job allowed over {span}. "
        f"The bound is that at as many requests as the relay sent.\n\n"
    )
    (options.out / "polling.md").write_text(heading + "\n".join(markdown(rows) for rows in tables))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
