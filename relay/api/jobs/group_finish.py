"""Forecasts the end of a group from the database alone, so every node can, also one that does not poll.

Forecasts are cached for 5 s and computed in a thread, one at a time.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from relay.clock import Clock
from relay.core.events.sentences import titled
from relay.core.jobs.groups import JobGroup
from relay.core.planner.job_times import durations_from
from relay.core.planner.statistics import ALL_CLASSES, LEARNED_EVENTS, OTHER, class_name
from relay.core.polling.group_forecast import ExpectedFinish, GroupWork, expected_finish, rate_per_hour
from relay.store.jobs.group_work import ENDED_READ, BrokenAccount, GroupReading

if TYPE_CHECKING:
    from relay.store.jobs.group_work import GroupWorkStore
    from relay.store.jobs.learned import LearnedStore

FRESH_SECONDS = 5.0
MAX_KEPT = 1_000
MAX_CLASSES = 50
"""Maximum classes of jobs in one forecast. Jobs of further classes count as average jobs of the source."""
MAX_NAMED = 3

_HEALTH = {
    "unauthorized": "The upstream refuses the key of {account}, so nothing is known of its jobs.",
    "down": "The upstream of {account} does not answer, so nothing is known of its jobs.",
}
_BROKEN = {"needs_reconnect": "needs reconnecting", "cannot_send": "cannot send"}


class GroupForecast(NamedTuple):
    """The forecast of a group. `note`: why there is none, or what it does not include; None: neither."""

    rate_per_hour: float | None = None
    finish: ExpectedFinish | None = None
    note: str | None = None


class GroupForecasts:
    """Forecasts of groups, cached for FRESH_SECONDS."""

    def __init__(self, work: "GroupWorkStore", learned: "LearnedStore", clock: Clock) -> None:
        self._work = work
        self._learned = learned
        self._clock = clock
        self._lock = asyncio.Lock()
        self._kept: OrderedDict[tuple[Any, ...], tuple[float, GroupForecast]] = OrderedDict()

    async def of(self, group: JobGroup) -> GroupForecast:
        """The forecast of a group that the caller may see."""
        if group.finished_at is not None:
            return GroupForecast(note="It has finished.")
        # A changed group has another key, so its forecast is computed at once.
        key = (group.id, group.round, group.arrived, group.expected, group.closed_at, group.open_jobs > 0)
        async with self._lock:
            now = self._clock()
            kept = self._kept.get(key)
            if kept is not None and abs(now - kept[0]) < FRESH_SECONDS:
                return kept[1]
            found = await self._forecast(group, now)
            self._kept[key] = (now, found)
            self._kept.move_to_end(key)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            return found

    async def _forecast(self, group: JobGroup, now: float) -> GroupForecast:
        reading = await self._work.read(group.source, group.account, group.name, since=group.first_at)
        rate = rate_per_hour(reading.ended, group.first_at, now, most=ENDED_READ)
        why = _trouble(group, reading)
        if why is None and not group.open_jobs and not _missing(group):
            why = "All of its jobs have ended. It finishes when no more come, or when it is closed."
        if why is not None:
            return GroupForecast(rate, None, why)
        jobs = [*(job for read in reading.jobs for job in (*read.first, *read.last)), *reading.others]
        classes = [OTHER, *sorted({(job.action or "", job.channel or "") for job in jobs} - {OTHER})[:MAX_CLASSES]]
        rows = await self._learned.find(group.source, [ALL_CLASSES, *(class_name(*key) for key in classes)])
        work = GroupWork(
            jobs=reading.jobs,
            open_count=group.open_jobs,
            others=reading.others,
            ended=reading.ended,
            missing=_missing(group),
            first_at=group.first_at,
            last_at=group.last_at,
            came_count=group.arrived,
        )
        finish = await asyncio.to_thread(_finish, work, classes, {row.name: row.values for row in rows}, now)
        if isinstance(finish, str):
            return GroupForecast(rate, None, finish)
        is_open = group.closed_at is None and group.expected is None
        return GroupForecast(rate, finish, "More jobs may come: this is about those known." if is_open else None)


def _finish(
    work: GroupWork, classes: Sequence[tuple[str, str]], learned: Mapping[str, str], now: float
) -> ExpectedFinish | str:
    """The expected finish. `learned`: the stored statistics of a source by the name of their class."""
    found = {
        key: durations
        for key in classes
        if (durations := durations_from(learned.get(ALL_CLASSES, ""), learned.get(class_name(*key), ""), *key))
    }
    if OTHER not in found:
        return f"Fewer than {LEARNED_EVENTS} runs of jobs of this source have been seen: too few to judge by."
    return expected_finish(work, lambda action, channel: found.get((action, channel), found[OTHER]), now)


def _missing(group: JobGroup) -> int:
    return 0 if group.expected is None else max(group.expected - group.arrived, 0)


def _trouble(group: JobGroup, reading: GroupReading) -> str | None:
    """The reason why there is no forecast; None: there is one."""
    health = _HEALTH.get(reading.health)
    if health is not None:
        return health.format(account=f"{group.source}/{group.account}")
    if reading.broken:
        return " ".join(_broken(each) for each in reading.broken[:MAX_NAMED])
    return None


def _broken(account: BrokenAccount) -> str:
    name = account.id if account.name is None else f"{account.name} ({account.id})"
    state = _BROKEN.get(account.state, "is not there any more")
    if account.state in ("ok", "new"):
        state = f"fails jobs ({account.trouble})"
    what = f"{titled(account.channel or '')} account".strip()
    return f"The {what} {name} {state}, and open jobs need it."
