"""The store as other packages see it: one object with one attribute per kind of record."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from copy import copy

from relay.clock import Clock
from relay.store.access.audit import AuditStore
from relay.store.access.ciphertexts import CiphertextStore
from relay.store.access.idempotency import IdempotencyStore
from relay.store.access.sessions import SessionStore
from relay.store.access.tokens import TokenStore
from relay.store.accounts import AccountStore
from relay.store.connect_accounts import ConnectAccountStore
from relay.store.databases.database import Cipher, Database
from relay.store.databases.lease_owners import LeaseOwnerStore
from relay.store.databases.postgres import PostgresDatabase
from relay.store.databases.postgres_engine import is_postgres
from relay.store.databases.sqlite import SqliteDatabase
from relay.store.deliveries.attempt_results import END_ATTEMPTS
from relay.store.deliveries.deliveries import DeliveryStore
from relay.store.deliveries.memories import MemoryStore
from relay.store.deliveries.pulls import PullStore
from relay.store.deliveries.replays import ReplayStore
from relay.store.events import EventStore
from relay.store.figures import FigureStore
from relay.store.incidents import IncidentStore
from relay.store.jobs.erasure import ErasureStore
from relay.store.jobs.group_work import GroupWorkStore
from relay.store.jobs.groups import GroupLedger, GroupStore
from relay.store.jobs.intents import IntentStore
from relay.store.jobs.jobs import JobStore
from relay.store.jobs.learned import LearnedStore
from relay.store.outbox.recording import Outbox
from relay.store.outbox.subscription_cache import SubscriptionCache
from relay.store.published import PublishedStore
from relay.store.schema import migrations
from relay.store.scoped import Account
from relay.store.subscriptions.callback_hosts import CallbackHostStore
from relay.store.subscriptions.credentials import CredentialStore
from relay.store.subscriptions.handshakes import HandshakeStore
from relay.store.subscriptions.secrets import SecretStore
from relay.store.subscriptions.subscriptions import SubscriptionStore
from relay.store.upkeep import UpkeepStore

PROCEDURES = (END_ATTEMPTS,)


class Store:
    """An open database. Open one with `open_store`."""

    def __init__(self, database: Database, cipher: Cipher, search_keys: Sequence[str] = ()) -> None:
        self.database = database
        cache = SubscriptionCache()
        database.on_end(commit=cache.committed, rollback=cache.rolled_back)
        self.audit = AuditStore(database, cipher)
        outbox = self.outbox = Outbox(cache)
        database.on_end(commit=outbox.committed, rollback=outbox.rolled_back)
        self.group_ledger = ledger = GroupLedger(outbox)
        database.on_end(commit=ledger.committed, rollback=ledger.rolled_back)
        self.jobs = JobStore(database, outbox, ledger, cipher, search_keys)
        self.groups = GroupStore(database, ledger)
        self.group_work = GroupWorkStore(database)
        self.events = EventStore(database, outbox)
        self.published = PublishedStore(database, outbox)
        self.deliveries = DeliveryStore(database, outbox)
        self.pulls = PullStore(database, outbox)
        self.memories = MemoryStore(database)
        self.replays = ReplayStore(database, outbox)
        self.subscriptions = SubscriptionStore(database, outbox, cipher)
        self.secrets = SecretStore(database, outbox, cipher)
        self.credentials = CredentialStore(database, cipher)
        self.handshakes = HandshakeStore(database, outbox)
        self.idempotency = IdempotencyStore(database, cipher)
        self.intents = IntentStore(database, outbox, cipher)
        self.incidents = IncidentStore(database, outbox)
        self.holders = LeaseOwnerStore(database)
        self.accounts = AccountStore(database, outbox, cipher)
        self.connect_accounts = ConnectAccountStore(database, outbox)
        self.ciphertexts = CiphertextStore(database)
        self.learned = LearnedStore(database)
        self.figures = FigureStore(database)
        self.tokens = TokenStore(database)
        self.sessions = SessionStore(database)
        self.callback_hosts = CallbackHostStore(database)
        self.upkeep = UpkeepStore(database, cache)
        self.erasure = ErasureStore(database, ledger)

    def within(self, account: Account) -> "Store":
        """This store as a token bound to the account sees it. What is about no account is left out."""
        view = copy(self)
        view.jobs, view.events = self.jobs.within(account), self.events.within(account)
        view.deliveries, view.replays = self.deliveries.within(account), self.replays.within(account)
        view.subscriptions, view.intents = self.subscriptions.within(account), self.intents.within(account)
        view.secrets, view.groups = self.secrets.within(account), self.groups.within(account)
        view.incidents, view.published = self.incidents.within(account), self.published.within(account)
        view.connect_accounts, view.figures = self.connect_accounts.within(account), self.figures.within(account)
        seen = ("jobs", "groups", "events", "deliveries", "replays", "subscriptions", "secrets", "intents", "incidents")
        others = ("published", "connect_accounts", "figures", "handshakes", "idempotency", "sessions")
        for name in vars(self).keys() - {*seen, *others}:
            delattr(view, name)
        return view

    async def recover_from_crash(self, now: float) -> None:
        """Releases every lease and marks every create in flight as cut off. Only for a SQLite file at start-up,
        which has one node."""
        await self.deliveries.release_all(now)
        await self.replays.free_all()
        await self.idempotency.free_all()
        await self.intents.all_cut_off()
        await self.memories.free_all()

    def clock(self, clock: Clock) -> Clock:
        """The clock for leases: the database's if several nodes share it, else `clock`."""
        return self.database.clock(clock)

    async def close(self) -> None:
        """Commits queued writes and closes the database."""
        await self.database.close()


async def open_store(
    url: str,
    cipher: Cipher,
    *,
    now: float,
    pool_size: int = 10,
    auto_migrate: bool = False,
    search_keys: Sequence[str] = (),
) -> Store:
    """Opens a database. A SQLite file is locked and migrated. PostgreSQL must have the current schema already,
    unless `auto_migrate` is set. Jobs that are registered can be searched for by these keys of their metadata.

    Raises DatabaseHeld, SchemaTooOld, SchemaTooNew, StoreError, SettingsError.
    """
    loop = asyncio.get_running_loop()
    if is_postgres(url):
        await loop.run_in_executor(None, migrations.upgrade if auto_migrate else migrations.check, url)
        postgres = PostgresDatabase(url, PROCEDURES, pool_size=pool_size)
        await postgres.open()
        store = Store(postgres, cipher, search_keys)
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
        store = Store(database, cipher, search_keys)
        await store.recover_from_crash(now)
    except BaseException:
        await database.close()
        raise
    return store


@asynccontextmanager
async def open_tokens(url: str) -> AsyncIterator[TokenStore]:
    """The tokens of a database that no node needs to run on; its schema is created if there is none. Of the rest of
    the database nothing changes, so no encryption key is needed.

    Raises DatabaseHeld, SchemaTooOld, SchemaTooNew, StoreError, SettingsError.
    """
    loop = asyncio.get_running_loop()
    if is_postgres(url):
        await loop.run_in_executor(None, migrations.create, url)
        postgres = PostgresDatabase(url, PROCEDURES, pool_size=1)
        await postgres.open()
        try:
            yield TokenStore(postgres)
        finally:
            await postgres.close()
        return
    database = SqliteDatabase(url)
    database.open()
    try:
        await loop.run_in_executor(None, migrations.upgrade, url)
        yield TokenStore(database)
    finally:
        await database.close()
