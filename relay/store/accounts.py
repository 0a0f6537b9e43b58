"""Upstream accounts: polling health, polling leases, saved plans, adopted keys, and their connect accounts.

A listing of connect accounts is compared with the rows that were read, outside any transaction. `accounts.listed_at`
is their version: the write changes nothing if another listing was recorded meanwhile, by this node or another.
So a takeover, a restart or two listings at once never report a change twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Select, and_, bindparam, select, tuple_
from sqlalchemy.engine import Connection, Row
from sqlmodel import col

from relay.core.events.event import Event, owner_of
from relay.core.jobs.connect_accounts import NEW, ConnectAccount, Known
from relay.core.jsontext import dumps
from relay.core.records import AccountState, ConnectAccountReport, ListingRecord, Page
from relay.ids import new_id
from relay.store.databases.database import Cipher, Database, Scoped
from relay.store.databases.group_commit import in_order_of
from relay.store.databases.locks import MATCH, TransactionLock, incidents_of, locking
from relay.store.databases.pages import decode_cursor, page_of
from relay.store.databases.statements import SQLITE, insert_into, json_list, run, run_many, sql, table_of
from relay.store.outbox.incident_recorder import Summary, account_names, joined, open_by_connect_account, open_jobs
from relay.store.outbox.recording import Outbox
from relay.store.rows import columns, made
from relay.store.schema.tables import AccountRow, ConnectAccountRow

# Writes an account's health.
UPSERT_ACCOUNT = f"""
{insert_into(AccountRow, "source", "name", "state", "since", "problem")}
ON CONFLICT (source, name) DO UPDATE SET state = excluded.state, since = excluded.since, problem = excluded.problem
"""
# Takes or renews an account's polling lease, unless another node holds it.
TAKE_LEASE = sql(
    f"""
{insert_into(AccountRow, "source", "name", "state", "holder", "held_until")}
ON CONFLICT (source, name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
WHERE accounts.holder IS NULL OR accounts.holder = excluded.holder OR accounts.holder IN $json_values(former)
  OR accounts.held_until <= :now
"""
)
# The health of every account.
STATES = select(
    *(col(AccountRow.source), col(AccountRow.name), col(AccountRow.state)),
    *(col(AccountRow.since), col(AccountRow.problem)),
)
# An account's saved plan.
PLAN = "SELECT plan FROM accounts WHERE source = :source AND name = :name"
# Saves an account's plan on SQLite.
KEEP_PLAN = f"""
{insert_into(AccountRow, "source", "name", "plan", constants={"state": "'ok'"})}
ON CONFLICT (source, name) DO UPDATE SET plan = excluded.plan
"""
# Saves an account's plan while this node holds the lease.
KEEP_PLAN_HELD = "UPDATE accounts SET plan = :plan WHERE source = :source AND name = :name AND holder = :holder"
# Stores the key of an adopted account.
ADOPT = f"""
{insert_into(AccountRow, "source", "name", "key_ciphertext", constants={"state": "'ok'"})}
ON CONFLICT (source, name) DO UPDATE SET key_ciphertext = excluded.key_ciphertext
"""
# The adopted accounts with their keys.
ADOPTED = (
    select(col(AccountRow.source), col(AccountRow.name), col(AccountRow.key_ciphertext))
    .where(col(AccountRow.key_ciphertext).is_not(None))
    .order_by(col(AccountRow.source), col(AccountRow.name))
)


NEVER = -1.0
"""Stands for a time that is NULL."""
# Since when an account's credits are known to be low.
LOW_SINCE = "SELECT credits_low_since FROM accounts WHERE source = :source AND name = :name"
# Writes since when an account's credits are low, unless that has changed since `expected`.
MARK_LOW = f"""
{insert_into(AccountRow, "source", "name", "credits_low_since", constants={"state": "'ok'"})}
ON CONFLICT (source, name) DO UPDATE SET credits_low_since = excluded.credits_low_since
WHERE COALESCE(accounts.credits_low_since, {NEVER}) = :expected
"""


class AccountStore:
    """Reads and writes of account states."""

    def __init__(self, database: Database, outbox: Outbox, cipher: Cipher) -> None:
        self._database = database
        self._outbox = outbox
        self._cipher = cipher
        self._set = in_order_of(lambda item: (item[0].source, item[0].name))(self._write_state)
        self._mark = in_order_of(lambda item: item[:2])(self._mark_low)

    async def set(self, state: AccountState, event: Event | None = None) -> None:
        """Writes an account's state, with the event that reports it."""
        await self._database.write(self._set, (state, event))

    async def credits_low_since(self, source: str, name: str) -> float | None:
        """Since when the account's credits are known to be low; None: they are not."""
        return await self._database.read(_low_since, source, name)

    async def mark_credits(
        self, source: str, name: str, *, expected: float | None, since: float | None, event: Event | None
    ) -> bool:
        """Writes since when the account's credits are low (None: they are not), with the event that reports it, in one
        transaction. False if they were not `expected` any more: then nothing is written."""
        return await self._database.write(self._mark, (source, name, expected, since, event))

    async def hold(
        self, source: str, name: str, holder: str, now: float, until: float, former: Sequence[str] = ()
    ) -> bool:
        """Takes or renews the polling lease of an account until a time. False if another node holds it. `former`:
        earlier names of this node."""
        return await self._database.write(_hold, (source, name, holder, now, until, former))

    async def save_plan(self, source: str, name: str, plan: Mapping[str, Any], holder: str | None) -> bool:
        """Saves the state that an account's planner keeps over a restart. If several nodes share the database only
        the holder may: False if another node holds the account."""
        return await self._database.write(_save_plan, (source, name, dumps(plan).decode(), holder))

    async def plan(self, source: str, name: str) -> Mapping[str, Any] | None:
        """An account's saved plan; None if there is none that can be read."""
        return await self._database.read(_plan, source, name)

    async def all(self) -> list[AccountState]:
        """Every account that has ever been in trouble."""
        return await self._database.read(_all)

    async def adopt(self, source: str, name: str, api_key: str) -> None:
        """Stores, encrypted, the key of an account that the settings do not contain."""
        sealed = self._cipher.encrypt(api_key.encode(), context=f"{source}/{name}")
        await self._database.write(_adopt, (source, name, sealed))

    async def adopted(self) -> list[tuple[str, str, str]]:
        """Source, name and key of every adopted account."""
        rows = await self._database.read(_adopted)
        return [
            (source, name, self._cipher.decrypt(sealed, context=f"{source}/{name}").decode())
            for source, name, sealed in rows
        ]

    @locking(lambda item: [] if item[1] is None else [MATCH])
    def _write_state(self, connection: Connection, item: tuple[AccountState, Event | None]) -> None:
        state, event = item
        values = {"source": state.source, "name": state.name, "state": state.state, "since": state.since}
        problem = None if state.problem is None else dumps(dict(state.problem)).decode()
        run(connection, UPSERT_ACCOUNT, **values, problem=problem)
        if event is not None:
            self._outbox.insert(connection, [(event, None)])

    @locking(lambda item: [] if item[-1] is None else [MATCH])
    def _mark_low(
        self, connection: Connection, item: tuple[str, str, float | None, float | None, Event | None]
    ) -> bool:
        source, name, expected, since, event = item
        values = {"source": source, "name": name, "credits_low_since": since}
        if not run(connection, MARK_LOW, **values, expected=NEVER if expected is None else expected).rowcount:
            return False
        if event is not None:
            self._outbox.insert(connection, [(event, None)])
        return True


def _low_since(connection: Connection, source: str, name: str) -> float | None:
    found: float | None = run(connection, LOW_SINCE, source=source, name=name).scalar_one_or_none()
    return found


@in_order_of(lambda item: item[:2])
def _adopt(connection: Connection, item: tuple[str, str, bytes]) -> None:
    source, name, sealed = item
    run(connection, ADOPT, source=source, name=name, key_ciphertext=sealed)


def _adopted(connection: Connection) -> list[tuple[str, str, bytes]]:
    return [(row.source, row.name, row.key_ciphertext) for row in connection.execute(ADOPTED)]


@in_order_of(lambda item: item[:2])
def _hold(connection: Connection, item: tuple[str, str, str, float, float, Sequence[str]]) -> bool:
    source, name, holder, now, until, former = item
    values = {"source": source, "name": name, "state": "ok", "holder": holder, "now": now, "held_until": until}
    return run(connection, TAKE_LEASE, **values, former=json_list(former)).rowcount > 0


@in_order_of(lambda item: item[:2])
def _save_plan(connection: Connection, item: tuple[str, str, str, str | None]) -> bool:
    source, name, plan, holder = item
    values = {"source": source, "name": name, "plan": plan}
    if holder is None or connection.dialect.name == SQLITE:
        return run(connection, KEEP_PLAN, **values).rowcount > 0
    return run(connection, KEEP_PLAN_HELD, **values, holder=holder).rowcount > 0


def _plan(connection: Connection, source: str, name: str) -> dict[str, Any] | None:
    found = run(connection, PLAN, source=source, name=name).scalar_one_or_none()
    try:
        plan = None if found is None else orjson.loads(found)
    except orjson.JSONDecodeError:
        return None
    return plan if isinstance(plan, dict) else None


def _all(connection: Connection) -> list[AccountState]:
    return [made(AccountState, row) for row in connection.execute(STATES)]


_KEY = ("source", "account", "id")
_FIELDS = (
    *("channel", "name", "status", "can_send", "state", "since", "unconfirmed", "unconfirmed_at"),
    *("changes", "told_state", "told_at"),
)

# Time of the last listing of an upstream account's connect accounts.
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


class ConnectAccountStore(Scoped):
    """Reads and writes of connect accounts."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def known(self, source: str, account: str) -> Known:
        """The connect accounts known of an upstream account."""
        return await self._database.read(_known, source, account)

    async def open_jobs(self, source: str, account: str, ids: Sequence[str]) -> dict[str, int]:
        """Number of open jobs that name each of these connect accounts."""
        counts = await self._database.read(open_jobs, [(source, account, id) for id in ids])
        return {id: count for (_, _, id), count in counts.items()}

    async def names(self, accounts: Iterable[tuple[str, str, str | None]]) -> Mapping[tuple[str, str, str | None], str]:
        """Display names of connect accounts, by source, account and id. Those without an id or a name are left out."""
        wanted = sorted({one for one in accounts if one[2]})
        return await self._database.read(account_names, wanted) if wanted else {}

    async def record(self, record: ListingRecord) -> bool:
        """Writes the changes from a listing, with its events, in one transaction. False if another listing was recorded
        since the known accounts were read: then nothing is written."""
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
        self._outbox.insert(connection, [(event, None) for item in current for _, event in item.news], joined(closed))
        return written

    def _close_incidents(self, connection: Connection, item: ListingRecord) -> Summary:
        """Closes the incidents of the accounts that can send again: the only place that does. An account that changes
        often may recover without an event."""
        reported = {account.id: event.id for account, event in item.news}
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
    can_send = None if account.can_send is None else int(account.can_send)
    changes = dumps(account.changes).decode()
    return {**columns(account), "uid": uid, "can_send": can_send, "changes": changes}


def _account_from(row: Row[Any]) -> ConnectAccount:
    can_send = None if row.can_send is None else bool(row.can_send)
    return made(ConnectAccount, row, can_send=can_send, changes=tuple(row.changes))


def _known(connection: Connection, source: str, account: str) -> Known:
    place = {"source": source, "account": account}
    listed_at = run(connection, LISTED_AT, **place).scalar_one_or_none()
    rows = connection.execute(OF_ACCOUNT, place)
    return Known(**place, listed_at=listed_at, accounts={row.id: _account_from(row) for row in rows})


def _page(connection: Connection, statement: Select[Any], limit: int) -> Page[ConnectAccountReport]:
    rows = connection.execute(statement).all()
    counts = open_jobs(connection, [(row.source, row.account, row.id) for row in rows])
    troubles = open_by_connect_account(connection, {owner_of(row.source, row.account) for row in rows}) if rows else {}

    def report(row: Row[Any]) -> ConnectAccountReport:
        incidents = troubles.get((owner_of(row.source, row.account), row.id), [])
        return ConnectAccountReport(
            account=_account_from(row),
            open_jobs=counts[row.source, row.account, row.id],
            listed_at=row.listed_at,
            trouble=incidents[-1].id if incidents else None,
            failed_jobs=sum(one.failed for one in incidents),
        )

    return page_of(rows, limit, report, lambda row: row.uid)
