"""Responses stored under an Idempotency-Key, encrypted because one can hold a secret that is shown once."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Connection, Row
from sqlmodel import col

from relay.core.jsontext import dumps
from relay.core.records import StoredAnswer
from relay.store.databases.database import Cipher, Database
from relay.store.databases.group_commit import Batch, in_order_of
from relay.store.databases.statements import run
from relay.store.rows import loads
from relay.store.schema.tables import IdempotencyRow

LEASE_SECONDS = 10.0
"""Time that a request holds its key without renewal, in seconds. After that, a request cut off by a crash may be sent
again."""

# Takes a key that is free. One statement, so that only one node takes a key. A request with another body is refused
# until the key expires, because the first request may have done its work. One that was refused for its body did not,
# and its reasons are not stored: with the same body it is judged again.
TAKE = """
INSERT INTO idempotency_keys (id, body_digest, created_at, holder, held_until)
VALUES (:id, :body_digest, :now, :holder, :held_until)
ON CONFLICT (id) DO UPDATE SET body_digest = excluded.body_digest, status_code = NULL, ciphertext = NULL,
  created_at = CASE WHEN idempotency_keys.created_at < :oldest THEN excluded.created_at
    ELSE idempotency_keys.created_at END,
  holder = excluded.holder, held_until = excluded.held_until
WHERE idempotency_keys.created_at < :oldest OR (
  idempotency_keys.body_digest = excluded.body_digest AND (
    idempotency_keys.status_code IS NULL AND COALESCE(idempotency_keys.held_until, 0) <= :now
    OR idempotency_keys.status_code IN (400, 413, 415, 422)
  )
)
RETURNING created_at
"""
# Renews the lease of a key.
RENEW = """
UPDATE idempotency_keys SET held_until = :held_until WHERE id = :id AND holder = :holder AND status_code IS NULL
"""
# Stores the answer.
END = """
UPDATE idempotency_keys SET status_code = :status_code, ciphertext = :ciphertext, held_until = NULL
WHERE id = :id AND holder = :holder AND status_code IS NULL
"""
# Frees a key without an answer.
FORGET = "DELETE FROM idempotency_keys WHERE id = :id AND holder = :holder AND status_code IS NULL"
# Ends the leases of all keys without an answer.
FREE_KEYS = "UPDATE idempotency_keys SET held_until = NULL WHERE status_code IS NULL"


class IdempotencyStore:
    """Begins, ends and forgets idempotent requests. `id`: digest of token, method, path and key. `holder`: one
    request, which holds the key until it ends. A request that lost its key to a later one changes nothing."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher
        self._begin: Batch[Mapping[str, Any], StoredAnswer | float] = in_order_of(_by_id)(self._take)

    async def begin(self, id: str, body_digest: str, holder: str, now: float, oldest: float) -> StoredAnswer | float:
        """Takes the key for LEASE_SECONDS if it is free: never used, last used before `oldest`, or held by a request
        with the same body that was cut off, or refused for its body. Returns when the first of those requests arrived,
        which may have done its work. If the key is not free, returns the stored answer of its request."""
        values = {"id": id, "body_digest": body_digest, "holder": holder, "now": now, "oldest": oldest}
        item: Mapping[str, Any] = {**values, "held_until": now + LEASE_SECONDS}
        return await self._database.write(self._begin, item)

    async def renew(self, id: str, holder: str, now: float) -> None:
        """Holds the key for another LEASE_SECONDS."""
        await self._database.write(_renew, {"id": id, "holder": holder, "held_until": now + LEASE_SECONDS})

    async def end(self, id: str, holder: str, status_code: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Stores the answer."""
        sealed = dumps({"body": body.decode("latin-1"), "headers": dict(headers)})  # latin-1 preserves any bytes
        ciphertext = self._cipher.encrypt(sealed, context=id)
        values = {"id": id, "holder": holder, "status_code": status_code, "ciphertext": ciphertext}
        await self._database.write(_end, values)

    async def forget(self, id: str, holder: str) -> None:
        """Frees the key: the request had no effect and may be sent again."""
        await self._database.write(_forget, {"id": id, "holder": holder})

    def _take(self, connection: Connection, item: Mapping[str, Any]) -> StoredAnswer | float:
        taken = run(connection, TAKE, **item).one_or_none()
        if taken is not None:
            return float(taken.created_at)
        found = select(IdempotencyRow).where(col(IdempotencyRow.id) == item["id"])
        return self._answer(connection.execute(found).one())

    def _answer(self, row: Row[Any]) -> StoredAnswer:
        if row.status_code is None:
            return StoredAnswer(body_digest=row.body_digest)
        sealed = loads(self._cipher.decrypt(row.ciphertext, context=row.id))
        return StoredAnswer(
            body_digest=row.body_digest,
            status_code=row.status_code,
            body=sealed["body"].encode("latin-1"),
            headers=sealed["headers"],
        )


def _by_id(item: Mapping[str, Any]) -> str:
    return str(item["id"])


@in_order_of(_by_id)
def _renew(connection: Connection, item: Mapping[str, Any]) -> None:
    run(connection, RENEW, **item)


@in_order_of(_by_id)
def _end(connection: Connection, item: Mapping[str, Any]) -> None:
    run(connection, END, **item)


@in_order_of(_by_id)
def _forget(connection: Connection, item: Mapping[str, Any]) -> None:
    run(connection, FORGET, **item)
