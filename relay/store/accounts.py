"""Upstream accounts: whether their polling goes well."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection

from relay.core.events import Event
from relay.core.records import AccountState
from relay.store.database import SqliteDatabase
from relay.store.outbox import Outbox
from relay.store.rows import mapping_or_none
from relay.store.tables import AccountRow

ACCOUNTS = AccountRow.__table__  # type: ignore[attr-defined]
INSERT_ACCOUNT = sqlite.insert(ACCOUNTS)
UPSERT_ACCOUNT = INSERT_ACCOUNT.on_conflict_do_update(
    index_elements=["source", "name"],
    set_={name: INSERT_ACCOUNT.excluded[name] for name in ("state", "since", "problem")},
)


class AccountStore:
    """Reads and writes of account states."""

    def __init__(self, database: SqliteDatabase, outbox: Outbox) -> None:
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
            connection.execute(
                UPSERT_ACCOUNT,
                {
                    "source": state.source,
                    "name": state.name,
                    "state": state.state,
                    "since": state.since,
                    "problem": mapping_or_none(state.problem),
                },
            )
            if event is not None:
                self._outbox.insert(connection, [(event, None)])
        return [None] * len(items)


def _all(connection: Connection) -> list[AccountState]:
    return [
        AccountState(source=row.source, name=row.name, state=row.state, since=row.since, problem=row.problem)
        for row in connection.execute(select(ACCOUNTS))
    ]
