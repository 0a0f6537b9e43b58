"""`Prefer: wait=N` (RFC 7240): the response is sent when the job or group has ended, or after N seconds."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

from starlette.datastructures import Headers

from relay.api.http.auth import TOKEN_GONE
from relay.api.http.operations import Call
from relay.core.jobs.groups import JobGroup
from relay.core.jobs.job import TERMINAL, Job
from relay.errors import NotFound, Unauthorized
from relay.signals import Watch

MAX_WAIT_SECONDS = 300
SLICE_SECONDS = 15.0
"""How often the job is read again without a signal."""
ELSEWHERE_SLICE_SECONDS = 1.0
"""The same if another node polls the account, because its signals can get lost."""
GROUP_SLICE_SECONDS = 5.0
"""The same for a group, which any node may finish."""

Value = TypeVar("Value")

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
    ports = call.ports

    def is_over(job: Job) -> bool:
        return is_reached(job, until_running=until_running)

    def slice_seconds() -> float:
        return SLICE_SECONDS if ports.tracking.polls(job) else ELSEWHERE_SLICE_SECONDS

    if seconds <= 0 or is_over(job):
        return job
    gone = NotFound(f"job {job.external_id} was purged while waiting", code="job_not_found")
    with ports.admission.waits.held(call.caller), ports.tracking.prioritize(job):
        watched, read = ports.signals.watch_job(job.uid), partial(ports.store.jobs.get, job.uid)
        return await _wait(call, seconds, watched, read, gone, is_over, slice_seconds)


async def wait_for_group(call: Call, group: JobGroup, seconds: float) -> JobGroup:
    """The group once its round has finished, or after `seconds`. Raises NotFound if it is erased, and Unauthorized
    if the caller's token is gone."""
    ports = call.ports

    def is_over(group: JobGroup) -> bool:
        return group.finished_at is not None

    if seconds <= 0 or is_over(group):
        return group
    gone = NotFound(f"group {group.name} was erased while waiting", code="group_not_found")
    with ports.admission.waits.held(call.caller):
        watched = ports.signals.watch_group(group.id)
        read = partial(ports.store.groups.get, group.id)
        return await _wait(call, seconds, watched, read, gone, is_over, lambda: GROUP_SLICE_SECONDS)


async def _wait(
    call: Call,
    seconds: float,
    watched: AbstractContextManager[Watch],
    read: Callable[[], Awaitable[Value | None]],
    gone: NotFound,
    is_over: Callable[[Value], bool],
    slice_seconds: Callable[[], float],
) -> Value:
    """The value once it is over, or after `seconds`. Raises `gone` if there is none any more."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + seconds
    waited_seconds = 0.0
    with watched as watch:
        while True:
            # Read after the watch began, so that what happened in between is seen.
            value = await read()
            if not call.is_allowed:
                raise Unauthorized(TOKEN_GONE)
            if value is None:
                raise gone
            left = min(ends_at - loop.time(), seconds - waited_seconds)
            if is_over(value) or left <= 0 or call.ports.node.stopping:
                return value
            turn = min(left, slice_seconds())
            if not await watch.wait(turn):
                waited_seconds += turn
