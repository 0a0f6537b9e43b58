"""Upstream accounts: whether their polling goes well."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.engine import Connection

from relay.core.events import Event
from relay.core.records import AccountState
from relay.store.database import Database
from relay.store.outbox import Outbox
from relay.store.rows import dumps, mapping_or_none
from relay.store.statements import insert_into, run
from relay.store.tables import AccountRow

ACCOUNTS = AccountRow.__table__  # type: ignore[attr-defined]
UPSERT_ACCOUNT = f"""
{insert_into(ACCOUNTS, "source", "name", "state", "since", "problem")}
ON CONFLICT (source, name) DO UPDATE SET state = excluded.state, since = excluded.since, problem = excluded.problem
"""
HOLD = f"""
{insert_into(ACCOUNTS, "source", "name", "state", "holder", "held_until")}
ON CONFLICT (source, name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
WHERE accounts.holder IS NULL OR accounts.holder = excluded.holder OR accounts.held_until <= :now
"""
LET_GO = "UPDATE accounts SET holder = NULL, held_until = NULL WHERE holder = :holder"


class AccountStore:
    """Reads and writes of account states."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def set(self, state: AccountState, event: Event | None = None) -> None:
        """Writes how an account goes, with the event that says so."""
        await self._database.write(self._set, (state, event))

    async def hold(self, source: str, name: str, holder: str, now: float, until: float) -> bool:
        """Takes or keeps the polling of an account until a time. False while another node has it."""
        return await self._database.write(_hold, (source, name, holder, now, until))

    async def let_go(self, holder: str) -> None:
        """Gives up the polling of every account that this node has: another may take it at once."""
        await self._database.write(_let_go, holder)

    async def all(self) -> list[AccountState]:
        """Every account that was ever in trouble."""
        return await self._database.read(_all)

    def _set(self, connection: Connection, items: Sequence[tuple[AccountState, Event | None]]) -> Sequence[None]:
        for state, event in items:
            problem = mapping_or_none(state.problem)
            run(
                connection,
                UPSERT_ACCOUNT,
                source=state.source,
                name=state.name,
                state=state.state,
                since=state.since,
                problem=None if problem is None else dumps(problem).decode(),
            )
            if event is not None:
                self._outbox.insert(connection, [(event, None)])
        return [None] * len(items)


def _hold(connection: Connection, items: Sequence[tuple[str, str, str, float, float]]) -> Sequence[bool]:
    return [
        run(connection, HOLD, source=source, name=name, state="ok", holder=holder, now=now, held_until=until).rowcount
        > 0
        for source, name, holder, now, until in items
    ]


def _let_go(connection: Connection, items: Sequence[str]) -> Sequence[None]:
    for holder in items:
        run(connection, LET_GO, holder=holder)
    return [None] * len(items)


def _all(connection: Connection) -> list[AccountState]:
    return [
        AccountState(source=row.source, name=row.name, state=row.state, since=row.since, problem=row.problem)
        for row in connection.execute(select(ACCOUNTS))
    ]
