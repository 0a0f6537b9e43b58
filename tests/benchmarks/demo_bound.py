"""How soon the ends in `relay demo --jobs 300 --speed 60 --rate-limit 60/60 --compare naive` can be known at all.

Three of a hundred jobs of the sandbox are cancelled while they wait, at a moment that nothing foretells: whoever is to
know of it has to look at jobs of which nothing is to be expected, with one request a second for three hundred of them.
`python demo_bound.py` lives through the demo's worlds with two that look:

naive   each open job every 5 s, one request after the other, first in, first out: the demo's own
oracle  knows every other end the second it happens and needs no request for it; knows the law of the cancellations,
        and when each job would start; gives each request to the waiting job whose end unseen costs most by now

and prints the mean delays of all jobs, in seconds at speed 1, and how many times sooner the oracle is. No planner that
has to learn that law, and needs requests for the other ends, gets there.
"""

import heapq
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from relay.sandbox.example_requests import dispatch_body
from relay.sandbox.lifecycle import SandboxJob
from relay.sandbox.world import World

JOBS = 300
WINDOW_SECONDS, WINDOW_REQUESTS = 60.0, 60
NAIVE_SECONDS = 5.0
REQUEST_SECONDS = 0.1
CANCELLED_SHARE, FIRST_SHARE, LAST_SHARE = 0.03, 0.1, 0.9  # relay/sandbox/fate.py
OTHER_END_SECONDS = 1.0  # what the planner needs for an end with four looks a job (docs/design/polling.md, lanes60)
SEEDS = range(1, 6)


def world(seed: int) -> tuple[list[SandboxJob], list[float]]:
    """The demo's jobs, all made at once, and when each starts or would have."""
    made = World(seed=seed)
    jobs: list[SandboxJob] = []
    for index in range(JOBS):
        body = dispatch_body(index)
        jobs.append(made.create(account="account", channel=body["channel"], now=0.0))
    starts = []
    for job in jobs:
        share = job.fate.cancelled_at_share
        start = job.first_started_at
        starts.append(job.ended_at / share if start is None else start)
    return jobs, starts


def naive(jobs: list[SandboxJob]) -> float:
    """The mean delay of the plain poller."""
    line = [(NAIVE_SECONDS, job.index) for job in jobs]
    heapq.heapify(line)
    now, used, window, delays = 0.0, 0, 0, []
    while line:
        due, index = heapq.heappop(line)
        now = max(now, due)
        if (current := int(now // WINDOW_SECONDS)) != window:
            window, used = current, 0
        if used == WINDOW_REQUESTS:
            window, used = window + 1, 0
            now = window * WINDOW_SECONDS
        used += 1
        now += REQUEST_SECONDS
        if jobs[index].ended_at <= now:
            delays.append(now - jobs[index].ended_at)
        else:
            heapq.heappush(line, (now + NAIVE_SECONDS, index))
    return statistics.fmean(delays)


def oracle(jobs: list[SandboxJob], starts: list[float]) -> float:
    """The mean delay over all jobs, those that are not cancelled with none."""
    seen = [FIRST_SHARE * start for start in starts]
    open_jobs = set(range(JOBS))
    late, now = 0.0, 0.0
    while open_jobs:
        now += WINDOW_SECONDS / WINDOW_REQUESTS
        for index in [index for index in open_jobs if starts[index] <= now]:
            open_jobs.remove(index)  # it should start now: its cancellation is known at the latest
            if jobs[index].first_started_at is None:
                late += starts[index] - jobs[index].ended_at

        def cost(index: int) -> float:
            unseen = min(now, LAST_SHARE * starts[index]) - seen[index]  # noqa: B023 - called in this turn
            return max(unseen, 0.0) * (2 * now - seen[index] - seen[index] - unseen) / starts[index]  # noqa: B023

        if not open_jobs:
            break
        index = max(open_jobs, key=cost)
        seen[index] = max(seen[index], now)
        if jobs[index].first_started_at is None and jobs[index].ended_at <= now:
            late += now - jobs[index].ended_at
            open_jobs.remove(index)
    return late / JOBS


def main() -> None:
    """The table."""
    print("seed  cancelled  naive, s  oracle, s  times sooner  and with a second for each other end")
    for seed in SEEDS:
        jobs, starts = world(seed)
        cancelled = sum(job.first_started_at is None for job in jobs)
        slow, best = naive(jobs), oracle(jobs, starts)
        usual = best + OTHER_END_SECONDS * (JOBS - cancelled) / JOBS
        print(f"{seed:4}  {cancelled:9}  {slow:8.1f}  {best:9.2f}  {slow / best:12.1f}  {slow / usual:10.1f}")


if __name__ == "__main__":
    main()
