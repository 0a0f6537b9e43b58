"""`Prefer: wait=N` (RFC 7240): the response is sent when the job or group has ended, or after N seconds."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from starlette.datastructures import Headers

from relay.api.http.auth import TOKEN_GONE
from relay.api.http.operations import Call
from relay.core.jobs.groups import JobGroup
from relay.core.jobs.job import TERMINAL, Job
from relay.errors import NotFound, Unauthorized

Value = TypeVar("Value")

MAX_WAIT_SECONDS = 300
PREFER = {"Prefer": f"`wait=N`: N seconds, at most {MAX_WAIT_SECONDS}."}
APPLIED = {"Preference-Applied": "`wait=N` with the value used, if the request asked to wait."}
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


def applied(seconds: int | None) -> Mapping[str, str]:
    """The headers of the answer to a caller who was willing to wait for `seconds`."""
    return {} if seconds is None else {"Preference-Applied": f"wait={seconds}"}


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
    store, tracking = call.dependencies.store, call.dependencies.tracking
    if seconds <= 0 or is_reached(job, until_running=until_running):
        return job
    with call.dependencies.admission.waits.held(call.caller), tracking.prioritize(job):
        found = await _last_read(
            call,
            job.uid,
            seconds,
            read=lambda: store.jobs.get(job.uid),
            is_over=lambda now: is_reached(now, until_running=until_running),
            slice_seconds=lambda: SLICE_SECONDS if tracking.polls(job) else ELSEWHERE_SLICE_SECONDS,
        )
    if found is None:
        raise NotFound(f"job {job.external_id} was purged while waiting", code="job_not_found")
    return found


async def wait_for_group(call: Call, group: JobGroup, seconds: float) -> JobGroup:
    """The group once its round has finished, or after `seconds`. Raises NotFound if it is erased, and Unauthorized
    if the caller's token is gone."""
    groups = call.dependencies.store.groups
    if seconds <= 0 or group.finished_at is not None:
        return group
    with call.dependencies.admission.waits.held(call.caller):
        found = await _last_read(
            call,
            group.id,
            seconds,
            read=lambda: groups.get(group.id),
            is_over=lambda now: now.finished_at is not None,
            slice_seconds=lambda: GROUP_SLICE_SECONDS,
        )
    if found is None:
        raise NotFound(f"group {group.name} was erased while waiting", code="group_not_found")
    return found


async def _last_read(
    call: Call,
    id: str,
    seconds: float,
    *,
    read: Callable[[], Awaitable[Value | None]],
    is_over: Callable[[Value], bool],
    slice_seconds: Callable[[], float],
) -> Value | None:
    """The value once it is over or gone, or after `seconds`. It is read after each signal of `id`, and after
    `slice_seconds` without one. Raises Unauthorized if the caller's token is gone."""
    now = asyncio.get_running_loop().time
    ends_at, waited_seconds = now() + seconds, 0.0
    with call.dependencies.signals.watch(id) as watch:
        while True:
            # Read after the watch began, so that what happened in between is seen.
            found = await read()
            if not call.is_allowed:
                raise Unauthorized(TOKEN_GONE)
            left = min(ends_at - now(), seconds - waited_seconds)
            if found is None or is_over(found) or left <= 0 or call.dependencies.node.stopping:
                return found
            turn = min(left, slice_seconds())
            if not await watch.wait(turn):
                waited_seconds += turn
