"""Forecasts the end of a group from the database alone, so every node can, also one that does not poll.

Forecasts are cached for 5 s and computed in a thread, one at a time.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from relay.clock import Clock
from relay.core.events.sentences import counted, titled
from relay.core.jobs.groups import JobGroup
from relay.core.planner.job_times import durations_from
from relay.core.planner.statistics import ALL_CLASSES, LEARNED_EVENTS, OTHER, class_name
from relay.core.polling.group_forecast import ExpectedFinish, GroupWork, expected_finish, rate_per_hour
from relay.store.jobs.group_work import ENDED_READ, GroupReading, UsedAccount

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
_STATES = {"needs_reconnect": "which needs reconnecting", "cannot_send": "which cannot send"}


class GroupForecast(NamedTuple):
    """The forecast of a group.

    note           why there is none, or what it does not include; None: neither
    accounts       connect accounts of its open jobs and of those that ended last, the most urgent first
    last_ended_at  when its last job ended; None: none has
    """

    rate_per_hour: float | None = None
    finish: ExpectedFinish | None = None
    note: str | None = None
    accounts: tuple[UsedAccount, ...] = ()
    last_ended_at: float | None = None


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
        # A changed group has another key, so its forecast is computed at once.
        key = (
            group.id,
            group.round,
            group.arrived,
            group.expected,
            group.closed_at,
            group.finished_at,
            group.open_jobs > 0,
        )
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
        last_ended_at = max((job.closed_at for job in reading.ended if job.in_group), default=None)
        found = GroupForecast(accounts=reading.accounts, last_ended_at=last_ended_at)
        if group.finished_at is not None:
            return found._replace(note="It has finished.")
        found = found._replace(rate_per_hour=rate_per_hour(reading.ended, group.first_at, now, most=ENDED_READ))
        why = _trouble(group, reading)
        if why is None and not group.open_jobs and not _missing(group):
            why = "All of its jobs have ended. It finishes when no more come, or when it is closed."
        if why is not None:
            return found._replace(note=why)
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
            return found._replace(note=finish)
        is_open = group.closed_at is None and group.expected is None
        note = "More jobs may come: this is about those known." if is_open else None
        return found._replace(finish=finish, note=note)


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
    needed = [one for one in reading.accounts if one.waiting and one.cannot_send]
    return " ".join(map(_waiting, needed[:MAX_NAMED])) or None


def _waiting(account: UsedAccount) -> str:
    """The open jobs that need an account which cannot send, in a sentence."""
    what = f"{titled(account.channel or '')} account {account.name or account.id}".strip()
    state = _STATES.get(account.state or "", "which is not there any more")
    if account.state in (None, "ok", "new"):
        state = "whose jobs fail"
    least = "at least " if account.is_least else ""
    jobs = f"{least}{counted(account.waiting, 'job')} {'waits' if account.waiting == 1 else 'wait'}"
    return f"{jobs[:1].upper()}{jobs[1:]} for the {what}, {state}."
