"""Opens a node: its keys, its database and its HTTP client, in that order, and closes them again."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from relay.bus.publishers import Publishers
from relay.clock import Clock, wall_clock
from relay.config.keyring import MAKE_KEY, KeyFile, Keyring
from relay.config.settings import Settings
from relay.core.subscriptions.signing import ED25519_BYTES, new_secret, new_signing_key
from relay.errors import SettingsError
from relay.http.sender import Sender
from relay.node.accounts import adopted_accounts
from relay.node.audit import AuditLog
from relay.node.component_settings import egress_proxy, guard_policy
from relay.node.definitions import definitions_of, with_base_urls
from relay.node.encryption_keys import EncryptionKeys
from relay.node.local_token import with_local_token
from relay.node.node import ROLES, Node
from relay.private_files import default_state_dir
from relay.sources.client import NODE_HEADER
from relay.store.databases.postgres_engine import is_postgres
from relay.store.store import Store, open_store
from relay.store.subscriptions.secrets import CALLBACK_OWNER, SIGNING_OWNER
from relay.tracing import start_tracing

NO_KEY = (
    "with PostgreSQL every node needs the same encryption key: set RELAY_ENCRYPTION_KEY to the output of "
    f"`relay keys generate`, and keep a copy. Without that command: {MAKE_KEY}"
)


@asynccontextmanager
async def open_node(
    settings: Settings,
    *,
    base_url: str,
    clock: Clock = wall_clock,
    roles: tuple[str, ...] = ROLES,
    state_dir: Path | None = None,
    seed: int = 0,
    auto_migrate: bool = False,
) -> AsyncIterator[Node]:
    """A started node. On exit it is stopped and its database closed.

    `base_url` is where the node listens: scheme, address and bound port. `auto_migrate` brings a PostgreSQL database to
    the newest schema; a SQLite file always is. Raises SettingsError, DatabaseHeld, SchemaTooOld, SchemaTooNew,
    StoreError.
    """
    directory = state_dir or default_state_dir(os.environ)
    if is_postgres(settings.database.url) and not settings.encryption.keys:
        raise SettingsError(NO_KEY)
    definitions = definitions_of(settings)
    with_base_urls(settings, definitions)  # wrong settings are found before the database is opened
    tracing = start_tracing() if settings.tracing.enabled else None
    file = None if settings.encryption.keys else KeyFile(directory)
    keyring = Keyring(settings.encryption.keys if file is None else file.read_or_create())
    pool_size = settings.database.pool_size
    store = await open_store(
        settings.database.url,
        keyring,
        now=clock(),
        pool_size=pool_size,
        auto_migrate=auto_migrate,
        search_keys=settings.web.search_keys,
    )
    clock = store.clock(clock)
    keys = EncryptionKeys(keyring, store.ciphertexts, clock=clock, file=file)
    try:
        if not settings.dev:  # only the open database can tell whether it has a token
            has_stored = bool((await store.tokens.page(limit=1)).items)
            settings = with_local_token(settings, os.environ, has_stored=has_stored)
        await keys.check()
        await ensure_secrets(store, clock())
        # Decrypts every secret: a damaged one is reported now, not at the first delivery.
        await store.subscriptions.hold_unreadable(await store.subscriptions.all(), clock())
        await store.subscriptions.page(limit=1, callbacks=True)
        node_id = secrets.token_hex(8)
        audit = AuditLog(store, clock=clock, kept_days=settings.retention.audit_days)
        async with Sender(
            guard_policy(settings), clock=clock, node=(NODE_HEADER, node_id), proxy=egress_proxy(settings)
        ) as sender:
            node = Node(
                settings,
                definitions=definitions,
                store=store,
                sender=sender,
                publishers=Publishers(sender.policy, clock=clock, resolver=sender.resolver),
                base_url=base_url,
                keys=keys,
                clock=clock,
                roles=roles,
                seed=seed,
                adopted=await adopted_accounts(store),
                node_id=node_id,
                audit=audit,
                tracing=tracing,
            )
            await node.start()
            try:
                yield node
            finally:
                await node.stop()
    finally:
        await store.close()


async def ensure_secrets(store: Store, now: float) -> None:
    """Creates the callback secret and the signing key, once for all nodes."""
    await store.secrets.ensure_secret(CALLBACK_OWNER, new_secret(secrets.token_bytes(32)), now)
    made = new_signing_key(secrets.token_bytes(ED25519_BYTES))
    await store.secrets.ensure_secret(SIGNING_OWNER, made, now)
