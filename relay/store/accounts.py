"""Upstream accounts: polling health, polling leases, saved plans and adopted keys."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.engine import Connection
from sqlmodel import col

from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.records import AccountState
from relay.store.databases.database import Cipher, Database
from relay.store.databases.group_commit import in_order_of
from relay.store.databases.locks import MATCH, locking
from relay.store.databases.statements import SQLITE, insert_into, json_list, run, sql
from relay.store.outbox.recording import Outbox
from relay.store.schema.tables import AccountRow

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


class AccountStore:
    """Reads and writes of account states."""

    def __init__(self, database: Database, outbox: Outbox, cipher: Cipher) -> None:
        self._database = database
        self._outbox = outbox
        self._cipher = cipher
        self._set = in_order_of(lambda item: (item[0].source, item[0].name))(self._write_state)

    async def set(self, state: AccountState, event: Event | None = None) -> None:
        """Writes an account's state, with the event that reports it."""
        await self._database.write(self._set, (state, event))

    async def hold(
        self, source: str, name: str, holder: str, now: float, until: float, former: Sequence[str] = ()
    ) -> bool:
        """Takes or renews the polling lease of an account until a time. False if another node holds it. `former`:
        earlier names of this node."""
        return await self._database.write(_hold, (source, name, holder, now, until, former))

    async def save_plan(self, source: str, name: str, plan: Mapping[str, Any], holder: str | None) -> bool:
        """Saves what an account's planner keeps over a restart. If several nodes share the database only the holder
        may: False if another node holds the account."""
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
    return [
        AccountState(source=row.source, name=row.name, state=row.state, since=row.since, problem=row.problem)
        for row in connection.execute(STATES)
    ]
