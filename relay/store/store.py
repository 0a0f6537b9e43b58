"""The store as the other rooms see it: one object with a part for each kind of thing."""

import asyncio

from relay.store import migrations
from relay.store.accounts import AccountStore
from relay.store.database import SqliteDatabase
from relay.store.deliveries import DeliveryStore
from relay.store.events import EventStore
from relay.store.idempotency import IdempotencyStore
from relay.store.jobs import JobStore
from relay.store.outbox import Outbox, SubscriptionBook
from relay.store.subscriptions import Cipher, SubscriptionStore
from relay.store.upkeep import UpkeepStore


class Store:
    """An open database. Use `open_store`."""

    def __init__(self, database: SqliteDatabase, cipher: Cipher) -> None:
        self.database = database
        book = SubscriptionBook()
        database.on_end(commit=book.committed, rollback=book.rolled_back)
        outbox = Outbox(book)
        self.jobs = JobStore(database, outbox)
        self.events = EventStore(database, outbox)
        self.deliveries = DeliveryStore(database, outbox)
        self.subscriptions = SubscriptionStore(database, outbox, cipher)
        self.idempotency = IdempotencyStore(database, cipher)
        self.accounts = AccountStore(database, outbox)
        self.upkeep = UpkeepStore(database)

    async def start(self, now: float) -> None:
        """What the only node of a SQLite file may do at its start: free every lease that a crash left."""
        await self.deliveries.release_all(now)
        await self.idempotency.forget_unfinished()

    async def close(self) -> None:
        """Writes what waits and lets the database go."""
        await self.database.close()


async def open_store(url: str, cipher: Cipher, *, now: float) -> Store:
    """Takes, migrates and opens a database. Raises DatabaseHeld, SchemaTooNew, StoreError."""
    database = SqliteDatabase(url)
    database.open()
    try:
        await asyncio.get_running_loop().run_in_executor(None, migrations.upgrade, url)
        store = Store(database, cipher)
        await store.start(now)
    except BaseException:
        await database.close()
        raise
    return store
