"""The store as other packages see it: one object with one attribute per kind of record."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from copy import copy

from sqlalchemy.engine import Connection

from relay.clock import Clock
from relay.core.deliveries.delivery import at_once
from relay.store.access.audit import AuditStore
from relay.store.access.ciphertexts import CiphertextStore
from relay.store.access.idempotency import FREE_KEYS, IdempotencyStore
from relay.store.access.sessions import SessionStore
from relay.store.access.tokens import TokenStore
from relay.store.accounts import AccountStore, ConnectAccountStore
from relay.store.databases.database import Account, Cipher, Database
from relay.store.databases.group_commit import each
from relay.store.databases.lease_owners import LeaseOwnerStore
from relay.store.databases.postgres import PostgresDatabase
from relay.store.databases.postgres_engine import is_postgres
from relay.store.databases.sqlite import SqliteDatabase
from relay.store.databases.statements import run
from relay.store.deliveries import replay_statements
from relay.store.deliveries.attempt_results import END_ATTEMPTS
from relay.store.deliveries.deliveries import RELEASE_ALL, DeliveryStore
from relay.store.deliveries.memories import FREE_MEMORIES, MemoryStore
from relay.store.deliveries.pulls import PullStore
from relay.store.deliveries.replays import ReplayStore
from relay.store.events import EventStore
from relay.store.figures import FigureStore
from relay.store.incidents import IncidentStore
from relay.store.jobs.erasure import ErasureStore
from relay.store.jobs.group_work import GroupWorkStore
from relay.store.jobs.groups import GroupLedger, GroupStore
from relay.store.jobs.intents import ALL_CUT_OFF, IntentStore
from relay.store.jobs.jobs import JobStore
from relay.store.jobs.learned import LearnedStore
from relay.store.outbox.recording import Outbox
from relay.store.outbox.subscription_cache import SubscriptionCache
from relay.store.published import PublishedStore
from relay.store.schema import migrations
from relay.store.subscriptions.callback_hosts import CallbackHostStore
from relay.store.subscriptions.handshakes import HandshakeStore
from relay.store.subscriptions.secrets import CredentialStore, SecretStore
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
        """This store as a token bound to the account sees it. Rows about no account are left out."""
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
        """Ends every lease and turn, and marks every create in flight as cut off, in one transaction. Only for a SQLite
        file at start-up, which has one node. Leases of programs that pull outlive it."""
        await self.database.write(_recover, now)

    def clock(self, clock: Clock) -> Clock:
        """The clock for leases: the database's if several nodes share it, else `clock`."""
        return self.database.clock(clock)

    async def close(self) -> None:
        """Commits queued writes and closes the database."""
        await self.database.close()


@each
def _recover(connection: Connection, now: float) -> None:
    run(connection, RELEASE_ALL, due_at=at_once(now))
    for statement in (replay_statements.FREE_ALL, FREE_KEYS, ALL_CUT_OFF, FREE_MEMORIES):
        run(connection, statement)


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
    database = await _open(url, pool_size, migrations.upgrade if auto_migrate else migrations.check)
    store = Store(database, cipher, search_keys)
    try:
        await (store.events.adopt_restored() if database.shared else store.recover_from_crash(now))
    except BaseException:
        await database.close()
        raise
    return store


async def _open(url: str, pool_size: int, prepare: Callable[[str], object]) -> Database:
    """`prepare`: checks or migrates the schema of PostgreSQL. That of SQLite is upgraded under the file's lock."""
    loop = asyncio.get_running_loop()
    if is_postgres(url):
        await loop.run_in_executor(None, prepare, url)
        postgres = PostgresDatabase(url, PROCEDURES, pool_size=pool_size)
        await postgres.open()
        return postgres
    database = SqliteDatabase(url)
    database.open()
    try:
        await loop.run_in_executor(None, migrations.upgrade, url)
    except BaseException:
        await database.close()
        raise
    return database


@asynccontextmanager
async def open_tokens(url: str) -> AsyncIterator[TokenStore]:
    """The tokens of a database that no node needs to run on; its schema is created if there is none. Of the rest of
    the database nothing changes, so no encryption key is needed.

    Raises DatabaseHeld, SchemaTooOld, SchemaTooNew, StoreError, SettingsError.
    """
    database = await _open(url, 1, migrations.create)
    try:
        yield TokenStore(database)
    finally:
        await database.close()
