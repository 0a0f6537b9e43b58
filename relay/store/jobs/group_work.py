"""Reads a group's remaining work for its forecast, in a bounded number of rows however large the group is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy.engine import Connection

from relay.core.events.event import owner_of
from relay.core.polling.group_forecast import EndedJob, OpenJob, ReadJobs
from relay.store.databases.database import Database
from relay.store.databases.statements import Sql, fetch_json, json_list, json_query, run, sql
from relay.store.outbox.incident_recorder import open_by_connect_account

OPEN_READ = 600
"""Maximum open jobs of a group that is read whole."""
EDGE_READ = 64
"""Jobs read at each end of a channel in a larger group."""
OTHERS_READ = 300
ENDED_READ = 200
MAX_CHANNELS = 16

_SHOWN = (
    *("in_group", "uid", "connect_account_id", "status", "action", "channel", "scheduled_at", "started_at"),
    *("next_attempt_at", "spacing_seconds", "tracked_at", "seen_at"),
)
_MADE = {  # `action` as in the name of the job's class: see `class_action`
    "action": "CASE resource WHEN '' THEN action ELSE resource || ':' || COALESCE(action, '') END AS action",
    "seen_at": "COALESCE(last_polled_at, tracked_at) AS seen_at",
}
_SELECTED = ", ".join(_MADE.get(name, name) for name in _SHOWN[1:])
_GROUP = "source = :source AND account = :account AND group_name = :name"
_OPEN = f"{_GROUP} AND closed_at IS NULL"


def _open(where: str, order: str) -> Sql:
    return json_query(
        f"SELECT 1 AS in_group, {_SELECTED} FROM jobs WHERE {_OPEN}{where} ORDER BY {order} LIMIT :count", _SHOWN
    )


# The open jobs of a group, by channel and scheduled time.
OPEN_OF_GROUP = _open("", "closed_at, channel, scheduled_at")
# The next channel of a group's open jobs.
NEXT_CHANNEL = sql(f"SELECT channel FROM jobs WHERE {_OPEN} AND channel > :after ORDER BY closed_at, channel LIMIT 1")
# A group's earliest scheduled open jobs of a channel.
FIRST_OF_CHANNEL = _open(" AND channel = :channel AND scheduled_at > 0", "closed_at, channel, scheduled_at")
# A group's latest scheduled open jobs of a channel.
LAST_OF_CHANNEL = _open(
    " AND channel = :channel AND scheduled_at > 0", "closed_at DESC, channel DESC, scheduled_at DESC"
)
# A group's open jobs of a channel without a scheduled time.
UNSCHEDULED_OF_CHANNEL = _open(" AND channel = :channel AND scheduled_at IS NULL", "closed_at, channel, scheduled_at")
# A group's open jobs without a channel.
WITHOUT_CHANNEL = _open(" AND channel IS NULL", "closed_at, channel, scheduled_at")
# The oldest open jobs of an account, of all groups. Bounds instead of an equality: see `newest_first`.
OPEN_OF_ACCOUNT = json_query(
    f"""
SELECT CASE WHEN group_name = :name THEN 1 ELSE 0 END AS in_group, {_SELECTED}
FROM jobs
WHERE (source, account) >= (:source, :account) AND (source, account) <= (:source, :account) AND closed_at IS NULL
ORDER BY source, account, uid LIMIT :count
""",
    _SHOWN,
)
# The last ended jobs of a group. Bounds instead of an equality: see `newest_first`.
ENDED_OF_GROUP = json_query(
    """
SELECT channel, started_at, closed_at, connect_account_id FROM jobs
WHERE (source, account, group_name) <= (:source, :account, :name)
  AND (source, account, group_name, closed_at) >= (:source, :account, :name, :since)
  AND group_name IS NOT NULL AND closed_at IS NOT NULL
ORDER BY source DESC, account DESC, group_name DESC, closed_at DESC LIMIT :count
""",
    ("channel", "started_at", "closed_at", "connect_account_id"),
)
# An account's jobs among the last ended jobs of all accounts.
ENDED_OF_ACCOUNT = json_query(
    """
SELECT channel, started_at, closed_at FROM (
  SELECT source, account, group_name, channel, started_at, closed_at FROM jobs
  WHERE closed_at IS NOT NULL ORDER BY closed_at DESC LIMIT :count
) AS found
WHERE source = :source AND account = :account AND (group_name IS NULL OR group_name <> :name)
""",
    ("channel", "started_at", "closed_at"),
)
# Connect accounts by id.
NEEDED = sql(
    """
SELECT id, channel, name, state, since FROM connect_accounts
WHERE source = :source AND account = :account AND id IN $json_values(ids) ORDER BY id
"""
)
# The health of an account.
HEALTH = "SELECT state FROM accounts WHERE source = :source AND name = :account"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedAccount:
    """A connect account of jobs that were read.

    state    None, as channel, name and since: no listing has it
    trouble  its open incident, which may be newer than the last listing
    waiting  number of these jobs that are open; `is_least`: the group may have more that were not read
    """

    id: str
    channel: str | None = None
    name: str | None = None
    state: str | None = None
    since: float | None = None
    trouble: str | None = None
    waiting: int = 0
    is_least: bool = False

    @property
    def cannot_send(self) -> bool:
        """True if its jobs fail until it is connected or repaired."""
        return self.state not in (None, "ok", "new") or self.trouble is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReading:
    """A group's remaining work. `health`: of its account; `accounts`: those of its open jobs and of those that ended
    last, the most urgent first."""

    health: str
    accounts: tuple[UsedAccount, ...]
    jobs: tuple[ReadJobs, ...]
    others: tuple[OpenJob, ...]
    ended: tuple[EndedJob, ...]


class _Part(NamedTuple):
    """Rows of open jobs: all, or the first and the last. `is_cut`: there may be more."""

    first: list[Any]
    last: Sequence[Any] = ()
    is_cut: bool = False


class GroupWorkStore:
    """Reads a group's remaining work."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, source: str, account: str, name: str, *, since: float) -> GroupReading:
        """A group's remaining work. `since`: start of its round, in epoch seconds."""
        return await self._database.read(_read, source, account, name, since)


def _read(connection: Connection, source: str, account: str, name: str, since: float) -> GroupReading:
    key = {"source": source, "account": account, "name": name}
    rows = fetch_json(connection, OPEN_OF_GROUP, **key, count=OPEN_READ + 1)
    parts = [_Part(rows)] if len(rows) <= OPEN_READ else _edges(connection, key)
    others = [row for row in fetch_json(connection, OPEN_OF_ACCOUNT, **key, count=OTHERS_READ) if not row[0]]
    ended = fetch_json(connection, ENDED_OF_GROUP, **key, since=since, count=ENDED_READ)
    beside = fetch_json(connection, ENDED_OF_ACCOUNT, **key, count=ENDED_READ)
    waiting = Counter(row[2] for part in parts for row in (*part.first, *part.last) if row[2] is not None)
    used = [*waiting, *(row[3] for row in ended if row[3] is not None)]
    is_cut = any(part.is_cut for part in parts)
    return GroupReading(
        health=run(connection, HEALTH, source=source, account=account).scalar_one_or_none() or "ok",
        accounts=_accounts(connection, (source, account), dict.fromkeys(used, 0) | waiting, is_cut) if used else (),
        jobs=tuple(each for part in parts for each in _by_channel(part)),
        others=tuple(OpenJob(*row[3:]) for row in others),
        ended=(
            *(EndedJob(channel, started_at, closed_at, in_group=True) for channel, started_at, closed_at, _ in ended),
            *(EndedJob(channel, started_at, closed_at, in_group=False) for channel, started_at, closed_at in beside),
        ),
    )


def _accounts(
    connection: Connection, place: tuple[str, str], waiting: Mapping[str, int], is_cut: bool
) -> tuple[UsedAccount, ...]:
    source, account = place
    owner = owner_of(source, account)
    troubles = open_by_connect_account(connection, [owner])
    rows = run(connection, NEEDED, source=source, account=account, ids=json_list(sorted(waiting)))
    listed = {row.id: {name: getattr(row, name) for name in ("channel", "name", "state", "since")} for row in rows}
    found = []
    for id, count in waiting.items():
        incidents = troubles.get((owner, id))
        trouble = incidents[-1].id if incidents else None
        found.append(UsedAccount(id=id, waiting=count, is_least=is_cut, trouble=trouble, **listed.get(id, {})))
    return tuple(sorted(found, key=lambda one: (not one.cannot_send, -one.waiting, one.name or one.id)))


def _edges(connection: Connection, key: dict[str, str]) -> list[_Part]:
    """The first and the last jobs of each channel."""
    parts: list[_Part] = []
    channel = ""
    for _ in range(MAX_CHANNELS):
        found = run(connection, NEXT_CHANNEL, **key, after=channel).scalar_one_or_none()
        if found is None:
            break
        channel = found
        first, last, unscheduled = (
            fetch_json(connection, statement, **key, channel=channel, count=EDGE_READ)
            for statement in (FIRST_OF_CHANNEL, LAST_OF_CHANNEL, UNSCHEDULED_OF_CHANNEL)
        )
        is_cut = EDGE_READ in (len(first), len(unscheduled))
        seen = {row[1] for row in first}
        parts.append(_Part([*first, *unscheduled], [row for row in reversed(last) if row[1] not in seen], is_cut))
    rows = fetch_json(connection, WITHOUT_CHANNEL, **key, count=EDGE_READ)
    return [*parts, _Part(rows, is_cut=len(rows) == EDGE_READ)]


def _by_channel(part: _Part) -> list[ReadJobs]:
    jobs: dict[str | None, tuple[list[OpenJob], list[OpenJob]]] = {}
    for at, rows in enumerate((part.first, part.last)):
        for row in rows:
            job = OpenJob(*row[3:])
            jobs.setdefault(job.channel, ([], []))[at].append(job)
    return [
        ReadJobs(channel=channel, first=tuple(first), last=tuple(last), is_cut=part.is_cut)
        for channel, (first, last) in jobs.items()
    ]
