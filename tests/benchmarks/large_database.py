"""A database as a year of heavy use leaves it: a million jobs of five accounts, ten million events, three million
deliveries with their attempts, groups, incidents, connect accounts, what metadata is searched by, and the history that
the dashboard shows (`large_history.py`).

`python large_database.py URL [SCALE]` fills an empty database, SQLite or PostgreSQL, in about ten minutes at scale 1
(12 GB); at scale 0.1 it has a tenth of everything. `build` does the same for other programs. Rows are loaded past the
store, without the secondary indexes, which are made at the end. The newest rows are of `now`.
"""

import asyncio
import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from large_history import ACTION, history_rows

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex

from relay.clock import to_rfc3339
from relay.config.keyring import Keyring, new_key
from relay.core.jobs.job import indexed
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Subscription
from relay.ids import new_id
from relay.store.databases.database import Cipher
from relay.store.databases.statements import table_of
from relay.store.schema import migrations
from relay.store.schema.tables import (
    AttemptRow,
    ConnectAccountRow,
    DeliveryRow,
    EventRow,
    GroupRow,
    IncidentRow,
    JobRow,
    JobSearchRow,
)
from relay.store.store import open_store

JOBS, EVENTS, DELIVERIES = 1_000_000, 10_000_000, 3_000_000
DAYS = 30
DAY_SECONDS = 86_400
AT_ONCE = 50_000
SAID_EVERY = 100_000
ACCOUNTS = ("default", "default", "default", "eu", "us", "apac", "default", "pilot")
"""Half of the jobs are of one account, an eighth of each other one."""
CHANNELS = ("linkedin", "linkedin", "email", "whatsapp")
CONNECT_ACCOUNTS = 200
SUBSCRIPTIONS = 12
JOBS_A_GROUP = 500
CAMPAIGNS = 40
DEALS = 100_000
INCIDENTS = 400
PAUSED, DISABLED = "sub_large10", "sub_large11"
"""Whose deliveries are pending: a node that opens the database sends nothing."""
TYPES = ("ai.revor.job.overdue",)
"""What the subscriptions want: nothing that a benchmark records."""
KINDS = ("queued", "scheduled", "running", "retrying", "running", "retrying", "running", "retrying", "running")
SEARCH_KEYS = ("deal", "campaign")
SOURCE = "https://revor.ai/api/v1/outreach/jobs"
SUMMARY_TABLES = (GroupRow, IncidentRow, ConnectAccountRow)
TABLES = (JobRow, JobSearchRow, EventRow, DeliveryRow, AttemptRow, *SUMMARY_TABLES)

Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How many rows of each kind."""

    jobs: int = JOBS
    events: int = EVENTS
    deliveries: int = DELIVERIES

    def times(self, scale: float) -> "Size":
        """A multiple of it."""
        return Size(*(max(1_000, int(count * scale)) for count in (self.jobs, self.events, self.deliveries)))


@dataclass(frozen=True)
class Made:
    """One job, as far as its events need it."""

    number: int
    uid: str
    external_id: str
    account: str
    channel: str
    connect_account: str
    status: str
    at: float
    metadata: dict[str, Any]

    @property
    def closed(self) -> bool:
        return self.status in ("succeeded", "failed", "cancelled")


def _made(number: int, size: Size, now: float) -> Made:
    connect = (number * 0x9E3779B1 >> 7) % CONNECT_ACCOUNTS  # has nothing to do with the status
    newness = size.jobs - number
    if newness < size.jobs // 25 or number % 100 == 0:
        status = KINDS[number % 4]
    else:
        status = "failed" if number % 12 == 5 else "cancelled" if number % 50 == 7 else "succeeded"
    at = now - DAYS * DAY_SECONDS * newness / size.jobs
    return Made(
        number=number,
        uid=new_id("job", at),
        external_id=str(UUID(int=(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128)),
        account=ACCOUNTS[connect % len(ACCOUNTS)],
        channel=CHANNELS[connect % len(CHANNELS)],
        connect_account=f"acc_{connect}",
        status=status,
        at=at,
        metadata={"deal": number * 31 % DEALS, "campaign": f"c{number // JOBS_A_GROUP % CAMPAIGNS}", "owner": "kim"},
    )


def _group(job: Made) -> str | None:
    return f"group {job.number // JOBS_A_GROUP} of {job.account}" if job.number % 5 else None


def job_rows(jobs: Sequence[Made], size: Size) -> Iterator[Row]:
    """The rows of jobs. Defaults are the table's."""
    for job in jobs:
        item = {"id": job.external_id, "status": job.status, "channel": job.channel, "action": ACTION}
        closed_at = job.at + 3_000 if job.closed else None
        group = _group(job)
        yield {
            **{"uid": job.uid, "source": "revor", "account": job.account, "external_id": job.external_id},
            **{"status": job.status, "phase": job.status, "outcome": job.status if job.closed else None},
            **{"sequence": size.events // size.jobs, "retry_count": 0, "running_sent": 1, "overdue": 0},
            **{"action": ACTION, "channel": job.channel, "attempt_count": 1, "weight": 1.0},
            **{"scheduled_at": job.at + 600, "started_at": job.at + 900, "tracked_at": job.at},
            **{"last_polled_at": job.at + 3_000, "next_poll_at": None if job.closed else job.at + DAYS * DAY_SECONDS},
            **{"poll_step": 0, "closed_at": closed_at, "deadline_at": job.at + 7 * DAY_SECONDS},
            **{"deadline_seconds": 604_800.0, "poll_count": 9, "failure_count": 0, "missing_count": 0},
            **{"metadata": dumps(job.metadata), "upstream": dumps(item), "connect_account_id": job.connect_account},
            **{"group_name": group, "group_round": None if group is None else 1},
            "error_code": "needs_reconnect" if job.status == "failed" else None,
        }


def search_rows(jobs: Sequence[Made]) -> Iterator[Row]:
    """What jobs are found by."""
    for job in jobs:
        for key in SEARCH_KEYS:
            yield {"key": key, "digest": indexed(str(job.metadata[key])), "job_uid": job.uid}


def event_rows(jobs: Sequence[Made], size: Size) -> Iterator[tuple[Made, Row]]:
    """The events of jobs, in the order of the jobs."""
    a_job = size.events // size.jobs
    for job in jobs:
        for nth in range(a_job):
            kind = job.status if nth == a_job - 1 else KINDS[nth % len(KINDS)]
            at = job.at + nth * 300
            id, type = new_id("evt", at), f"ai.revor.job.{kind}"
            body = {
                **{"specversion": "1.0", "id": id, "source": SOURCE, "type": type, "subject": job.external_id},
                **{"time": to_rfc3339(at), "datacontenttype": "application/json", "sequence": f"{nth + 1:010}"},
                **{"sequencetype": "Integer", "account": job.account, "channel": job.channel, "status": kind},
                "data": {
                    "job": {"id": job.external_id, "uid": job.uid, "status": kind, "sequence": nth + 1},
                    **{"occurred_at": to_rfc3339(at), "detected_at": to_rfc3339(at + 1), "metadata": job.metadata},
                    "connect_account_id": job.connect_account,
                },
            }
            yield (
                job,
                {
                    **{"id": id, "job_uid": job.uid, "sequence": nth + 1, "type": type, "source": SOURCE},
                    **{"subject": job.external_id, "time": at, "recorded_at": at, "body": dumps(body)},
                    "owner": f"revor/{job.account}",
                },
            )


def delivery_rows(events: Sequence[tuple[Made, Row]], size: Size, first: int) -> Iterator[Row]:
    """Deliveries of a share of the events; `first`: the number of the first event."""
    for number, (job, event) in enumerate(events, first):
        if number * size.deliveries // size.events == (number + 1) * size.deliveries // size.events:
            continue
        nth = number * size.deliveries // size.events
        state, reason = "delivered", None
        if nth % 50 == 1:
            state, reason = "dead", ("gave_up", "refused", "gone")[nth // 50 % 3]
        elif nth % 200 == 2:
            state, reason = "cancelled", ("untracked", "unmatched")[nth // 200 % 2]
        elif nth % 2_000 == 3:
            state, reason = "uncertain", "uncertain"
        elif nth % 250 == 4:
            state = "pending"
        subscription = f"sub_large{job.number % (SUBSCRIPTIONS - 2)}" if state != "pending" else PAUSED
        at = event["recorded_at"] + 1
        yield {
            **{"id": new_id("dlv", at), "event_id": event["id"], "subscription_id": subscription},
            **{"job_uid": job.uid, "sequence": event["sequence"], "state": state, "priority": 0, "due_at": at},
            **{"attempt_count": 1, "made_count": 1, "created_at": at, "reason": reason, "alone": 0},
            "ended_at": None if state == "pending" else at + 2,
        }


def attempt_rows(deliveries: Sequence[Row]) -> Iterator[Row]:
    """One attempt of each delivery."""
    details = dumps(
        [
            [["content-type", "application/cloudevents+json"], ["webhook-id", "msg_1"]],
            [["content-type", "text/plain"]],
            [1.1, 2.2, 3.3, 4.4],
            None,
            False,
        ]
    )
    for delivery in deliveries:
        good = delivery["state"] == "delivered"
        yield {
            **{"delivery_id": delivery["id"], "number": 1, "started_at": delivery["created_at"], "duration_ms": 11.5},
            **{"status_code": 204 if good else 503, "error": None if good else "status", "details": details},
            **{"response_excerpt": None if good else "unavailable", "remote_ip": "192.0.2.1"},
            "decision": "delivered" if good else delivery["state"],
        }


def summary_rows(size: Size, now: float) -> Iterator[tuple[Any, Iterator[Row]]]:
    """Groups, incidents and connect accounts."""
    began = now - DAYS * DAY_SECONDS
    groups = max(1, size.jobs // JOBS_A_GROUP)

    def group(number: int, account: str, share: float) -> Row:
        at = began + number * DAYS * DAY_SECONDS / groups
        count, done = int(JOBS_A_GROUP * 0.8 * share), number < groups * 0.95
        counts = {"succeeded": int(count * 0.9), "failed": count - int(count * 0.9)} if done else {"running": count}
        return {
            **{"id": new_id("grp", at), "source": "revor", "account": account, "round": 1, "skipped": 0},
            **{"name": f"group {number} of {account}", "counts": counts, "failures": {"needs_reconnect": 1}},
            **{"first_at": at, "last_at": at + 900, "max_gap_seconds": 60.0, "due_at": None},
            "finished_at": at + 5_000 if done else None,
        }

    accounts = sorted(set(ACCOUNTS))
    yield (
        GroupRow,
        (
            group(number, account, ACCOUNTS.count(account) / len(ACCOUNTS))
            for number in range(groups)
            for account in accounts
        ),
    )
    yield (
        IncidentRow,
        (
            {
                **{"id": new_id("inc", began + nth * 3_600), "digest": f"digest {nth}", "kind": "jobs"},
                **{"source": "revor", "account": ACCOUNTS[nth % len(ACCOUNTS)], "connect_account_id": f"acc_{nth}"},
                **{"owner": f"revor/{ACCOUNTS[nth % len(ACCOUNTS)]}", "code": "needs_reconnect", "recent": []},
                **{"state": "open" if nth > INCIDENTS - 8 else "closed", "failed_count": 12, "told_count": 12},
                **{"first_failure_at": began + nth * 3_600, "last_failure_at": began + nth * 3_600 + 60},
                **{"opened_at": began + nth * 3_600 + 61},
                "closed_at": None if nth > INCIDENTS - 8 else began + nth * 3_600 + 5_000,
            }
            for nth in range(INCIDENTS)
        ),
    )
    yield (
        ConnectAccountRow,
        (
            {
                **{"source": "revor", "account": ACCOUNTS[nth % len(ACCOUNTS)], "id": f"acc_{nth}", "changes": []},
                **{"uid": new_id("acc", began), "channel": CHANNELS[nth % len(CHANNELS)], "name": f"Sender {nth}"},
                **{"state": "needs_reconnect" if nth % 40 == 3 else "ok", "since": began, "told_state": "ok"},
            }
            for nth in range(CONNECT_ACCOUNTS)
        ),
    )


def _written(row: Row) -> tuple[Any, ...]:
    return tuple(dumps(one).decode() if isinstance(one, dict | list) else one for one in row.values())


class _Sqlite:
    """Loads a SQLite file that nothing else has open."""

    def __init__(self, url: str) -> None:
        self._connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1000000", "temp_store = FILE"):
            self._connection.execute(f"PRAGMA {pragma}")

    async def run(self, statement: str) -> None:
        self._connection.execute(statement)

    async def load(self, table: Any, rows: Sequence[Row]) -> None:
        columns = list(rows[0])
        names = ", ".join(f'"{name}"' for name in columns)
        statement = f"INSERT INTO {table.name} ({names}) VALUES ({', '.join('?' * len(columns))})"
        values = [_written(row) for row in rows]
        self._connection.execute("BEGIN")
        self._connection.executemany(statement, values)
        self._connection.execute("COMMIT")

    async def close(self) -> None:
        await self.run("ANALYZE")
        await self.run("PRAGMA journal_mode = WAL")
        self._connection.close()


class _Postgres:
    """Loads a PostgreSQL database by COPY."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    async def open(cls, url: str) -> "_Postgres":
        connection = await asyncpg.connect(url)
        for setting in ("synchronous_commit = off", "maintenance_work_mem = '1GB'", "statement_timeout = 0"):
            await connection.execute(f"SET {setting}")
        return cls(connection)

    async def run(self, statement: str) -> None:
        await self._connection.execute(statement, timeout=3_600)

    async def load(self, table: Any, rows: Sequence[Row]) -> None:
        values = [_written(row) for row in rows]
        await self._connection.copy_records_to_table(table.name, records=values, columns=list(rows[0]), timeout=3_600)

    async def close(self) -> None:
        await self.run("VACUUM ANALYZE")
        await self._connection.close()


@contextlib.asynccontextmanager
async def _without_indexes(loader: _Sqlite | _Postgres, kind: str) -> Any:
    """Inside, the tables have their keys and constraints only."""
    dialect: Any = sqlite.dialect() if kind == "sqlite" else postgresql.dialect()  # type: ignore[no-untyped-call]
    indexes = [index for row in TABLES for index in table_of(row).indexes]
    for index in indexes:
        await loader.run(f"DROP INDEX {index.name}")
    yield
    for index in indexes:
        await loader.run(str(CreateIndex(index).compile(dialect=dialect)))


async def build(
    url: str, size: Size, cipher: Cipher, *, now: float | None = None, say: Callable[[str], None] = print
) -> None:
    """Fills an empty database that has the schema. `cipher` encrypts the sinks of the subscriptions."""
    now = time.time() if now is None else now
    kind = "sqlite" if url.startswith("sqlite") else "postgresql"
    began = time.monotonic()
    store = await open_store(url, cipher, now=now)
    states: dict[str, Any] = {PAUSED: "paused", DISABLED: "disabled"}
    for nth in range(SUBSCRIPTIONS):
        id = f"sub_large{nth}"
        sink, state = f"https://sink-{nth}.example/hook", states.get(id, "enabled")
        one = Subscription(id=id, sink=sink, types=TYPES, created_at=now - DAYS * DAY_SECONDS, state=state)
        await store.subscriptions.create(one)
    await store.close()
    loader: _Sqlite | _Postgres = _Sqlite(url) if kind == "sqlite" else await _Postgres.open(url)
    async with _without_indexes(loader, kind):
        numbers = iter(range(size.jobs))
        event_number = 0
        at_once = max(1, AT_ONCE * size.jobs // size.events)
        while chunk := [_made(number, size, now) for number in islice(numbers, at_once)]:
            events = list(event_rows(chunk, size))
            deliveries = list(delivery_rows(events, size, event_number))
            event_number += len(events)
            for row, rows in (
                (JobRow, job_rows(chunk, size)),
                (JobSearchRow, search_rows(chunk)),
                (EventRow, (event for _, event in events)),
                (DeliveryRow, iter(deliveries)),
                (AttemptRow, attempt_rows(deliveries)),
            ):
                if made := list(rows):
                    await loader.load(table_of(row), made)
            if (chunk[-1].number + 1) % SAID_EVERY < at_once:
                say(f"{kind}: {chunk[-1].number + 1:,} jobs, {time.monotonic() - began:.0f} s")
        for row, rows in summary_rows(size, now):
            await loader.load(table_of(row), list(rows))
        await _load_history(loader, size, now)
        say(f"{kind}: loaded, {time.monotonic() - began:.0f} s; making the indexes")
    await loader.close()
    say(f"{kind}: done, {time.monotonic() - began:.0f} s")


async def _load_history(loader: _Sqlite | _Postgres, size: Size, now: float) -> None:
    labels = {
        "account": [f"revor/{account}" for account in sorted(set(ACCOUNTS))],
        "subscription": [f"sub_large{nth}" for nth in range(SUBSCRIPTIONS)],
    }
    for row, rows in history_rows(labels, size.jobs / JOBS, now):
        while chunk := list(islice(rows, AT_ONCE)):
            await loader.load(table_of(row), chunk)


async def _main(url: str, scale: float) -> None:
    key = os.environ.get("RELAY_ENCRYPTION_KEY") or new_key()
    migrations.upgrade(url) if url.startswith("sqlite") else await asyncio.to_thread(migrations.create, url)
    await build(url, Size().times(scale), Keyring([key]))
    if "RELAY_ENCRYPTION_KEY" not in os.environ:
        print(f"RELAY_ENCRYPTION_KEY={key}")


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 1.0))
