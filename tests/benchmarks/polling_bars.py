"""What the planner has to reach, and whether it does: the worst of the seeds, each compared with its own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from polling_baselines import BASELINES
from polling_runs import BEST, BEST_LANES, HEAVY_WEIGHT, KNOWN, RELAY, SCARCE_K
from polling_workloads import LANES, NAMES

Results = list[dict[str, Any]]

BAR, BEYOND, INFORMATION = "bar", "beyond", ""
"""What has to be met; what would be good besides; what is only reported."""

OF_BOUND = dict.fromkeys(NAMES, 1.25) | {"lanes60": 1.30, "lanesU-nohint": 1.40, "mix": 1.40}
OF_GOOGLE = dict.fromkeys(LANES, 0.05) | {"mix": 0.06, "bimodal": 0.12}
OF_BEST = dict.fromkeys(LANES, 0.7) | {"bimodal": 0.25, "mix": 0.60, "heavy": 1.05}
OF_BEST_WHEN_SCARCE = 1.05
OF_KNOWN_FIRST = 2.0
OF_WEIGHT_1 = 0.6
OUR_REJECTIONS, THEIR_REJECTIONS = 0.001, 0.08
P99_OF_MEAN = 4.0
PUBLISHED_BOUND = dict(zip(NAMES, (1.11, 1.10, 6.50, 7.42, 2.89, 1.61, 2.46, 2.07), strict=True))
PUBLISHED_METHOD = dict(zip(NAMES, (1.34, 1.23, 7.92, 8.40, 3.17, 1.69, 2.76, 2.49), strict=True))
"""Mean delays in seconds of the method's first description, with four requests a job allowed."""
PUBLISHED_K = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One figure that has to be at most its limit; None without a limit."""

    name: str
    workload: str
    figure: float
    limit: float | None = None
    kind: str = BAR

    @property
    def met(self) -> bool:
        """Whether it is reached; what has no limit is."""
        return self.limit is None or self.figure <= self.limit


def bars(results: Results, k: float) -> list[Bar]:
    """All bars of which there are runs, by name and then by workload."""
    found = [bar for workload in NAMES for bar in _of(results, workload, k)]
    names = list(dict.fromkeys(bar.name for bar in found))
    return sorted(found, key=lambda bar: (bar.kind == BEYOND, bar.kind == INFORMATION, names.index(bar.name)))


def _of(results: Results, workload: str, k: float) -> Iterator[Bar]:
    def each(way: str, k: float, **marks: bool) -> Results:
        marks = {"shared": False, "weighted": False} | marks
        return [
            result
            for result in results
            if (result["workload"], result["way"], result["k"]) == (workload, way, k)
            and all(result[name] == value for name, value in marks.items())
        ]

    def delay(result: dict[str, Any]) -> float:
        return float(result["mean_delay_seconds"])

    def least(ways: tuple[str, ...], k: float) -> dict[int, float]:
        """The shortest mean delay of several ways, for each seed."""
        found: dict[int, float] = {}
        for way in ways:
            for result in each(way, k):
                found[result["seed"]] = min(delay(result), found.get(result["seed"], delay(result)))
        return found

    def bar(
        name: str, of: Results, value: Callable[[dict[str, Any]], float], limit: float | None, kind: str = BAR
    ) -> Iterator[Bar]:
        if of:
            yield Bar(name=name, workload=workload, figure=max(map(value, of)), limit=limit, kind=kind)

    relay, scarce = each(RELAY, k), each(RELAY, SCARCE_K)
    relay_at_k = [result for result in relay if result["bound_at_k_seconds"] is not None]
    scarce_bound = [result for result in scarce if result["bound_seconds"] is not None]
    google, best = least(("google",), k), least((BEST, BEST_LANES), k)
    any_way = least((*BASELINES, BEST, BEST_LANES), SCARCE_K)
    first = {result["seed"]: result["first_jobs_mean_delay_seconds"] for result in each(KNOWN, k)}
    under_limit = least((KNOWN,), k)

    yield from bar(
        "mean / bound at the requests sent", relay, lambda r: delay(r) / r["bound_seconds"], OF_BOUND[workload]
    )
    if k == PUBLISHED_K:
        published, method = PUBLISHED_BOUND[workload], PUBLISHED_METHOD[workload]
        yield from bar("mean / published bound", relay, lambda r: delay(r) / published, OF_BOUND[workload])
        yield from bar("mean / published method", relay, lambda r: delay(r) / method, 1.0, BEYOND)
        sent = [r["bound_seconds"] / published for r in relay]
        if sent:
            middle = sorted(sent)[len(sent) // 2]
            yield Bar(name="bound / published bound, median", workload=workload, figure=middle, kind=INFORMATION)
    yield from bar(
        "mean / bound at k, seed 1", relay_at_k, lambda r: delay(r) / r["bound_at_k_seconds"], None, INFORMATION
    )
    if google and workload in OF_GOOGLE:
        yield from bar("mean / google", relay, lambda r: delay(r) / google[r["seed"]], OF_GOOGLE[workload])
    if best and workload in OF_BEST:
        yield from bar("mean / best back-off + hints", relay, lambda r: delay(r) / best[r["seed"]], OF_BEST[workload])
    if any_way:
        name = f"k = {SCARCE_K:g}: mean / best of the usual ways"
        yield from bar(name, scarce, lambda r: delay(r) / any_way[r["seed"]], OF_BEST_WHEN_SCARCE)
        name = f"k = {SCARCE_K:g}: mean / bound at the requests sent, seed 1"
        yield from bar(name, scarce_bound, lambda r: delay(r) / r["bound_seconds"], None, INFORMATION)
    if first:
        name = "first 30 jobs / with known distributions"
        yield from bar(name, relay, lambda r: r["first_jobs_mean_delay_seconds"] / first[r["seed"]], OF_KNOWN_FIRST)
        name = "mean / with known distributions"
        yield from bar(name, relay, lambda r: delay(r) / under_limit[r["seed"]], None, INFORMATION)
    weights = f"weight {HEAVY_WEIGHT:g} / weight 1"
    yield from bar(weights, each(RELAY, k, weighted=True), _heavy_of_normal, OF_WEIGHT_1)
    name = f"k = {SCARCE_K:g}: {weights}"
    yield from bar(name, each(RELAY, SCARCE_K, weighted=True), _heavy_of_normal, None, INFORMATION)
    shared = each(RELAY, k, shared=True)
    yield from bar("another client: our 429s", shared, lambda r: r["rejected"] / r["requests"], OUR_REJECTIONS)
    yield from bar(
        "another client: its 429s", shared, lambda r: r["others_rejected"] / r["others_requests"], THEIR_REJECTIONS
    )
    yield from bar("p99 / mean", relay, lambda r: r["p99_delay_seconds"] / delay(r), P99_OF_MEAN, BEYOND)
    yield from bar("jobs never seen to end", relay + scarce, lambda r: r["unfinished"], 0.0)


def bar_rows(found: list[Bar]) -> list[list[str]]:
    """Rows of text, the heading first."""
    rows = [["bar", "workload", "figure", "at most", "met"]]
    for bar in found:
        met = "" if bar.limit is None else "yes" if bar.met else "NO" if bar.kind == BAR else "not yet"
        name = f"{bar.kind}: {bar.name}" if bar.kind == BEYOND else bar.name
        rows.append([name, bar.workload, f"{bar.figure:.3g}", "" if bar.limit is None else f"{bar.limit:g}", met])
    return rows


def _heavy_of_normal(result: dict[str, Any]) -> float:
    delays: dict[str, float] = result["weight_mean_delays_seconds"]
    return delays[f"{HEAVY_WEIGHT:g}"] / delays["1"]
