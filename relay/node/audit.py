"""The audit of a running node, or of a command that works on the database: who did what, when and from where.

An administrative write is recorded before it begins (`started`) and again with its result, so no change exists without
an entry, wherever the process is killed. Registrations and refused requests only raise a count in memory, which is
written per token and hour, or per address and minute. A crash loses the counts of the current window.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import structlog

from relay.clock import Clock, to_rfc3339
from relay.core.access.audit import (
    CUT,
    AuditRecord,
    Counters,
    Head,
    Result,
    Verification,
    Window,
    is_genuine,
    plain,
    target_of,
)
from relay.errors import RelayError, StoreError
from relay.redaction import redact_text
from relay.store.access.audit import AuditKeyError

if TYPE_CHECKING:
    from relay.api.http.auth import Identity
    from relay.store.store import Store

DAY_SECONDS = 86_400.0
HOUR_SECONDS = 3_600.0
MINUTE_SECONDS = 60.0
LIST_SECONDS = 60.0
"""Minimum time between two lists that first write the current counts."""
MAX_NOTES = 20
MAX_TOKENS = 1_000
MAX_ADDRESSES = 500
MAX_ROWS_PER_MINUTE = 50
MAX_ROWS_PER_HOUR = 300
"""Maximum entries of refused requests per hour with an address of their own. Further ones are combined in one entry a
minute."""
LOGIN_REFUSED = "login.refused"

log = structlog.get_logger("relay.node")


class _Counted(NamedTuple):
    """The key by which frequent requests are counted."""

    action: str
    actor: str | None = None
    token_id: str | None = None
    address: str | None = None


class AuditLog:
    """Writes and verifies the audit."""

    def __init__(self, store: "Store", *, clock: Clock, kept_days: float = 365.0) -> None:
        self._store = store.audit
        self._clock = clock
        self._kept_seconds = kept_days * DAY_SECONDS
        self._done: Counters[_Counted] = Counters(HOUR_SECONDS, MAX_TOKENS)
        self._logins: Counters[_Counted] = Counters(MINUTE_SECONDS, MAX_ADDRESSES)
        self._denied: Counters[_Counted] = Counters(MINUTE_SECONDS, MAX_ADDRESSES)
        self._counters: tuple[tuple[Counters[_Counted], str, Result, int | None], ...] = (
            (self._done, "others", "ok", None),
            (self._logins, LOGIN_REFUSED, "refused", 401),
            (self._denied, "others", "refused", 403),
        )
        """Each counter, the action for requests beyond its size, and the result and status of its entries."""
        self._rows_left = MAX_ROWS_PER_HOUR
        self._hour = 0.0
        self._listed_at = 0.0
        self._kept_at = 0.0
        """Time at which the head was last logged and old entries were removed."""
        self._writing = asyncio.Lock()

    # --- administrative writes

    def record_of(
        self, action: str, *, actor: str | None, target: str | None = None, address: str | None = None, **more: Any
    ) -> AuditRecord:
        """A record at this moment, with texts fit for an entry; `more`: its other fields."""
        return AuditRecord(
            at=self._clock(),
            action=action,
            actor=None if actor is None else plain(actor),
            target=None if target is None else _target(target),
            address=plain(address) if address else None,
            **more,
        )

    def request(self, action: str, identity: "Identity", *, target: str | None, request_id: str) -> AuditRecord:
        """The record for `begin` of a request."""
        who = {"actor": identity.name, "token_id": identity.token_id, "address": identity.client}
        return self.record_of(action, target=target, result="started", request_id=request_id, **who)

    async def begin(self, *records: AuditRecord) -> list[AuditRecord]:
        """Records that administrative writes begin, all or none. Returns the argument for `end`. Raises StoreError."""
        last = await self._store.append(*records)
        return [replace(one, ends=number) for number, one in enumerate(records, last - len(records) + 1)]

    async def end(
        self,
        begun: AuditRecord,
        *,
        result: Result | None = None,
        status: int | None = None,
        target: str | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Records the result of the records from `begin`; without `result` it follows from the status. A database
        failure is only logged, because the write has happened."""
        record = replace(
            begun,
            at=self._clock(),
            result=result or _result_of(status or 200),
            status=status,
            target=begun.target if target is None else _target(target),
            detail=detail_of(notes or {}),
        )
        try:
            await self._store.append(record)
        except StoreError as error:
            log.error("audit_not_ended", action=record.action, entry=record.ends, error=str(error))

    async def record(self, action: str, *, actor: str, **notes: Any) -> None:
        """Records an action without result and target. Raises StoreError."""
        await self._store.append(self.record_of(action, actor=actor, detail=detail_of(notes)))

    @asynccontextmanager
    async def writing(self, action: str, *, actor: str, target: str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Records an administrative write outside the API, before it begins and after it. The entry contains the items
        put into the yielded dictionary. Raises StoreError before the write begins."""
        (begun,) = await self.begin(self.record_of(action, actor=actor, target=target, result="started"))
        notes: dict[str, Any] = {}
        try:
            yield notes
        except Exception as error:
            refused = isinstance(error, RelayError) and not isinstance(error, StoreError)
            await self.end(begun, result="refused" if refused else "failed", notes=notes)
            raise
        await self.end(begun, notes=notes)

    # --- frequent requests

    def count(self, action: str, identity: "Identity", count: int = 1) -> None:
        """Counts a frequent write of this token."""
        if count:
            self._done.add(_Counted(action, identity.name, identity.token_id), self._clock(), count)

    def login_refused(self, address: str) -> None:
        """Counts a request without a valid token."""
        self._logins.add(_Counted(LOGIN_REFUSED, address=address), self._clock())

    def denied(self, action: str, identity: "Identity") -> None:
        """Counts an administrative write that the token lacks permission for."""
        self._denied.add(_Counted(action, identity.name, identity.token_id, identity.client), self._clock())

    async def flush(self, *, everything: bool = False) -> None:
        """Writes the counts of windows that have ended, or all of them. Counts that cannot be written are kept."""
        async with self._writing:
            now = self._clock()
            if now // HOUR_SECONDS != self._hour:
                self._hour, self._rows_left = now // HOUR_SECONDS, MAX_ROWS_PER_HOUR
            for counter, others, result, status in self._counters:
                windows = counter.take_all(now) if everything else counter.take_ended(now)
                while windows:
                    window = windows[0]
                    if result == "refused":
                        window = window.largest(min(MAX_ROWS_PER_MINUTE, self._rows_left))
                        self._rows_left -= len(window.counts)
                    records = self._counted(window, others, result=result, status=status)
                    try:
                        await self._store.append(*records)
                    except StoreError as error:
                        counter.give_back(windows)
                        log.warning("audit_counts_not_written", error=str(error))
                        return
                    del windows[0]

    def _counted(self, window: Window[_Counted], others: str, **same: Any) -> list[AuditRecord]:
        counts = [*window.counts.items()]
        if window.other_count:
            counts.append((_Counted(others), window.other_count))
        detail = detail_of({"since": to_rfc3339(window.began_at)})
        return [self.record_of(**key._asdict(), times=count, detail=detail, **same) for key, count in counts]

    async def before_list(self) -> None:
        """Writes the counts so far, at most once in LIST_SECONDS."""
        now = self._clock()
        await self.flush(everything=not 0 <= now - self._listed_at < LIST_SECONDS)
        self._listed_at = now

    # --- upkeep

    async def run_once(self) -> None:
        """Writes counts; each hour also logs the head and removes entries that are too old."""
        await self.flush()
        now = self._clock()
        if not 0 <= now - self._kept_at < HOUR_SECONDS:
            self._kept_at = now
            await self.log_head()
            await self.remove_old()

    async def log_head(self) -> None:
        """Logs the last entry, for users who keep the log elsewhere. Raises StoreError."""
        log.info("audit_head", head=str(await self._store.head()))

    async def remove_old(self) -> int:
        """Removes the oldest entries, those of days before `retention.audit_days`, and records the removal. Returns the
        number of the last entry removed. Only genuine entries are removed, so changing an entry's time does not make it
        disappear."""
        before = (self._clock() - self._kept_seconds) // DAY_SECONDS * DAY_SECONDS
        removed, key = 0, await self._store.key()
        async for entry in self._store.entries():
            if isinstance(entry, int) or not is_genuine(entry, key):
                log.error("audit_not_verified", after_entry=removed, hint="run `relay audit verify`")
                break
            if entry.record.at >= before:
                break
            removed = entry.number
        if removed:
            await self._store.cut(self.record_of(CUT, actor="relay", times=removed))
            log.info("retention", kind="audit", deleted_up_to=removed)
        return removed

    async def verify(self, kept: Head | None = None) -> Verification:
        """Verifies the whole chain; `kept`: a head noted earlier. Raises StoreError."""
        try:
            key = await self._store.key()
        except AuditKeyError as error:
            log.error("audit_key_not_read", error=str(error))
            key = None
        verification = Verification(key, kept)
        async for entries in self._store.batches():
            await asyncio.to_thread(verification.take, entries)  # hashing takes a while
        verification.end()
        return verification


def detail_of(notes: Mapping[str, Any]) -> bytes:
    """Notes as the `detail` of a record: at most MAX_NOTES, with texts fit for an entry and without secrets."""
    return orjson.dumps({plain(name): _note(value) for name, value in list(notes.items())[:MAX_NOTES]})


def _note(value: Any) -> Any:
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 53):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_note(one) for one in list(value)[:MAX_NOTES]]
    return plain(redact_text(str(value)))


def _target(text: str) -> str:
    return redact_text(target_of(text))


def _result_of(status: int) -> Result:
    return "ok" if status < 400 else "refused" if status < 500 else "failed"
