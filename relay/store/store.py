"""The store as the other rooms see it: one object with a part for each kind of thing."""

import asyncio

from relay.clock import Clock
from relay.store import migrations
from relay.store.accounts import AccountStore
from relay.store.database import Database, SqliteDatabase
from relay.store.deliveries import DeliveryStore
from relay.store.events import EventStore
from relay.store.holders import HolderStore
from relay.store.idempotency import IdempotencyStore
from relay.store.intents import IntentStore
from relay.store.jobs import JobStore
from relay.store.learned import LearnedStore
from relay.store.marks import END_ATTEMPTS
from relay.store.outbox import Outbox, SubscriptionBook
from relay.store.postgres import PostgresDatabase
from relay.store.postgres_engine import is_postgres
from relay.store.replays import ReplayStore
from relay.store.subscriptions import Cipher, SubscriptionStore
from relay.store.upkeep import UpkeepStore

PROCEDURES = (END_ATTEMPTS,)


class Store:
    """An open database. Use `open_store`."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self.database = database
        book = SubscriptionBook()
        database.on_end(commit=book.committed, rollback=book.rolled_back)
        outbox = Outbox(book)
        self.jobs = JobStore(database, outbox)
        self.events = EventStore(database, outbox)
        self.deliveries = DeliveryStore(database, outbox)
        self.replays = ReplayStore(database, outbox)
        self.subscriptions = SubscriptionStore(database, outbox, cipher)
        self.idempotency = IdempotencyStore(database, cipher)
        self.intents = IntentStore(database, outbox, cipher)
        self.holders = HolderStore(database)
        self.accounts = AccountStore(database, outbox, cipher)
        self.learned = LearnedStore(database)
        self.upkeep = UpkeepStore(database, book)

    async def free_what_a_crash_left(self, now: float) -> None:
        """Every lease, and whatever was in flight: for the only node that a SQLite file has, at its start."""
        await self.deliveries.release_all(now)
        await self.replays.free_all()
        await self.idempotency.free_all()
        await self.intents.all_cut_off()

    def clock(self, clock: Clock) -> Clock:
        """A node's clock, by which leases run: the database's where several nodes share it, else the given one."""
        return self.database.clock(clock)

    async def close(self) -> None:
        """Writes what waits and lets the database go."""
        await self.database.close()


async def open_store(url: str, cipher: Cipher, *, now: float, pool_size: int = 10, auto_migrate: bool = False) -> Store:
    """Opens a database: takes and migrates a SQLite file; of PostgreSQL the schema must be there, unless
    `auto_migrate`. Raises DatabaseHeld, SchemaTooOld, SchemaTooNew, StoreError, SettingsError."""
    loop = asyncio.get_running_loop()
    if is_postgres(url):
        await loop.run_in_executor(None, migrations.upgrade if auto_migrate else migrations.check, url)
        postgres = PostgresDatabase(url, PROCEDURES, pool_size=pool_size)
        await postgres.open()
        store = Store(postgres, cipher)
        try:
            await store.events.adopt_restored()
        except BaseException:
            await postgres.close()
            raise
        return store
    database = SqliteDatabase(url)
    database.open()
    try:
        await loop.run_in_executor(None, migrations.upgrade, url)
        store = Store(database, cipher)
        await store.free_what_a_crash_left(now)
    except BaseException:
        await database.close()
        raise
    return store
