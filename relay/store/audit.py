"""The audit's table: entries are appended to this process's chain, listed, verified, and removed when they are old.

A chain has one writer. Its head is in memory and advances only after a commit, so a head that is removed from the
table leaves a gap that verification finds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import structlog
from sqlalchemy import Select, select, text
from sqlalchemy.engine import Connection, Row

from relay.core.audit import (
    START,
    AuditEntry,
    AuditKey,
    AuditRecord,
    ChainCheck,
    Cut,
    Head,
    Keys,
    sealed,
    signed_cut,
)
from relay.core.records import Page
from relay.errors import RelayError, StoreError
from relay.ids import least_id, new_id
from relay.store.cipher import Cipher
from relay.store.database import Database
from relay.store.group_commit import quick
from relay.store.pages import decode_cursor, narrowest, newest_first, read_page, unindexed
from relay.store.secrets import AUDIT_OWNER
from relay.store.statements import insert_into, run, run_many, table_of
from relay.store.tables import AuditRow, SecretRow

AUDIT = table_of(AuditRow)
PREFIX = "aud"
READ_AT_ONCE = 500
MAX_HEADS = 200
"""Per anchor entry."""

KEY_PREFIX = "audit_key_"
"""How the ids of these rows begin."""

_COLUMNS = (
    *("chain", "number", "id", "at", "action", "actor", "token_id", "target", "address", "result", "status", "times"),
    *("request_id", "ends", "detail", "key_id", "previous", "mac"),
)
_TYPES: Mapping[str, Any] = {
    **dict.fromkeys(("chain", "id", "action", "result", "key_id"), str),
    **dict.fromkeys(("actor", "token_id", "target", "address", "request_id"), str | None),
    **dict.fromkeys(("number", "times"), int),
    **dict.fromkeys(("status", "ends"), int | None),
    **dict.fromkeys(("detail", "previous", "mac"), bytes),
    "at": float,
}
_CUT_TYPES: Mapping[str, Any] = {
    "number": int,
    "at": float,
    "key_id": str,
    **dict.fromkeys(("mac", "signature"), bytes),
}
# Appends entries.
APPEND = insert_into(AuditRow, *_COLUMNS)
# The MAC of one entry.
MAC_OF = "SELECT mac FROM audit WHERE chain = :chain AND number = :number"
# A started entry that has ended is shown by its end. Not EXISTS: PostgreSQL would make a hash of the whole table.
_NOT_ENDED = """
NOT (audit.result = 'started'
  AND (SELECT 1 FROM audit e WHERE e.chain = audit.chain AND e.ends = audit.number LIMIT 1) IS NOT NULL)
"""
_ALL = ", ".join(_COLUMNS)
# The next entries of a chain.
NEXT = f"SELECT {_ALL} FROM audit WHERE chain = :chain AND number > :after ORDER BY number LIMIT {READ_AT_ONCE}"
# The same, if one of them cannot be read: their numbers, then each alone.
NEXT_NUMBERS = f"SELECT number FROM audit WHERE chain = :chain AND number > :after ORDER BY number LIMIT {READ_AT_ONCE}"
ONE = f"SELECT {_ALL} FROM audit WHERE chain = :chain AND number = :number"
# The stored keys.
KEYS = "SELECT id, ciphertext FROM secrets WHERE owner = :owner"
# Stores a key.
KEEP_KEY = f"{insert_into(SecretRow, 'id', 'owner', 'ciphertext', 'created_at')} ON CONFLICT (id) DO NOTHING"
# Every chain, also those whose entries are all gone.
CHAINS = "SELECT chain FROM audit UNION SELECT chain FROM audit_cuts ORDER BY chain"
# The heads of the chains that have grown since an id.
HEADS = f"""
SELECT audit.chain, audit.number, audit.mac FROM audit JOIN (
  SELECT chain, MAX(number) AS number FROM audit WHERE id >= :since GROUP BY chain
) AS grown ON grown.chain = audit.chain AND grown.number = audit.number
WHERE audit.chain <> :chain ORDER BY audit.chain LIMIT {MAX_HEADS} OFFSET :skipped
"""
# When an entry of an action was last written. Bounds: see `newest_first`.
LAST_AT = "SELECT at FROM audit WHERE action >= :action AND action <= :action ORDER BY action DESC, id DESC LIMIT 1"
# The chains with entries before an id.
OLD_CHAINS = "SELECT DISTINCT chain FROM audit WHERE id < :before ORDER BY chain"
CUT_OF = "SELECT chain, number, mac, at, key_id, signature FROM audit_cuts WHERE chain = :chain"
# Stores a cut. It never moves back.
STORE_CUT = """
INSERT INTO audit_cuts (chain, number, mac, at, key_id, signature)
VALUES (:chain, :number, :mac, :at, :key_id, :signature)
ON CONFLICT (chain) DO UPDATE SET number = excluded.number, mac = excluded.mac, at = excluded.at,
  key_id = excluded.key_id, signature = excluded.signature
WHERE audit_cuts.number < excluded.number
"""
# Deletes what is below a cut.
DELETE_CUT = "DELETE FROM audit WHERE chain = :chain AND number <= :number"
# Deletes the cuts of other chains that are gone, once every anchor that names them is gone as well.
DELETE_CUTS = """
DELETE FROM audit_cuts WHERE at < :before AND chain <> :chain
  AND NOT EXISTS (SELECT 1 FROM audit WHERE audit.chain = audit_cuts.chain)
"""

log = structlog.get_logger("relay.store")


class AuditStore:
    """Reads and writes of the audit."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher
        self._key: AuditKey | None = None
        self._committed = Head(chain="", number=0, mac=START)
        self._open: Head | None = None
        """The head in the open transaction."""
        self._uncertain: list[Head] = []
        """Heads of transactions that seemed to fail: PostgreSQL may have committed one, and its answer was lost."""

    def begin_chain(self, chain: str) -> None:
        """What is appended from now on belongs to this new chain."""
        self._committed, self._open, self._uncertain = Head(chain=chain, number=0, mac=START), None, []

    @property
    def head(self) -> Head:
        """The last entry of this process's chain."""
        return self._committed

    # --- writes

    async def append(self, *records: AuditRecord) -> int:
        """Adds entries to the chain, all or none, durably. Returns the last one's number. Raises StoreError."""
        return await self._database.write(self._append, records)

    def use_key(self, key: AuditKey) -> None:
        """What is appended from now on is sealed with this key."""
        self._key = key

    async def keep_key(self, key: AuditKey, now: float) -> None:
        """Stores a key, encrypted, so that its entries still verify without the encryption key that it comes from."""
        id = f"{KEY_PREFIX}{key.id}"
        sealed_key = self._cipher.encrypt(key.secret.hex().encode(), context=id)  # secrets are texts
        await self._database.write(
            _keep_key, {"id": id, "owner": AUDIT_OWNER, "ciphertext": sealed_key, "created_at": now}
        )

    async def cut(self, chain: str, before: float, keys: Keys) -> int:
        """Removes the next entries of a chain that are older than `before`, and signs where. Only entries that verify
        are removed, so changing an entry's time does not make it disappear. Returns how many."""
        assert self._key is not None
        check = ChainCheck(chain, await self.cut_of(chain), keys)
        entries = [] if check.findings else await self.entries(chain, check.reached)
        removed = 0
        for entry in entries:
            if isinstance(entry, int) or not check.take(entry) or check.findings or entry.record.at >= before:
                break
            last, removed = entry, removed + 1
        if check.findings:
            log.error(
                "audit_not_verified", chain=chain, finding=check.findings[0].text, hint="run `relay audit verify`"
            )
        if removed:
            await self._database.write(_cut, signed_cut(last, self._key))
        return removed

    async def delete_cuts(self, before: float) -> None:
        """Forgets chains whose entries are all gone, and were written before this time."""
        await self._database.write(_delete_cuts, (before, self._committed.chain))

    def committed(self) -> None:
        """The open transaction was committed."""
        if self._open is not None:
            self._committed, self._open = self._open, None

    def rolled_back(self) -> None:
        """The open transaction was undone, or its end is unknown."""
        if self._open is not None:
            self._uncertain.append(self._open)
            self._open = None

    @quick
    def _append(self, connection: Connection, items: Sequence[Sequence[AuditRecord]]) -> Sequence[int]:
        if self._key is None:
            raise StoreError("the audit has no chain yet")
        head, entries, numbers = self._settled(connection), [], []
        for records in items:
            for record in records:
                entry = sealed(record, id=new_id(PREFIX, record.at), head=head, key=self._key)
                head = Head(chain=entry.chain, number=entry.number, mac=entry.mac)
                entries.append(entry)
            numbers.append(head.number)
        run_many(connection, APPEND, [_values(entry) for entry in entries])
        self._open = head
        return numbers

    def _settled(self, connection: Connection) -> Head:
        """The head that is in the database, after a transaction whose end was unknown."""
        while self._uncertain:
            head = self._uncertain.pop()
            found = run(connection, MAC_OF, chain=head.chain, number=head.number).scalar_one_or_none()
            if found is not None and bytes(found) == head.mac:
                self._committed, self._uncertain = head, []
        return self._committed

    # --- reads

    async def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        since: float | None = None,
        until: float | None = None,
        actor: str | None = None,
        action: str | None = None,
    ) -> Page[AuditEntry]:
        """Newest first. A started entry that has ended is left out: its end is listed."""
        before = decode_cursor(cursor, prefix=f"{PREFIX}_")
        statement = page_statement(limit + 1, before, since=since, until=until, actor=actor, action=action)
        return await self._database.read(_page, statement, limit)

    async def keys(self) -> dict[str, bytes]:
        """The stored keys, by id. One that does not decrypt is left out, and its entries then do not verify.

        A row's id is authenticated, and no other secret has an id like these. So a secret that a user chose, such as
        that of a subscription, cannot be passed off as a key.
        """
        found: dict[str, bytes] = {}
        for id, ciphertext in await self._database.read(_keys):
            try:
                secret = bytes.fromhex(self._cipher.decrypt(ciphertext, context=id).decode())
                found[id.removeprefix(KEY_PREFIX)] = secret
            except (RelayError, ValueError) as error:
                log.error("audit_key_not_read", error=str(error))
        return found

    async def chains(self) -> list[str]:
        """The names of all chains."""
        return await self._database.read(_chains)

    async def old_chains(self, before: float) -> list[str]:
        """The chains with entries older than this time."""
        return await self._database.read(_old_chains, before)

    async def cut_of(self, chain: str) -> Cut | None:
        """What retention has removed of a chain. Its number is -1 if it cannot be read."""
        return await self._database.read(_cut_of, chain)

    async def entries(self, chain: str, after: Any) -> list[AuditEntry | int]:
        """The next entries of a chain. A number stands for an entry that cannot be read, -1 if that is not one."""
        try:
            return await self._database.read(_entries, chain, after)
        except StoreError:  # such as text that is not UTF-8: one of the entries
            return await self._entries_one_by_one(chain, after)

    async def _entries_one_by_one(self, chain: str, after: Any) -> list[AuditEntry | int]:
        found: list[AuditEntry | int] = []
        for number in await self._database.read(_numbers, chain, after):
            try:
                found += await self._database.read(_one, chain, number)
            except StoreError:
                found.append(number)
        return found

    async def heads(self, since: float | None, skipped: int) -> list[Head]:
        """The heads of other chains that have grown since this time (None: all), in parts of MAX_HEADS."""
        return await self._database.read(_heads, self._committed.chain, since, skipped)

    async def last_at(self, action: str) -> float | None:
        """When an entry of this action was last written, by any node."""
        return await self._database.read(_last_at, action)


def page_statement(
    limit: int, before: str | None, *, since: float | None, until: float | None, actor: str | None, action: str | None
) -> Select[Any]:
    """A page of entries, newest first."""
    given = [
        (column, value) for column, value in ((AUDIT.c.actor, actor), (AUDIT.c.action, action)) if value is not None
    ]
    first = [None if since is None else least_id(PREFIX, since)]
    last = [before, None if until is None else least_id(PREFIX, until)]
    statement = newest_first(
        select(AUDIT), given[:1], [AUDIT.c.id], since=narrowest(max, first), before=narrowest(min, last)
    )
    return statement.where(text(_NOT_ENDED), *(unindexed(column) == value for column, value in given[1:])).limit(limit)


def _values(entry: AuditEntry) -> dict[str, Any]:
    record = entry.record
    return {
        **{name: getattr(entry, name) for name in ("chain", "number", "id", "key_id", "previous", "mac")},
        **{
            name: getattr(record, name)
            for name in ("at", "action", "actor", "token_id", "target", "address", "result", "status", "request_id")
        },
        **{"times": record.count, "ends": record.ends, "detail": record.detail},
    }


def _entry(row: Row[Any]) -> AuditEntry | int:
    """The entry of a row. SQLite stores a value of any type in any column."""
    if not all(isinstance(getattr(row, name), type) for name, type in _TYPES.items()):
        return row.number if isinstance(row.number, int) else -1
    return AuditEntry(
        chain=row.chain,
        number=row.number,
        id=row.id,
        key_id=row.key_id,
        previous=row.previous,
        mac=row.mac,
        record=AuditRecord(
            at=row.at,
            action=row.action,
            actor=row.actor,
            token_id=row.token_id,
            target=row.target,
            address=row.address,
            result=row.result,
            status=row.status,
            count=row.times,
            request_id=row.request_id,
            ends=row.ends,
            detail=row.detail,
        ),
    )


def _page(connection: Connection, statement: Select[Any], limit: int) -> Page[AuditEntry]:
    page = read_page(connection, statement, limit, _entry, "id")
    return Page(items=tuple(one for one in page.items if isinstance(one, AuditEntry)), next_cursor=page.next_cursor)


def _keys(connection: Connection) -> list[tuple[str, bytes]]:
    rows = run(connection, KEYS, owner=AUDIT_OWNER)
    return [(row.id, row.ciphertext) for row in rows if str(row.id).startswith(KEY_PREFIX)]


def _chains(connection: Connection) -> list[str]:
    return [str(row.chain) for row in run(connection, CHAINS)]


def _old_chains(connection: Connection, before: float) -> list[str]:
    return [row.chain for row in run(connection, OLD_CHAINS, before=least_id(PREFIX, before))]


def _cut_of(connection: Connection, chain: str) -> Cut | None:
    row = run(connection, CUT_OF, chain=chain).one_or_none()
    if row is None:
        return None
    if not all(isinstance(getattr(row, name), type) for name, type in _CUT_TYPES.items()):
        return Cut(chain=chain, number=-1, mac=b"", at=0.0, key_id="", signature=b"")
    return Cut(**row._mapping)


def _entries(connection: Connection, chain: str, after: Any) -> list[AuditEntry | int]:
    return [_entry(row) for row in run(connection, NEXT, chain=chain, after=after)]


def _numbers(connection: Connection, chain: str, after: Any) -> list[int]:
    return [row.number for row in run(connection, NEXT_NUMBERS, chain=chain, after=after)]


def _one(connection: Connection, chain: str, number: int) -> list[AuditEntry | int]:
    return [_entry(row) for row in run(connection, ONE, chain=chain, number=number)]


def _heads(connection: Connection, chain: str, since: float | None, skipped: int) -> list[Head]:
    least = "" if since is None else least_id(PREFIX, since)
    rows = run(connection, HEADS, chain=chain, since=least, skipped=skipped)
    return [Head(chain=row.chain, number=row.number, mac=bytes(row.mac)) for row in rows]


def _last_at(connection: Connection, action: str) -> float | None:
    found: float | None = run(connection, LAST_AT, action=action).scalar_one_or_none()
    return found


def _keep_key(connection: Connection, items: Sequence[Mapping[str, Any]]) -> Sequence[None]:
    run_many(connection, KEEP_KEY, items)
    return [None] * len(items)


def _cut(connection: Connection, cuts: Sequence[Cut]) -> Sequence[None]:
    for cut in cuts:
        run(connection, STORE_CUT, **asdict(cut))
        run(connection, DELETE_CUT, chain=cut.chain, number=cut.number)
    return [None] * len(cuts)


def _delete_cuts(connection: Connection, items: Sequence[tuple[float, str]]) -> Sequence[None]:
    for before, chain in items:
        run(connection, DELETE_CUTS, before=before, chain=chain)
    return [None] * len(items)
