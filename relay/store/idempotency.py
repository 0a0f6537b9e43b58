"""Answers kept for an Idempotency-Key, encrypted: they can hold a secret that is shown only once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection, Row

from relay.core.records import StoredAnswer
from relay.store.database import Database
from relay.store.rows import dumps, loads
from relay.store.subscriptions import Cipher
from relay.store.tables import IdempotencyRow

KEYS = IdempotencyRow.__table__  # type: ignore[attr-defined]
UNFINISHED_SECONDS = 300.0
"""A request that takes longer was cut off by a crash: it may be sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    id: str
    status_code: int
    ciphertext: bytes


class IdempotencyStore:
    """Begins, ends and forgets idempotent requests. `id` is a digest of token, method, path and key."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher

    async def begin(self, id: str, body_digest: str, now: float, oldest: float) -> StoredAnswer | None:
        """Starts a request. Returns None when it is new (or the one before is from before `oldest`), else what was
        kept of the one before."""
        return await self._database.write(self._begin, (id, body_digest, now, oldest))

    async def end(self, id: str, status_code: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Keeps the answer."""
        sealed = dumps({"body": body.decode("latin-1"), "headers": dict(headers)})  # latin-1: any bytes survive it
        ciphertext = self._cipher.encrypt(sealed, context=id)
        await self._database.write(_end, _Answer(id=id, status_code=status_code, ciphertext=ciphertext))

    async def forget(self, id: str) -> None:
        """The request came to nothing: it may be sent again."""
        await self._database.write(_forget, id)

    async def forget_unfinished(self) -> None:
        """For the start of the only node: a request that a crash cut off may be sent again."""
        await self._database.write(_forget_unfinished, None)

    def _begin(
        self, connection: Connection, items: Sequence[tuple[str, str, float, float]]
    ) -> Sequence[StoredAnswer | None]:
        results: list[StoredAnswer | None] = []
        for id, body_digest, now, oldest in items:
            row = connection.execute(select(KEYS).where(KEYS.c.id == id)).one_or_none()
            cut_off = row is not None and row.status_code is None and now - row.created_at > UNFINISHED_SECONDS
            if row is not None and row.created_at >= oldest and not cut_off:
                results.append(self._answer(row))
                continue
            if row is not None:
                # not the one that another node has begun meanwhile
                connection.execute(delete(KEYS).where(KEYS.c.id == id, KEYS.c.created_at < oldest))
            connection.execute(insert(KEYS), {"id": id, "body_digest": body_digest, "created_at": now})
            results.append(None)
        return results

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


def _end(connection: Connection, items: Sequence[_Answer]) -> Sequence[None]:
    for answer in items:
        values: dict[str, Any] = {"status_code": answer.status_code, "ciphertext": answer.ciphertext}
        connection.execute(update(KEYS).where(KEYS.c.id == answer.id).values(**values))
    return [None] * len(items)


def _forget(connection: Connection, items: Sequence[str]) -> Sequence[None]:
    for id in items:
        connection.execute(delete(KEYS).where(KEYS.c.id == id))
    return [None] * len(items)


def _forget_unfinished(connection: Connection, items: Sequence[None]) -> Sequence[None]:
    connection.execute(delete(KEYS).where(KEYS.c.status_code.is_(None)))
    return [None] * len(items)
