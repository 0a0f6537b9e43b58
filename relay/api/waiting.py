"""`Prefer: wait=N` (RFC 7240): the response is sent when the job has ended, or after N seconds."""

import asyncio
import re

from starlette.datastructures import Headers

from relay.api.auth import TOKEN_GONE
from relay.api.operations import Call
from relay.core.job import TERMINAL, Job
from relay.errors import NotFound, Unauthorized

MAX_WAIT_SECONDS = 300
SLICE_SECONDS = 15.0
"""How often the job is read again without a signal."""
ELSEWHERE_SLICE_SECONDS = 1.0
"""The same if another node polls the account, because its signals can get lost."""

_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?=$|[,;])", re.IGNORECASE)


def preferred_seconds(headers: Headers) -> int | None:
    """The seconds that the caller is willing to wait, capped; None if absent or malformed."""
    for given in headers.getlist("prefer"):
        found = _WAIT.search(given)
        if found is not None:
            return min(int(found[1]), MAX_WAIT_SECONDS)
    return None


def is_reached(job: Job, *, until_running: bool) -> bool:
    """Whether the wait is over: the job is closed, or has run if `until_running`."""
    if not job.open:
        return True
    progress = job.progress
    ran = progress.status == "running" or progress.status in TERMINAL or progress.running_sent or progress.retry_count
    return until_running and bool(ran)


async def wait_for(call: Call, job: Job, seconds: float, *, until_running: bool) -> Job:
    """The job once it is closed (or has run), or after `seconds`. Raises NotFound if it is purged, and
    Unauthorized if the caller's token is gone."""
    ports = call.ports
    if seconds <= 0 or is_reached(job, until_running=until_running):
        return job
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + seconds
    waited_seconds = 0.0
    waits, signals = ports.admission.waits, ports.signals
    with waits.held(call.caller), signals.watch_job(job.uid) as watch, ports.tracking.prioritize(job):
        while True:
            # Read after the watch began, so that what happened in between is seen.
            found = await ports.store.jobs.get(job.uid)
            if not call.is_allowed:
                raise Unauthorized(TOKEN_GONE)
            if found is None:
                raise NotFound(f"job {job.external_id} was purged while waiting", code="job_not_found")
            job = found
            left = min(ends_at - loop.time(), seconds - waited_seconds)
            if is_reached(job, until_running=until_running) or left <= 0 or ports.node.stopping:
                return job
            turn = min(left, SLICE_SECONDS if ports.tracking.polls(job) else ELSEWHERE_SLICE_SECONDS)
            if not await watch.wait(turn):
                waited_seconds += turn
