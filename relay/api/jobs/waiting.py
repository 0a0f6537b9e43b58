"""`Prefer: wait=N` (RFC 7240): the response is sent when the job or group has ended, or after N seconds."""

import asyncio
import re

from starlette.datastructures import Headers

from relay.api.http.auth import TOKEN_GONE
from relay.api.http.operations import Call
from relay.core.jobs.groups import JobGroup
from relay.core.jobs.job import TERMINAL, Job
from relay.errors import NotFound, Unauthorized
from relay.signals import Watch

MAX_WAIT_SECONDS = 300
SLICE_SECONDS = 15.0
"""Interval of reads of the job without a signal."""
ELSEWHERE_SLICE_SECONDS = 1.0
"""The same if another node polls the account, because its signals can get lost."""
GROUP_SLICE_SECONDS = 5.0
"""The same for a group, which any node may finish."""

_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?=$|[,;])", re.IGNORECASE)


def preferred_seconds(headers: Headers) -> int | None:
    """The seconds that the caller is willing to wait, capped; None if absent or malformed."""
    for given in headers.getlist("prefer"):
        found = _WAIT.search(given)
        if found is not None:
            return min(int(found[1]), MAX_WAIT_SECONDS)
    return None


def is_reached(job: Job, *, until_running: bool) -> bool:
    """True if the wait is over: the job is closed, or has run if `until_running`."""
    if not job.open:
        return True
    progress = job.progress
    ran = progress.status == "running" or progress.status in TERMINAL or progress.running_sent or progress.retry_count
    return until_running and bool(ran)


async def wait_for(call: Call, job: Job, seconds: float, *, until_running: bool) -> Job:
    """The job once it is closed (or has run), or after `seconds`. Raises NotFound if it is purged, and
    Unauthorized if the caller's token is gone."""
    dependencies = call.dependencies
    if seconds <= 0 or is_reached(job, until_running=until_running):
        return job
    with (
        dependencies.admission.waits.held(call.caller),
        dependencies.tracking.prioritize(job),
        dependencies.signals.watch(job.uid) as watch,
    ):
        wait = _Wait(call, watch, seconds)
        while True:
            # Read after the watch began, so that what happened in between is seen.
            found = await dependencies.store.jobs.get(job.uid)
            is_over = found is None or is_reached(found, until_running=until_running)
            slice_seconds = SLICE_SECONDS if dependencies.tracking.polls(job) else ELSEWHERE_SLICE_SECONDS
            if not await wait.goes_on(slice_seconds, is_over=is_over):
                if found is None:
                    raise NotFound(f"job {job.external_id} was purged while waiting", code="job_not_found")
                return found


async def wait_for_group(call: Call, group: JobGroup, seconds: float) -> JobGroup:
    """The group once its round has finished, or after `seconds`. Raises NotFound if it is erased, and Unauthorized
    if the caller's token is gone."""
    dependencies = call.dependencies
    if seconds <= 0 or group.finished_at is not None:
        return group
    with dependencies.admission.waits.held(call.caller), dependencies.signals.watch(group.id) as watch:
        wait = _Wait(call, watch, seconds)
        while True:
            found = await dependencies.store.groups.get(group.id)
            is_over = found is None or found.finished_at is not None
            if not await wait.goes_on(GROUP_SLICE_SECONDS, is_over=is_over):
                if found is None:
                    raise NotFound(f"group {group.name} was erased while waiting", code="group_not_found")
                return found


class _Wait:
    """The time left of a wait."""

    def __init__(self, call: Call, watch: Watch, seconds: float) -> None:
        self._call = call
        self._watch = watch
        self._seconds = seconds
        self._ends_at = asyncio.get_running_loop().time() + seconds
        self._waited_seconds = 0.0

    async def goes_on(self, slice_seconds: float, *, is_over: bool) -> bool:
        """Waits for a signal, up to `slice_seconds`. False without waiting if the wait is over. Raises Unauthorized if
        the caller's token is gone."""
        if not self._call.is_allowed:
            raise Unauthorized(TOKEN_GONE)
        left = min(self._ends_at - asyncio.get_running_loop().time(), self._seconds - self._waited_seconds)
        if is_over or left <= 0 or self._call.dependencies.node.stopping:
            return False
        turn = min(left, slice_seconds)
        if not await self._watch.wait(turn):
            self._waited_seconds += turn
        return True
