"""A workload for each preset of a source: times as its API documents them, and how its official client waits.

`PRESETS` is the table. A law is a mixture of (share, median in seconds, sigma of the lognormal). What `times` calls
assumed is our guess: no API documents a distribution. `client` says where the client's policy was read.

The simulation differs from that of the other workloads where an API does: progress in its items, fields that it lacks,
`Retry-After` on a good answer, and requests that it holds until the job ends.
"""

import math
import random
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

from polling_baselines import Fixed, Pending, Queue
from polling_bound import ROUGH_TOLERANCE, RUN_LAWS, WAIT_LAWS, bound, lognormal_survival, mixture
from polling_workloads import SimulatedJob, World, arrivals, lognormal
from polling_world import Outcome, simulate

from relay.core.planner import Planner, PlannerConfig

Law = tuple[tuple[float, float, float], ...]

RESERVE = 0.3
"""The relay leaves so much of a documented limit to others, as by default."""
FEWER = 0.9
"""Share of the client's requests that the relay gets where both are compared at equal cost."""
RELAY_AT_FEWER = f"relay at {FEWER:.0%} of the client's requests"
BLIND = "relay without progress"
MINUTE, HOUR = 60.0, 3600.0


class Growing(Queue):
    """A sleep of 1 s, 2 s, … up to 10 s, each with up to a second more; the first poll is at once."""

    def __init__(self, requests_per_second: float, seed: int) -> None:
        super().__init__(requests_per_second)
        self._rng = random.Random(seed)

    def next_due(self, job_id: str, job: Pending, item: Mapping[str, Any], now: float) -> float:
        job.step += 1
        return now + min(job.step, 10) + self._rng.random()


class Spread(Fixed):
    """A poll after so many seconds, give or take some."""

    def __init__(self, requests_per_second: float, seed: int, interval_seconds: float, jitter: float) -> None:
        super().__init__(requests_per_second, interval_seconds)
        self._rng, self._jitter = random.Random(seed), jitter

    def first_due(self, job_id: str, job: Pending, item: Mapping[str, Any], now: float) -> float:
        return self.next_due(job_id, job, item, now)

    def next_due(self, job_id: str, job: Pending, item: Mapping[str, Any], now: float) -> float:
        return now + self._seconds + self._rng.uniform(-self._jitter, self._jitter)


def every(seconds: float, *, at_once: bool = False) -> Callable[[float, int], Queue]:
    """A client that sleeps so long between polls."""
    return lambda rate, seed: Fixed(rate, seconds, at_once=at_once)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One kind of jobs of an API.

    run, wait      laws of the time from the start to the end, and from the create to the start; no `wait`: it starts at
                   once
    longest        seconds after which the API ends a run
    limit          requests and the seconds that they are for, of which the relay leaves RESERVE
    policy         the client's way to poll, at a rate and with a seed
    times, client  where the times and the client's policy come from
    shows          the moments that items have
    steps          its progress comes in so many equal steps; None: it has none
    uneven         how far the pace of progress changes during a run: 0 is linear
    shortest       documented shortest interval between two reads
    retry_after    on a good answer, in seconds
    holds          for so many seconds the API holds a read until the job ends
    open_jobs      so many are open at a time, on average
    """

    name: str
    run: Law
    wait: Law = ()
    longest: float = 24 * HOUR
    limit: tuple[float, float]
    policy: Callable[[float, int], Queue]
    times: str
    client: str
    shows: frozenset[str] = frozenset({"started_at", "finished_at"})
    steps: float | None = None
    uneven: float = 0.0
    shortest: float | None = None
    retry_after: int | None = None
    holds: float = 0.0
    open_jobs: float = 20.0

    @property
    def mean_seconds(self) -> float:
        """Mean time that a job is open."""
        parts = (*self.run, *self.wait)
        return sum(share * median * math.exp(sigma * sigma / 2) for share, median, sigma in parts)


NO_MOMENT: frozenset[str] = frozenset()
PRESETS = (
    Preset(
        name="replicate",
        wait=((0.8, 0.5, 0.5), (0.2, 60.0, 0.5)),
        run=((1.0, 8.0, 0.8),),
        limit=(3000, MINUTE),
        policy=every(0.5),
        times="cold boots take up to minutes (replicate.com/docs/topics/predictions/lifecycle); law assumed",
        client="replicate 1.0.7, Prediction.wait: 0.5 s",
    ),
    Preset(
        name="openai-batch",
        wait=((1.0, 60.0, 0.8),),
        run=((1.0, 30 * MINUTE, 1.0),),
        limit=(500, MINUTE),
        policy=every(60.0, at_once=True),
        times="within 24 h (platform.openai.com/docs/guides/batch); law, limit and the evenness of progress assumed",
        client="openai has no waiter; the usual loop of 60 s, as in Anthropic's example",
        shows=frozenset({"started_at"}),
        steps=1000,
        uneven=0.3,
    ),
    Preset(
        name="anthropic-batch",
        run=((1.0, 25 * MINUTE, 0.8),),
        limit=(50, MINUTE),
        policy=every(60.0, at_once=True),
        times="most within an hour, at most 24 h (build-with-claude/batch-processing); law assumed",
        client="anthropic has no waiter; the example in api/messages-batch-examples sleeps 60 s",
    ),
    Preset(
        name="apify",
        wait=((1.0, 2.0, 0.5),),
        run=((1.0, 90.0, 1.0),),
        limit=(60, 1.0),
        policy=every(0.25, at_once=True),
        times="assumed",
        client="apify-client 3.4.0, wait_for_finish: each request is held for 60 s, 0.25 s between two",
        holds=60.0,
    ),
    Preset(
        name="github-actions",
        wait=((1.0, 8.0, 0.6),),
        run=((1.0, 4 * MINUTE, 0.8),),
        longest=6 * HOUR,
        limit=(5000, HOUR),
        policy=every(3.0, at_once=True),
        times="at most 6 h a job (docs.github.com/actions/reference/limits); law assumed",
        open_jobs=2.0,
        client="gh run watch: --interval is 3 s by default; it reads jobs besides, which is not counted",
        shows=frozenset({"started_at"}),
    ),
    Preset(
        name="databricks-runs",
        wait=((0.5, 10.0, 0.5), (0.5, 4 * MINUTE, 0.3)),
        run=((1.0, 10 * MINUTE, 0.9),),
        limit=(100, 1.0),
        policy=Growing,
        times="serverless starts in seconds, clusters in minutes (docs.databricks.com/compute); law and shares assumed",
        client="databricks-sdk 0.162.0, wait_get_run_job_terminated_or_skipped: 1, 2, … 10 s, plus up to 1 s",
    ),
    Preset(
        name="stripe-reporting",
        run=((1.0, 90.0, 0.8),),
        limit=(25, 1.0),
        policy=every(5.0),
        times="assumed; Stripe documents none",
        client="stripe has no waiter; a loop of 5 s assumed",
    ),
    Preset(
        name="runway",
        run=((1.0, 50.0, 0.5),),
        limit=(300, MINUTE),
        policy=lambda rate, seed: Spread(rate, seed, 6.0, 1.5),
        times="the client gives up after 10 min; law, limit, and progress in steps of 5 % assumed",
        client="runwayml 5.24.0, lib/polling.py: 6 s, give or take 1.5 s",
        shows=frozenset({"started_at"}),
        steps=20,
        uneven=0.3,
        shortest=5.0,
    ),
    Preset(
        name="azure-lro",
        run=((1.0, 3 * MINUTE, 0.7),),
        limit=(12_000, HOUR),
        policy=every(10.0),
        times="Retry-After is 10 s to 10 min (ARM's RPC guidelines); law, and percentComplete in steps of 10 % assumed",
        client="azure-core 1.41.0, LROBasePolling: Retry-After, else 30 s",
        steps=10,
        uneven=0.3,
        retry_after=10,
    ),
    Preset(
        name="revor jobs_v2",
        wait=((1.0, 1.0, 0.5),),
        run=((1.0, 25.0, 0.8),),
        limit=(600, MINUTE),
        policy=every(2.0),
        times="a create holds up to 20 s; law and limit assumed",
        client="Revor's own: 2 s",
    ),
    Preset(
        name="revor websets",
        run=((1.0, 12 * MINUTE, 0.8),),
        limit=(600, MINUTE),
        policy=every(5.0),
        times="minutes up to an hour; law, limit, and qualified of a goal of 50 at an uneven pace assumed",
        client="Revor's own: 5 s",
        shows=NO_MOMENT,
        steps=50,
        uneven=0.3,
    ),
)
BY_NAME = {preset.name: preset for preset in PRESETS}


@dataclass(frozen=True, slots=True)
class PresetJob(SimulatedJob):
    """A job with the fields that its API shows. `bend`: how much of its work it does early, or late below 0; None: it
    shows no progress."""

    bend: float | None = None

    def item_at(self, at: float) -> dict[str, Any]:
        preset = BY_NAME[self.action]
        item = SimulatedJob.item_at(self, at)
        for moment in {"started_at", "finished_at"} - preset.shows:
            item[moment] = None
        if preset.steps is not None and self.bend is not None and item["status"] == "running":
            start, end = self.attempts[0]
            part = (at - start) / (end - start)
            done = part + self.bend * part * (1 - part)
            item["left"] = 100.0 * (1 - math.floor(done * preset.steps) / preset.steps)
        return item


def draw(rng: random.Random, law: Law) -> float:
    """A time of this law."""
    _, median, sigma = rng.choices(law, [share for share, _, _ in law])[0]
    return lognormal(rng, median, sigma)


def make_preset(preset: Preset, seed: int, jobs: int, *, progress: bool = True) -> World:
    """The preset's workload: jobs that come one by one. Without `progress` its items have none."""
    rng, bends = random.Random(f"{preset.name} {seed}"), random.Random(f"bends {preset.name} {seed}")
    found = []
    for number, created in zip(range(jobs), arrivals(rng, jobs, preset.open_jobs / preset.mean_seconds), strict=False):
        start = created + (draw(rng, preset.wait) if preset.wait else 0.0)
        end = start + min(draw(rng, preset.run), preset.longest)
        bend = bends.uniform(-preset.uneven, preset.uneven) if progress else None
        found.append(
            PresetJob(f"{preset.name}-{number}", "", preset.name, "", created, None, ((start, end),), bend=bend)
        )
    return World(preset.name, tuple(found))


def survival(law: Law) -> Callable[[float], float]:
    """The chance that a time of this law is longer."""
    return mixture(*((share, lognormal_survival(median, sigma)) for share, median, sigma in law))


RUN_LAWS.update({preset.name: survival(preset.run) for preset in PRESETS})
WAIT_LAWS.update({preset.name: survival(preset.wait) for preset in PRESETS if preset.wait})


class PresetPlanner(Planner):
    """The relay's planner for the jobs of a preset: with its limit, its shortest interval and held requests."""

    def __init__(self, preset: Preset, seed: int, most_per_second: float | None = None) -> None:
        super().__init__(
            PlannerConfig(
                max_requests_per_second=most_per_second, static_limit=preset.limit, reserve=RESERVE, seed=seed
            )
        )
        self._preset = preset
        self._held: set[str] = set()

    def track(self, job_id: str, *arguments: Any, **options: Any) -> None:
        super().track(job_id, *arguments, **options, shortest_seconds=self._preset.shortest)

    def hold(self, job_id: str, now: float) -> float:
        """How long the upstream is asked to hold a read, in seconds; 0 for a plain one."""
        if not self._preset.holds or not self.expects_end(job_id, self._preset.holds, now):
            return 0.0
        self._held.add(job_id)
        return self._preset.holds

    def observed(
        self,
        job_id: str,
        item: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        sent_at: float,
        now: float,
        *,
        as_of: float | None = None,
        free: bool = False,
    ) -> None:
        if job_id in self._held:
            self._held.discard(job_id)
            as_of = now
        super().observed(job_id, item, headers, sent_at, now, as_of=as_of, free=free)


def relay(preset: Preset, world: World, seed: int, most_per_second: float | None = None) -> Outcome:
    """What the relay does with the workload."""
    planner = PresetPlanner(preset, seed, most_per_second)
    return simulate(world, planner, seed=seed, hold=planner.hold, headers=_headers(preset))


def perform_preset(name: str, seed: int, jobs: int) -> dict[str, Any]:
    """The client, the relay at the documented limit, the same without progress, at fewer requests than the client, and
    the bound at as many requests as the relay sent: it knows the laws, but reads no progress and holds no requests."""
    preset = BY_NAME[name]
    world = make_preset(preset, seed, jobs)
    client = preset.policy((1 - RESERVE) * preset.limit[0] / preset.limit[1], seed)
    waits = simulate(world, client, seed=seed, hold=lambda job_id, now: preset.holds, headers=_headers(preset))
    found = {"client": waits, "relay": relay(preset, world, seed)}
    fewer = world.requests_per_second(FEWER * waits.requests_per_job)
    found[RELAY_AT_FEWER] = relay(preset, world, seed, fewer)
    blind = make_preset(preset, seed, jobs, progress=False)
    if preset.steps is not None:
        found[BLIND] = relay(preset, blind, seed)
    sent = found["relay"].requests_per_job
    near = preset.mean_seconds / (2 * sent * sent)
    found["bound"] = bound(blind, sent, seed, near, tolerance=ROUGH_TOLERANCE).outcome
    return {
        "preset": name,
        "jobs": jobs,
        "times": preset.times,
        "policy": preset.client,
        **{way: {**asdict(outcome), "requests_per_job": outcome.requests_per_job} for way, outcome in found.items()},
    }


def perform_presets(seed: int, jobs: int, workers: int) -> list[dict[str, Any]]:
    """All presets, on several processes, with a line of progress for each."""
    found = {}
    with ProcessPoolExecutor(max_workers=workers) as pool:
        futures = [pool.submit(perform_preset, name, seed, jobs) for name in BY_NAME]
        for done in as_completed(futures):
            result = done.result()
            found[result["preset"]] = result
            print(*preset_table([result])[1], sep="  ", file=sys.stderr, flush=True)
    return [found[name] for name in BY_NAME]


def preset_table(results: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the heading first: mean delay in seconds, and in brackets the requests a job."""

    def cell(result: dict[str, Any], way: str) -> str:
        outcome = result.get(way)
        return "–" if outcome is None else f"{outcome['mean_delay_seconds']:.3g} ({outcome['requests_per_job']:.3g})"

    def wins(result: dict[str, Any]) -> str:
        client = result["client"]
        ways = (result["relay"], result[RELAY_AT_FEWER])
        better = [
            way["requests_per_job"] <= client["requests_per_job"]
            and way["mean_delay_seconds"] <= client["mean_delay_seconds"]
            for way in ways
        ]
        return "yes" if any(better) else "no"

    columns = ("client", "relay", "bound", RELAY_AT_FEWER, BLIND)
    return [
        ["preset", "jobs", *columns, "fewer and as soon"],
        *([each["preset"], str(each["jobs"]), *(cell(each, way) for way in columns), wins(each)] for each in results),
    ]


def _headers(preset: Preset) -> dict[str, str]:
    return {} if preset.retry_after is None else {"Retry-After": str(preset.retry_after)}
