"""Creates in flight through the relay, and those whose fate is unknown. A row is deleted once its fate is known.

An id begins with the time its create was sent. Unknown creates are therefore two ranges of ids: everything sent too
long ago to be in flight, and later ones that have a reason. Both are read by index, however many are in flight.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Select, bindparam, select, text, tuple_
from sqlalchemy.engine import Connection, Row
from sqlmodel import col

from relay.core.events.event import Event, owner_of
from relay.core.incidents import trouble_of_create
from relay.core.jobs.job import Recipient
from relay.core.jsontext import dumps
from relay.core.records import Intent, Page, Resolution
from relay.ids import least_id
from relay.store.databases.database import Account, Cipher, Database, Scoped
from relay.store.databases.group_commit import each, in_order_of
from relay.store.databases.locks import MATCH, incidents_of, locking
from relay.store.databases.pages import decode_cursor, fitting, page_of, size_of
from relay.store.databases.statements import insert_into, run, run_many, table_of
from relay.store.outbox.recording import Outbox
from relay.store.rows import loads
from relay.store.schema.tables import IntentRow

CUT_OFF = "cut_off"
IN_FLIGHT_SECONDS = 600.0
"""A request in flight for longer was cut off: no node waits that long for a response."""

_REPEATED = ("source", "account", "path", "body_digest", "idempotency_key", "created_at")
_AS_GIVEN = ("id", *_REPEATED, "resource", "channel", "connect_account_id")
# Writes creates about to be sent.
BEGIN = insert_into(IntentRow, *_AS_GIVEN, "request", "metadata", "sealed", "group_name", "group_size")
# Deletes a create whose fate is known.
END = "DELETE FROM intents WHERE id = :id"
# Deletes earlier creates with the same key and body.
SETTLE_REPEATS = """
DELETE FROM intents WHERE source = :source AND account = :account AND path = :path AND body_digest = :body_digest
  AND idempotency_key = :idempotency_key AND created_at <= :created_at
"""
_UNKNOWN = "fate IS NULL AND (reason IS NOT NULL OR id < :in_flight_since)"
# Deletes a create of unknown fate.
DISMISS = f"DELETE FROM intents WHERE id = :id AND {_UNKNOWN} RETURNING *"
# Marks an unknown fate as reported by an event.
MARK_REPORTED = f"""
UPDATE intents SET told = 1, reason = COALESCE(reason, '{CUT_OFF}') WHERE id = :id AND told = 0
"""
# Stores the fate that a person found out. Its callback and recipient move to the job, or are dropped.
RESOLVE = f"""
UPDATE intents SET fate = :fate, told = 1, sealed = NULL, job_id = :job_id, reason = COALESCE(reason, '{CUT_OFF}')
WHERE id = :id AND {_UNKNOWN} RETURNING *
"""
# Stores why a fate is unknown.
UNKNOWN = "UPDATE intents SET reason = :reason, status_code = :status_code WHERE id = :id"
# Marks every create in flight as cut off.
ALL_CUT_OFF = f"UPDATE intents SET reason = '{CUT_OFF}' WHERE reason IS NULL"
# Counts creates of unknown fate.
COUNT_UNKNOWN = """
SELECT (SELECT COUNT(*) FROM intents WHERE reason IS NOT NULL AND fate IS NULL AND id >= :in_flight_since)
  + (SELECT COUNT(*) FROM intents WHERE id < :in_flight_since AND fate IS NULL)
"""
# Creates of unknown fate, newest first.
NEWEST = (
    select(IntentRow).where(col(IntentRow.fate).is_(None)).order_by(col(IntentRow.id).desc()).limit(bindparam("count"))
)
# Those that may still have been in flight: the ones with a reason.
NEW_UNKNOWN = NEWEST.where(col(IntentRow.reason).is_not(None), col(IntentRow.id) >= bindparam("in_flight_since"))
# Those sent too long ago to be in flight.
OLD_UNKNOWN = NEWEST.where(col(IntentRow.id) < bindparam("in_flight_since"))
# The bytes of a listed create.
LISTED_BYTES = size_of(table_of(IntentRow).c.request, table_of(IntentRow).c.metadata)
_UNREPORTED = select(IntentRow).where(text("told = 0")).limit(bindparam("count"))
# Creates of unknown fate that no event has reported.
UNREPORTED_LOST = _UNREPORTED.where(col(IntentRow.reason).is_not(None)).order_by(
    col(IntentRow.reason), col(IntentRow.id)
)
# Creates cut off that no event has reported.
UNREPORTED_CUT_OFF = _UNREPORTED.where(
    col(IntentRow.reason).is_(None), col(IntentRow.id) < bindparam("in_flight_since")
).order_by(col(IntentRow.id))


class IntentStore(Scoped):
    """Reads and writes of intents. Every write is durable when its call returns."""

    def __init__(self, database: Database, outbox: Outbox, cipher: Cipher) -> None:
        self._database = database
        self._outbox = outbox
        self._cipher = cipher

    async def begin(self, intent: Intent) -> None:
        """Writes a create that is about to be sent."""
        await self._database.write(_begin, (intent, self._sealed(intent)))

    def _sealed(self, intent: Intent) -> bytes | None:
        """The callback and the recipient, encrypted. None if it has neither."""
        if intent.callback_url is None and intent.recipient is None:
            return None
        kept: dict[str, Any] = {"callback_url": intent.callback_url, "callback_types": intent.callback_types}
        if intent.recipient is not None:
            kept["recipient"] = intent.recipient.document()
        return self._cipher.encrypt(dumps(kept), context=intent.id)

    async def get(self, id: str) -> Intent | None:
        """One intent with its callback and recipient; None if it does not exist, or a response has decided its fate."""
        found = None if "\0" in id else await self._database.read(_get, id)
        if found is None:
            return None
        intent, sealed = found
        if self._account not in (None, (intent.source, intent.account)):
            return None
        if sealed is None:
            return intent
        kept = loads(self._cipher.decrypt(sealed, context=id))
        types = kept["callback_types"]
        return replace(
            intent,
            callback_url=kept["callback_url"],
            callback_types=None if types is None else tuple(types),
            recipient=Recipient.of(kept.get("recipient", {})),
        )

    def in_flight(self, intent: Intent, now: float) -> bool:
        """True if a caller may still be waiting for its response."""
        return intent.reason is None and intent.id >= in_flight_since(now)

    async def resolve(self, id: str, fate: Resolution, now: float) -> Intent | None:
        """Records the fate that a person found out. None if the create is not listed as unknown."""
        if await self._hides(id):
            return None
        return await self._database.write(_resolve, (id, fate, in_flight_since(now)))

    async def unreported(self, now: float, count: int) -> list[Intent]:
        """Creates of unknown fate that no event has reported, oldest first; at most `count` with a reason and
        `count` without."""
        return await self._database.read(_unreported, in_flight_since(now), count)

    async def report(self, intent: Intent, event: Event) -> bool:
        """Records the event that reports an unknown fate. False if it was reported already or the fate is known."""
        return await self._database.write(self._report, (intent, event))

    @locking(lambda item: [MATCH, incidents_of(owner_of(item[0].source, item[0].account))])
    def _report(self, connection: Connection, items: Sequence[tuple[Intent, Event]]) -> Sequence[bool | Exception]:
        are_new = _mark_reported(connection, [intent.id for intent, _ in items])
        reported = [item for item, is_new in zip(items, are_new, strict=True) if is_new]
        if reported:
            now = max(event.recorded_at for _, event in reported)
            troubles = [trouble_of_create(intent, event) for intent, event in reported]
            summary = self._outbox.incidents.observe(connection, troubles, now)
            self._outbox.insert(connection, [(event, None) for _, event in reported], summary)
        return are_new

    async def end(self, id: str) -> None:
        """Deletes the intent: its fate is known."""
        await self._database.write(_end, id)

    async def dismiss(self, id: str, now: float) -> Intent | None:
        """Deletes a create of unknown fate. None if there is no such create."""
        if await self._hides(id):
            return None
        return await self._database.write(_dismiss, (id, in_flight_since(now)))

    async def unknown(self, id: str, reason: str, status_code: int | None = None) -> None:
        """Marks the fate as unknown, with the reason."""
        await self._database.write(_unknown, (id, reason, status_code))

    async def count_unknown(self, now: float) -> int:
        """Number of creates of unknown fate."""
        return await self._database.read(_count_unknown, in_flight_since(now))

    async def page(self, *, limit: int, cursor: str | None = None, now: float) -> Page[Intent]:
        """Creates of unknown fate, newest first."""
        before = decode_cursor(cursor, prefix="int_")
        return await self._database.read(_page, limit, before, in_flight_since(now), self._account)

    async def _hides(self, id: str) -> bool:
        return self._account is not None and await self.get(id) is None


def end_registered(connection: Connection, intents: Sequence[Intent]) -> None:
    """Deletes the intents of registered creates, and earlier ones with the same Idempotency-Key and body, for which
    the upstream returned the original response. Runs in the registration's transaction."""
    for intent in sorted(intents, key=lambda intent: intent.id):
        run(connection, END, id=intent.id)
        if intent.idempotency_key is not None:
            run(connection, SETTLE_REPEATS, **{name: getattr(intent, name) for name in _REPEATED})


def resolve_sent(connection: Connection, intent: Intent, job_id: str, now: float) -> bool:
    """Marks an intent as sent, in the transaction that registers its job. False if it is not listed as unknown."""
    values = {"id": intent.id, "fate": "sent", "job_id": job_id, "in_flight_since": in_flight_since(now)}
    return run(connection, RESOLVE, **values).one_or_none() is not None


def _begin(connection: Connection, items: Sequence[tuple[Intent, bytes | None]]) -> Sequence[None]:
    rows = [
        {
            **{name: getattr(intent, name) for name in _AS_GIVEN},
            "request": None if intent.request is None else dumps(intent.request),
            "metadata": None if intent.metadata is None else dumps(intent.metadata),
            "sealed": sealed,
            "group_name": intent.group,
            "group_size": intent.group_size,
        }
        for intent, sealed in items
    ]
    run_many(connection, BEGIN, rows)
    return [None] * len(items)


@in_order_of(str)
def _mark_reported(connection: Connection, id: str) -> bool:
    return run(connection, MARK_REPORTED, id=id).rowcount > 0


@each
def _end(connection: Connection, id: str) -> None:
    run(connection, END, id=id)


def _get(connection: Connection, id: str) -> tuple[Intent, bytes | None] | None:
    row = connection.execute(select(IntentRow).where(col(IntentRow.id) == id)).one_or_none()
    return None if row is None else (_intent_from(row, reason=None), row.sealed)


def _unreported(connection: Connection, in_flight_since: str, count: int) -> list[Intent]:
    found = list(connection.execute(UNREPORTED_LOST, {"count": count}))
    found += connection.execute(UNREPORTED_CUT_OFF, {"count": count, "in_flight_since": in_flight_since})
    return sorted((_intent_from(row) for row in found), key=lambda intent: intent.id)


@each
def _resolve(connection: Connection, item: tuple[str, Resolution, str]) -> Intent | None:
    id, fate, in_flight_since = item
    row = run(connection, RESOLVE, id=id, fate=fate, job_id=None, in_flight_since=in_flight_since).one_or_none()
    return None if row is None else _intent_from(row)


@each
def _dismiss(connection: Connection, item: tuple[str, str]) -> Intent | None:
    row = run(connection, DISMISS, id=item[0], in_flight_since=item[1]).one_or_none()
    return None if row is None else _intent_from(row)


@each
def _unknown(connection: Connection, item: tuple[str, str, int | None]) -> None:
    id, reason, status_code = item
    run(connection, UNKNOWN, id=id, reason=reason, status_code=status_code)


def _count_unknown(connection: Connection, in_flight_since: str) -> int:
    return int(run(connection, COUNT_UNKNOWN, in_flight_since=in_flight_since).scalar_one())


def _page(
    connection: Connection, limit: int, before: str | None, in_flight_since: str, account: Account | None
) -> Page[Intent]:
    rows: list[Row[Any]] = []
    for unknown in (NEW_UNKNOWN, OLD_UNKNOWN):
        left = limit - len(rows)
        if left >= 0:
            statement, values = page_statement(unknown, before, account), {"in_flight_since": in_flight_since}
            left = fitting(connection, statement, LISTED_BYTES, left, {**values, "count": left + 1})
            limit = len(rows) + left
            rows += connection.execute(statement, {**values, "count": left + 1}).all()
    return page_of(rows, limit, _intent_from, lambda row: row.id)


def page_statement(unknown: Select[Any], before: str | None, account: Account | None = None) -> Select[Any]:
    """One of the two ranges, newest first, from a cursor on. `account`: only its creates."""
    statement = unknown if before is None else unknown.where(col(IntentRow.id) < before)
    if account is not None:
        statement = statement.where(tuple_(col(IntentRow.source), col(IntentRow.account)) == account)
    return statement


def in_flight_since(now: float) -> str:
    """The least id of creates that can still be in flight."""
    return least_id("int", now - IN_FLIGHT_SECONDS)


def _intent_from(row: Row[Any], *, reason: str | None = CUT_OFF) -> Intent:
    """`reason`: used if the row has none."""
    plain = {name: getattr(row, name) for name in (*_AS_GIVEN, "status_code", "fate", "job_id")}
    return Intent(
        **plain,
        reason=row.reason or reason,
        request=loads(row.request),
        metadata=loads(row.metadata),
        group=row.group_name,
        group_size=row.group_size,
    )
