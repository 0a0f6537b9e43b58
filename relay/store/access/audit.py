"""The audit's table: entries are appended to one chain, listed, verified, and removed when they are old.

All nodes append to the same chain: each reads the last entry under one lock and writes the next. The key of the MACs
is made once and stored in `secrets`, encrypted.
"""

import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy import Select, select, text
from sqlalchemy.engine import Connection, Row

from relay.core.access.audit import START, AuditEntry, AuditRecord, Head, sealed
from relay.core.records import Page
from relay.errors import RelayError, StoreError
from relay.ids import least_id, new_id
from relay.store.databases.database import Cipher, Database
from relay.store.databases.group_commit import MAX_GROUP_ITEMS, alone, each, quick
from relay.store.databases.locks import AUDIT, locking
from relay.store.databases.pages import decode_cursor, narrowest, newest_first, read_page, unindexed
from relay.store.databases.statements import insert_into, run, run_many, table_of
from relay.store.rows import columns, made
from relay.store.schema.tables import AuditRow, SecretRow
from relay.store.subscriptions.secrets import AUDIT_OWNER

TABLE = table_of(AuditRow)
PREFIX = "aud"
READ_AT_ONCE = 500
REMOVED_AT_ONCE = 200
KEY_ID = "audit_key"
"""The row of the key. Its ciphertext is bound to this id, which no other secret has: a secret that a user chose, such
as that of a subscription, cannot be passed off as the key."""

_TYPES: dict[str, Any] = {name: field.annotation for name, field in AuditRow.model_fields.items()}
# Appends entries.
APPEND = insert_into(AuditRow, *_TYPES)
# The last entry.
LAST = "SELECT number, mac FROM audit ORDER BY number DESC LIMIT 1"
# A started entry that has ended is shown by its end. Not EXISTS: PostgreSQL would make a hash of the whole table.
_NOT_ENDED = """
NOT (audit.result = 'started' AND (SELECT 1 FROM audit e WHERE e.ends = audit.number LIMIT 1) IS NOT NULL)
"""
# The next entries, and the number of the next one if it cannot be read.
NEXT = f"SELECT {', '.join(_TYPES)} FROM audit WHERE number > :after ORDER BY number LIMIT :count"
NEXT_NUMBER = "SELECT number FROM audit WHERE number > :after ORDER BY number LIMIT 1"
# The stored key.
KEY = "SELECT ciphertext FROM secrets WHERE id = :id"
# Stores the key, unless there is one.
MAKE_KEY = f"{insert_into(SecretRow, 'id', 'owner', 'ciphertext', 'created_at')} ON CONFLICT (id) DO NOTHING"
# Removes entries that an `audit.cut` names.
REMOVE = f"""
DELETE FROM audit WHERE number IN (
  SELECT number FROM audit WHERE number <= :number ORDER BY number LIMIT {REMOVED_AT_ONCE}
)
"""


class AuditKeyError(StoreError):
    """The key of the audit is missing, or cannot be decrypted."""


class AuditStore:
    """Reads and writes of the audit."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher
        self._key: bytes | None = None

    async def append(self, *records: AuditRecord) -> int:
        """Adds entries to the chain, all or none, durably. Returns the last one's number. Raises StoreError."""
        if self._key is None:
            made = self._cipher.encrypt(secrets.token_hex(32).encode(), context=KEY_ID)
            await self._database.write(_make_key, (made, records[0].at))
            self._key = await self.key()
        return await self._database.write(_append, (self._key, records))

    async def key(self) -> bytes:
        """The key of the MACs. Raises AuditKeyError, StoreError."""
        ciphertext = await self._database.read(_stored_key)
        if ciphertext is None:
            raise AuditKeyError(f"the audit has no key: the row {KEY_ID} of the table secrets is missing")
        try:
            return bytes.fromhex(self._cipher.decrypt(ciphertext, context=KEY_ID).decode())
        except (RelayError, ValueError) as error:
            raise AuditKeyError(f"the key of the audit cannot be read: {error}") from error

    async def cut(self, record: AuditRecord) -> None:
        """Appends this `audit.cut`, and removes the entries up to the number that it names. If the process is killed
        meanwhile, the next cut removes the rest."""
        await self.append(record)
        while await self._database.write(_remove, record.times):
            pass

    async def page(self, *, limit: int, cursor: str | None = None, **filters: Any) -> Page[AuditEntry]:
        """Newest first; `filters`: those of `page_statement`. A started entry that has ended is left out: its end is
        listed."""
        statement = page_statement(limit + 1, decode_cursor(cursor, prefix=f"{PREFIX}_"), **filters)
        return await self._database.read(_page, statement, limit)

    async def entries(self) -> AsyncIterator[AuditEntry | int]:
        """The whole chain. A number stands for an entry that cannot be read."""
        async for batch in self.batches():
            for entry in batch:
                yield entry

    async def batches(self) -> AsyncIterator[Sequence[AuditEntry | int]]:
        """The same in parts of READ_AT_ONCE."""
        after = 0
        while batch := await self._next(after):
            yield batch
            last = batch[-1]
            after = last if isinstance(last, int) else last.number

    async def _next(self, after: int) -> Sequence[AuditEntry | int]:
        for count in (READ_AT_ONCE, 1):
            try:
                return await self._database.read(_entries, after, count)
            except StoreError:  # such as text that is not UTF-8, in one of them
                continue
        return await self._database.read(_next_number, after)

    async def head(self) -> Head:
        """The last entry; START if there is none."""
        return await self._database.read(_head)


def page_statement(
    limit: int,
    before: str | None,
    *,
    since: float | None = None,
    until: float | None = None,
    actor: str | None = None,
    action: str | None = None,
) -> Select[Any]:
    """A page of entries, newest first."""
    given = [
        (column, value) for column, value in ((TABLE.c.actor, actor), (TABLE.c.action, action)) if value is not None
    ]
    first = [None if since is None else least_id(PREFIX, since)]
    last = [before, None if until is None else least_id(PREFIX, until)]
    statement = newest_first(
        select(TABLE), given[:1], [TABLE.c.id], since=narrowest(max, first), before=narrowest(min, last)
    )
    return statement.where(text(_NOT_ENDED), *(unindexed(column) == value for column, value in given[1:])).limit(limit)


@quick
@alone(MAX_GROUP_ITEMS)  # so that no other write of this node holds up the audit of all nodes
@locking(lambda _: [AUDIT])
def _append(connection: Connection, items: Sequence[tuple[bytes, Sequence[AuditRecord]]]) -> Sequence[int]:
    head, entries, numbers = _head(connection), [], []
    for key, records in items:
        for record in records:
            entry = sealed(record, id=new_id(PREFIX, record.at), after=head, key=key)
            head = Head(entry.number, entry.mac)
            entries.append(entry)
        numbers.append(head.number)
    run_many(connection, APPEND, [_values(entry) for entry in entries])
    return numbers


@alone(1)
@locking(lambda _: [AUDIT])
@each
def _remove(connection: Connection, number: int) -> int:
    return run(connection, REMOVE, number=number).rowcount


@each
def _make_key(connection: Connection, item: tuple[bytes, float]) -> None:
    run(connection, MAKE_KEY, id=KEY_ID, owner=AUDIT_OWNER, ciphertext=item[0], created_at=item[1])


def _stored_key(connection: Connection) -> bytes | None:
    found = run(connection, KEY, id=KEY_ID).scalar_one_or_none()
    return found if isinstance(found, bytes) else None


def _head(connection: Connection) -> Head:
    row = run(connection, LAST).one_or_none()
    if row is None:
        return START
    return Head(row.number, row.mac if isinstance(row.mac, bytes) else b"")  # SQLite stores a value of any type


def _values(entry: AuditEntry) -> dict[str, Any]:
    values = columns(entry)
    return values | columns(values.pop("record"))


def _entry(row: Row[Any]) -> AuditEntry | int:
    """The entry of a row, or its number if SQLite has values of other types there."""
    if not all(isinstance(getattr(row, name), kind) for name, kind in _TYPES.items()):
        number: int = row.number
        return number
    return made(AuditEntry, row, record=made(AuditRecord, row))


def _entries(connection: Connection, after: int, count: int) -> list[AuditEntry | int]:
    return [_entry(row) for row in run(connection, NEXT, after=after, count=count)]


def _next_number(connection: Connection, after: int) -> list[int]:
    return list(run(connection, NEXT_NUMBER, after=after).scalars())


def _page(connection: Connection, statement: Select[Any], limit: int) -> Page[AuditEntry]:
    page = read_page(connection, statement, limit, _entry, "id")
    return Page(items=tuple(one for one in page.items if isinstance(one, AuditEntry)), next_cursor=page.next_cursor)
