"""Creates in flight through the relay, and those whose fate is unknown. A row is gone once its fate is known.

An id begins with the time at which its create was sent. So what is unknown is two ranges of ids: all that were sent too
long ago to be in flight, and of the later ones those with a reason. Both are read by index, however many are in flight.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, bindparam, select
from sqlalchemy.engine import Connection, Row

from relay.core.records import Intent, Page
from relay.ids import least_id
from relay.store.database import Database
from relay.store.pages import decode_cursor, page_of
from relay.store.statements import insert_into, many, run
from relay.store.tables import IntentRow

INTENTS = IntentRow.__table__  # type: ignore[attr-defined]
CUT_OFF = "cut_off"
IN_FLIGHT_SECONDS = 600.0
"""A request that is said to be in flight for longer was cut off: no node waits so long for an answer."""

BEGIN = insert_into(INTENTS, "id", "source", "account", "path", "body_digest", "idempotency_key", "created_at")
END = "DELETE FROM intents WHERE id = :id"
SETTLE = """
DELETE FROM intents WHERE source = :source AND account = :account AND path = :path AND body_digest = :body_digest
  AND idempotency_key = :idempotency_key AND created_at <= :created_at
"""
DISMISS = "DELETE FROM intents WHERE id = :id AND (reason IS NOT NULL OR id < :in_flight_since) RETURNING *"
UNKNOWN = "UPDATE intents SET reason = :reason, status_code = :status_code WHERE id = :id"
ALL_CUT_OFF = f"UPDATE intents SET reason = '{CUT_OFF}' WHERE reason IS NULL"
COUNT_UNKNOWN = """
SELECT (SELECT COUNT(*) FROM intents WHERE reason IS NOT NULL AND id >= :in_flight_since)
  + (SELECT COUNT(*) FROM intents WHERE id < :in_flight_since)
"""
NEWEST = select(INTENTS).order_by(INTENTS.c.id.desc()).limit(bindparam("count"))
NEW_UNKNOWN = NEWEST.where(INTENTS.c.reason.is_not(None), INTENTS.c.id >= bindparam("in_flight_since"))
OLD_UNKNOWN = NEWEST.where(INTENTS.c.id < bindparam("in_flight_since"))


class IntentStore:
    """Reads and writes of intents. Every write is durable when its call returns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, intent: Intent) -> None:
        """Writes down what is about to be sent."""
        await self._database.write(_begin, intent)

    async def end(self, id: str) -> None:
        """Its fate is known."""
        await self._database.write(_end, id)

    async def dismiss(self, id: str, now: float) -> Intent | None:
        """Takes one whose fate is unknown off the list. None where there is no such."""
        return await self._database.write(_dismiss, (id, _in_flight_since(now)))

    async def unknown(self, id: str, reason: str, status_code: int | None = None) -> None:
        """Nobody knows what came of it, and why."""
        await self._database.write(_unknown, (id, reason, status_code))

    async def all_cut_off(self) -> None:
        """For the start of the only node: nobody waits for what was in flight."""
        await self._database.write(_all_cut_off, None)

    async def count_unknown(self, now: float) -> int:
        """How many there are whose fate is unknown."""
        return await self._database.read(_count_unknown, _in_flight_since(now))

    async def page(self, *, limit: int, cursor: str | None = None, now: float) -> Page[Intent]:
        """Those whose fate is unknown, newest first."""
        before = decode_cursor(cursor, prefix="int_")
        return await self._database.read(_page, limit, before, _in_flight_since(now))


def settle(connection: Connection, intents: Sequence[Intent]) -> None:
    """In the transaction that registers what these creates made: their fate is known, and that of earlier ones with
    the same Idempotency-Key and body, since the upstream answered with the original."""
    for intent in sorted(intents, key=lambda intent: intent.id):
        run(connection, END, id=intent.id)
        if intent.idempotency_key is not None:
            run(
                connection,
                SETTLE,
                source=intent.source,
                account=intent.account,
                path=intent.path,
                idempotency_key=intent.idempotency_key,
                body_digest=intent.body_digest,
                created_at=intent.created_at,
            )


def _begin(connection: Connection, items: Sequence[Intent]) -> Sequence[None]:
    many(
        connection,
        BEGIN,
        [
            {
                "id": intent.id,
                "source": intent.source,
                "account": intent.account,
                "path": intent.path,
                "body_digest": intent.body_digest,
                "idempotency_key": intent.idempotency_key,
                "created_at": intent.created_at,
            }
            for intent in items
        ],
    )
    return [None] * len(items)


def _end(connection: Connection, items: Sequence[str]) -> Sequence[None]:
    for id in items:
        run(connection, END, id=id)
    return [None] * len(items)


def _dismiss(connection: Connection, items: Sequence[tuple[str, str]]) -> Sequence[Intent | None]:
    found = []
    for id, in_flight_since in items:
        row = run(connection, DISMISS, id=id, in_flight_since=in_flight_since).one_or_none()
        found.append(None if row is None else _intent_from(row))
    return found


def _unknown(connection: Connection, items: Sequence[tuple[str, str, int | None]]) -> Sequence[None]:
    for id, reason, status_code in items:
        run(connection, UNKNOWN, id=id, reason=reason, status_code=status_code)
    return [None] * len(items)


def _all_cut_off(connection: Connection, items: Sequence[None]) -> Sequence[None]:
    run(connection, ALL_CUT_OFF)
    return [None] * len(items)


def _count_unknown(connection: Connection, in_flight_since: str) -> int:
    return int(run(connection, COUNT_UNKNOWN, in_flight_since=in_flight_since).scalar_one())


def _page(connection: Connection, limit: int, before: str | None, in_flight_since: str) -> Page[Intent]:
    rows: list[Row[Any]] = []
    for unknown in (NEW_UNKNOWN, OLD_UNKNOWN):
        if len(rows) <= limit:
            values = {"count": limit + 1 - len(rows), "in_flight_since": in_flight_since}
            rows += connection.execute(page_statement(unknown, before), values).all()
    return page_of(rows, limit, _intent_from, lambda row: row.id)


def page_statement(unknown: Select[Any], before: str | None) -> Select[Any]:
    """One of the two ranges, newest first, from a cursor on."""
    return unknown if before is None else unknown.where(INTENTS.c.id < before)


def _in_flight_since(now: float) -> str:
    """What was sent before this id can not be in flight any more."""
    return least_id("int", now - IN_FLIGHT_SECONDS)


def _intent_from(row: Row[Any]) -> Intent:
    return Intent(
        id=row.id,
        source=row.source,
        account=row.account,
        path=row.path,
        body_digest=row.body_digest,
        idempotency_key=row.idempotency_key,
        created_at=row.created_at,
        reason=row.reason or CUT_OFF,
        status_code=row.status_code,
    )
