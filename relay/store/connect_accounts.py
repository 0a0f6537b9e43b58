"""Connect accounts: what the listings of an upstream account have shown, and the events that tell it.

A listing is compared with what was read, outside any transaction. `accounts.listed_at` is the version of what was
read: the write changes nothing if another listing was recorded meanwhile, by this node or another. So a takeover, a
restart or two listings at once never tell a change twice.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, and_, bindparam, select, tuple_
from sqlalchemy.engine import Connection, Row
from sqlmodel import col

from relay.core.events.event import owner_of
from relay.core.jobs.connect_accounts import NEW, ConnectAccount, Known
from relay.core.jsontext import dumps
from relay.core.records import ConnectAccountReport, ListingRecord, Page
from relay.ids import new_id
from relay.store.databases.database import Database
from relay.store.databases.group_commit import in_order_of
from relay.store.databases.locks import MATCH, TransactionLock, incidents_of, locking
from relay.store.databases.pages import decode_cursor, page_of
from relay.store.databases.statements import TEXT, fetch, insert_into, json_list, run, run_many, sql, table_of
from relay.store.outbox.incident_recorder import Summary, joined, open_by_connect_account
from relay.store.outbox.recording import Outbox
from relay.store.schema.summary_tables import ConnectAccountRow
from relay.store.schema.tables import AccountRow
from relay.store.scoped import Scoped

_KEY = ("source", "account", "id")
_FIELDS = (
    *("channel", "name", "status", "can_send", "state", "since", "unconfirmed", "unconfirmed_at"),
    *("changes", "told_state", "told_at"),
)
NEVER = -1.0
"""Stands for a `listed_at` that is NULL."""

# When the connect accounts of an upstream account were last listed.
LISTED_AT = "SELECT listed_at FROM accounts WHERE source = :source AND name = :account"
# Notes a listing, unless another one was recorded since `expected`.
MARK_LISTED = f"""
{insert_into(AccountRow, "source", "name", "listed_at", constants={"state": "'ok'"})}
ON CONFLICT (source, name) DO UPDATE SET listed_at = excluded.listed_at
WHERE COALESCE(accounts.listed_at, {NEVER}) = :expected
"""
# The connect accounts of an upstream account.
OF_ACCOUNT = select(ConnectAccountRow).where(
    col(ConnectAccountRow.source) == bindparam("source"), col(ConnectAccountRow.account) == bindparam("account")
)
# Writes a connect account.
KEEP = sql(
    insert_into(ConnectAccountRow, *_KEY, "uid", *_FIELDS).replace(":changes", "$json(changes)")
    + f" ON CONFLICT (source, account, id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _FIELDS)}"
)
# Forgets a connect account.
FORGET = "DELETE FROM connect_accounts WHERE source = :source AND account = :account AND id = :id"
# How many open jobs name each of some connect accounts.
OPEN_JOBS = sql(
    """
SELECT wanted.source, wanted.account, wanted.id, (
  SELECT COUNT(*) FROM jobs WHERE jobs.source = wanted.source AND jobs.account = wanted.account
    AND jobs.connect_account_id = wanted.id AND jobs.closed_at IS NULL
) AS open_count
FROM $json_rows(accounts) AS wanted
""",
    accounts={"source": TEXT, "account": TEXT, "id": TEXT},
)


class ConnectAccountStore(Scoped):
    """Reads and writes of connect accounts."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def known(self, source: str, account: str) -> Known:
        """What is known of the connect accounts of an upstream account."""
        return await self._database.read(_known, source, account)

    async def open_jobs(self, source: str, account: str, ids: Sequence[str]) -> dict[str, int]:
        """How many open jobs name each of these connect accounts."""
        counts = await self._database.read(_open_jobs, [(source, account, id) for id in ids])
        return {id: count for (_, _, id), count in counts.items()}

    async def record(self, record: ListingRecord) -> bool:
        """Writes what a listing changes, with its events, in one transaction. False if another listing was recorded
        since what is known was read: then nothing is written."""
        return await self._database.write(self._record, record)

    async def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        source: str | None = None,
        account: str | None = None,
        state: str | None = None,
    ) -> Page[ConnectAccountReport]:
        """In the order in which they were first seen."""
        statement = page_statement(limit, decode_cursor(cursor, prefix="acc_"), source, account, state)
        if self._account is not None:
            places = tuple_(col(ConnectAccountRow.source), col(ConnectAccountRow.account))
            statement = statement.where(places == self._account)
        return await self._database.read(_page, statement, limit)

    @locking(lambda item: _locks_of(item))
    def _record(self, connection: Connection, items: Sequence[ListingRecord]) -> Sequence[bool | Exception]:
        written = _write(connection, items)
        current = [item for item, is_current in zip(items, written, strict=True) if is_current is True]
        closed = [self._close_incidents(connection, item) for item in current if item.recovered]
        self._outbox.insert(connection, [(one.event, None) for item in current for one in item.news], joined(closed))
        return written

    def _close_incidents(self, connection: Connection, item: ListingRecord) -> Summary:
        """Closes the incidents of the accounts that can send again: the only place that does. An account that changes
        often may recover without an event."""
        reported = {one.account.id: one.event.id for one in item.news}
        reports = {id: reported.get(id) for id in item.recovered}
        known = item.known
        return self._outbox.incidents.accounts_recovered(connection, known.source, known.account, reports, item.now)


def _locks_of(item: ListingRecord) -> Sequence[TransactionLock]:
    if not (item.news or item.recovered):
        return []
    return [MATCH, incidents_of(owner_of(item.known.source, item.known.account))]


def page_statement(
    limit: int, after: str | None, source: str | None = None, account: str | None = None, state: str | None = None
) -> Select[Any]:
    """One page of connect accounts, each with when it was last listed."""
    of_its_account = and_(
        col(AccountRow.source) == col(ConnectAccountRow.source), col(AccountRow.name) == col(ConnectAccountRow.account)
    )
    statement: Select[Any] = (
        select(table_of(ConnectAccountRow), table_of(AccountRow).c.listed_at)
        .outerjoin(AccountRow, of_its_account)
        .where(col(ConnectAccountRow.state) != NEW)
        .order_by(col(ConnectAccountRow.uid))
        .limit(limit + 1)
    )
    if after is not None:
        statement = statement.where(col(ConnectAccountRow.uid) > after)
    for column, value in (
        (col(ConnectAccountRow.source), source),
        (col(ConnectAccountRow.account), account),
        (col(ConnectAccountRow.state), state),
    ):
        if value is not None:
            statement = statement.where(column == value)
    return statement


@in_order_of(lambda item: (item.known.source, item.known.account))
def _write(connection: Connection, item: ListingRecord) -> bool:
    known = item.known
    expected = NEVER if known.listed_at is None else known.listed_at
    place = {"source": known.source, "name": known.account}
    if not run(connection, MARK_LISTED, **place, listed_at=item.now, expected=expected).rowcount:
        return False
    for id in item.forgotten:
        run(connection, FORGET, source=known.source, account=known.account, id=id)
    uids = sorted(new_id("acc", item.now) for _ in item.changed)  # new ones are shown as they are listed
    run_many(connection, KEEP, [_values(one, uid) for one, uid in zip(item.changed, uids, strict=True)])
    return True


def _values(account: ConnectAccount, uid: str) -> dict[str, Any]:
    values = {name: getattr(account, name) for name in (*_KEY, *_FIELDS)}
    can_send = None if account.can_send is None else int(account.can_send)
    changes = dumps(account.changes).decode()
    return {**values, "uid": uid, "can_send": can_send, "changes": changes}


def _account_from(row: Row[Any]) -> ConnectAccount:
    values = {name: getattr(row, name) for name in (*_KEY, *_FIELDS)}
    can_send = None if row.can_send is None else bool(row.can_send)
    return ConnectAccount(**{**values, "can_send": can_send, "changes": tuple(row.changes)})


def _known(connection: Connection, source: str, account: str) -> Known:
    place = {"source": source, "account": account}
    listed_at = run(connection, LISTED_AT, **place).scalar_one_or_none()
    rows = connection.execute(OF_ACCOUNT, place)
    return Known(**place, listed_at=listed_at, accounts={row.id: _account_from(row) for row in rows})


def _open_jobs(connection: Connection, places: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str, str], int]:
    rows = fetch(connection, OPEN_JOBS, accounts=json_list(places)) if places else ()
    return {(source, account, id): int(count) for source, account, id, count in rows}


def _page(connection: Connection, statement: Select[Any], limit: int) -> Page[ConnectAccountReport]:
    rows = connection.execute(statement).all()
    counts = _open_jobs(connection, [(row.source, row.account, row.id) for row in rows])
    troubles = open_by_connect_account(connection, {owner_of(row.source, row.account) for row in rows}) if rows else {}

    def report(row: Row[Any]) -> ConnectAccountReport:
        open_jobs = counts[row.source, row.account, row.id]
        return ConnectAccountReport(
            account=_account_from(row),
            open_jobs=open_jobs,
            listed_at=row.listed_at,
            trouble=troubles.get((owner_of(row.source, row.account), row.id)),
        )

    return page_of(rows, limit, report, lambda row: row.uid)
