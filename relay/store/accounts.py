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


class AccountStore:
    """Reads and writes of account states."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def set(self, state: AccountState, event: Event | None = None) -> None:
        """Writes how an account goes, with the event that says so."""
        await self._database.write(self._set, (state, event))

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


def _all(connection: Connection) -> list[AccountState]:
    return [
        AccountState(source=row.source, name=row.name, state=row.state, since=row.since, problem=row.problem)
        for row in connection.execute(select(ACCOUNTS))
    ]
