"""The check that the database accepts writes, for /readyz. A read alone cannot tell."""

import asyncio

from sqlalchemy.engine import Connection

from relay.errors import StoreError
from relay.store.databases.database import Database
from relay.store.databases.group_commit import each

KEPT_SECONDS = 1.0
PATIENCE_SECONDS = 2.0


class WriteProbe:
    """Writes a little, at most once a second. On a full disk reads still work, and so does a commit without changes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked_at: float | None = None
        self._failure: StoreError | None = None

    async def check(self, now: float) -> None:
        """Raises StoreError if nothing can be written."""
        if self._asked_at is None or not 0 <= now - self._asked_at < KEPT_SECONDS:
            self._asked_at = now
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._database.write(_touch, None)
                self._failure = None
            except TimeoutError:
                self._failure = StoreError(f"the database has not taken a write for {PATIENCE_SECONDS:g} s")
            except StoreError as error:
                self._failure = error
        if self._failure is not None:
            raise StoreError(str(self._failure))


@each
def _touch(connection: Connection, _item: None) -> None:
    if connection.dialect.name == "sqlite":
        # a row overwritten with the same values dirties no page; nothing else uses this number
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        connection.exec_driver_sql(f"PRAGMA user_version = {(int(version) + 1) % (1 << 31)}")
    else:
        read_only = connection.exec_driver_sql("SELECT current_setting('transaction_read_only')").scalar_one()
        if read_only == "on":
            raise StoreError("the database is read-only: it is a replica, or was set read-only")
