"""The audit of a running node, or of a command that works on the database: who did what, when and from where.

An administrative write is recorded before it begins (`started`) and again with its result, so no change exists without
an entry, wherever the process is killed. Registrations and refused requests only raise a number in memory, which is
written per token and hour, or per address and minute. A crash loses the numbers of the present window.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from relay.clock import Clock, to_rfc3339
from relay.config.keyring import Keyring
from relay.core.audit import (
    ANCHOR,
    AuditEntry,
    AuditRecord,
    Result,
    Seen,
    Verification,
    anchor_detail,
    detail_of,
    plain,
    target_of,
)
from relay.core.tally import Tally, Window
from relay.errors import RelayError, StoreError
from relay.redaction import redact_text
from relay.store.audit import MAX_HEADS

if TYPE_CHECKING:
    from relay.api.auth import Identity
    from relay.store.store import Store

TICK_SECONDS = 15.0
DAY_SECONDS = 86_400.0
HOUR_SECONDS = 3_600.0
MINUTE_SECONDS = 60.0
LIST_SECONDS = 60.0
"""How often a list first writes what has been counted so far."""
SLACK_SECONDS = 300.0
"""An entry is committed at most this long after its time."""
KEPT_CUTS_SECONDS = 2 * DAY_SECONDS
"""Cuts outlive the anchors that name their chains by this time."""
MAX_CUTS = 100
"""Steps of retention in one call, of 500 entries each."""
MAX_TOKENS = 1_000
MAX_ADDRESSES = 500
MAX_ROWS_PER_MINUTE = 50
MAX_ROWS_PER_HOUR = 300
"""Entries of refused requests with an address of their own. The rest is one entry a minute."""
MAX_VERIFICATIONS = 3
"""A verification begins again if another node removes old entries meanwhile."""
LOGIN_REFUSED = "login.refused"

log = structlog.get_logger("relay.node")


class _Counted(NamedTuple):
    """What frequent requests are counted by."""

    action: str
    actor: str | None = None
    token_id: str | None = None
    address: str | None = None


class AuditLog:
    """Writes this process's chain, from `open` on."""

    def __init__(self, store: "Store", keyring: Keyring, *, clock: Clock, kept_days: float = 365.0) -> None:
        self._store = store.audit
        self._keyring = keyring
        self._keys = {key.id: key.secret for key in keyring.audit_keys}
        self._stored: set[str] = set()
        self._key_id: str | None = None
        self._clock = clock
        self._kept_seconds = kept_days * DAY_SECONDS
        self._done: Tally[_Counted] = Tally(HOUR_SECONDS, MAX_TOKENS)
        self._logins: Tally[_Counted] = Tally(MINUTE_SECONDS, MAX_ADDRESSES)
        self._denied: Tally[_Counted] = Tally(MINUTE_SECONDS, MAX_ADDRESSES)
        self._tallies: tuple[tuple[Tally[_Counted], str, Result, int | None], ...] = (
            (self._done, "others", "ok", None),
            (self._logins, LOGIN_REFUSED, "refused", 401),
            (self._denied, "others", "refused", 403),
        )
        """Each tally, the action of what it could not tell apart, and the result and status of what it counts."""
        self._rows_left = MAX_ROWS_PER_HOUR
        self._hour = 0.0
        self._anchored_at: float | None = None
        self._anchored: dict[str, int] = {}
        """The heads in the last anchor."""
        self._listed_at = 0.0
        self._writing = asyncio.Lock()
        self._cutting = asyncio.Lock()

    async def open(self, chain: str) -> None:
        """Begins this process's chain. Raises StoreError."""
        await self.read_keys()
        self._store.begin_chain(chain)
        await self.use_newest_key()

    async def read_keys(self) -> None:
        """Reads the stored keys, to verify without a chain of one's own. Raises StoreError."""
        stored = await self._store.keys()
        self._stored = set(stored)
        self._keys = {**stored, **self._keys}

    async def use_newest_key(self) -> None:
        """Seals with the key of the first encryption key. It is stored, encrypted, so that its entries still verify
        once that encryption key has been rotated out."""
        first, *others = self._keyring.audit_keys
        if first.id == self._key_id:
            return
        if first.id not in self._stored:
            await self._store.keep_key(first, self._clock())
        self._keys |= {key.id: key.secret for key in (first, *others)}
        self._key_id = first.id
        self._store.use_key(first)

    # --- administrative writes

    async def begin(self, record: AuditRecord) -> int:
        """Records that an administrative write begins. Returns the number for `end`. Raises StoreError."""
        return await self._store.append(record)

    async def begin_all(self, records: Sequence[AuditRecord]) -> Sequence[int]:
        """As `begin`, for writes that begin together."""
        last = await self._store.append(*records)
        return range(last - len(records) + 1, last + 1)

    async def end_all(
        self, numbers: Sequence[int], begun: Sequence[AuditRecord], notes: Sequence[Mapping[str, Any]], result: Result
    ) -> None:
        """As `end`, for the writes of `begin_all`."""
        now = self._clock()
        records = [
            replace(one, at=now, result=result, ends=number, detail=_detail(noted))
            for number, one, noted in zip(numbers, begun, notes, strict=True)
        ]
        try:
            await self._store.append(*records)
        except StoreError as error:
            log.error("audit_not_ended", action=begun[0].action, entry=numbers[0], error=str(error))

    async def end(
        self,
        number: int,
        begun: AuditRecord,
        *,
        result: Result | None = None,
        status: int | None = None,
        target: str | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        """Records the result of `begun`; without `result`, the status says it. A database that fails meanwhile is
        logged, because the write has happened."""
        record = replace(
            begun,
            at=self._clock(),
            result=result or _result_of(status or 200),
            status=status,
            target=begun.target if target is None else _target(target),
            ends=number,
            detail=_detail(notes or {}),
        )
        try:
            await self._store.append(record)
        except StoreError as error:
            log.error("audit_not_ended", action=record.action, entry=number, error=str(error))

    def request(self, action: str, identity: "Identity", *, target: str | None, request_id: str) -> AuditRecord:
        """The record for `begin` of a request."""
        return AuditRecord(
            at=self._clock(),
            action=action,
            actor=plain(identity.name),
            token_id=identity.token_id,
            target=None if target is None else _target(target),
            address=plain(identity.client) or None,
            result="started",
            request_id=request_id,
        )

    async def record(
        self,
        action: str,
        *,
        actor: str,
        result: Result = "ok",
        target: str | None = None,
        address: str | None = None,
        **notes: Any,
    ) -> None:
        """Records something that has no result of its own. Raises StoreError."""
        record = AuditRecord(
            at=self._clock(),
            action=action,
            actor=plain(actor),
            target=None if target is None else _target(target),
            address=plain(address) if address else None,
            result=result,
            detail=_detail(notes),
        )
        await self._store.append(record)

    @asynccontextmanager
    async def writing(self, action: str, *, actor: str, target: str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Records an administrative write outside the API, before it begins and after it. What it puts into the
        dictionary is in the entry. Raises StoreError before the write begins."""
        begun = AuditRecord(
            at=self._clock(),
            action=action,
            actor=plain(actor),
            target=None if target is None else _target(target),
            result="started",
        )
        notes: dict[str, Any] = {}
        number = await self.begin(begun)
        try:
            yield notes
        except Exception as error:
            refused = isinstance(error, RelayError) and not isinstance(error, StoreError)
            await self.end(number, begun, result="refused" if refused else "failed", notes=notes)
            raise
        await self.end(number, begun, result="ok", notes=notes)

    # --- frequent requests

    def count(self, action: str, identity: "Identity", count: int = 1) -> None:
        """Counts a frequent write of this token."""
        if count:
            self._done.add(_Counted(action, identity.name, identity.token_id), self._clock(), count)

    def login_refused(self, address: str) -> None:
        """Counts a request without a valid token."""
        self._logins.add(_Counted(LOGIN_REFUSED, address=address), self._clock())

    def denied(self, action: str, identity: "Identity") -> None:
        """Counts an administrative write that the token may not do."""
        counted = _Counted(action, identity.name, identity.token_id, identity.client)
        self._denied.add(counted, self._clock())

    async def flush(self, *, everything: bool = False) -> None:
        """Writes the counts of windows that have ended, or all of them. What cannot be written is kept."""
        async with self._writing:
            now = self._clock()
            if now // HOUR_SECONDS != self._hour:
                self._hour, self._rows_left = now // HOUR_SECONDS, MAX_ROWS_PER_HOUR
            for tally, others, result, status in self._tallies:
                windows = tally.take_all(now) if everything else tally.take_ended(now)
                while windows:
                    window = windows[0]
                    if result == "refused":
                        window = window.largest(min(MAX_ROWS_PER_MINUTE, self._rows_left))
                        self._rows_left -= len(window.counts)
                    try:
                        await self._write(window, others, now, result, status)
                    except StoreError as error:
                        tally.give_back(windows)
                        log.warning("audit_counts_not_written", error=str(error))
                        return
                    del windows[0]

    async def _write(
        self, window: Window[_Counted], others: str, now: float, result: Result, status: int | None
    ) -> None:
        counts = [*window.counts.items()]
        if window.other_count:
            counts.append((_Counted(others), window.other_count))
        detail = _detail({"since": to_rfc3339(window.began_at)})
        records = [
            AuditRecord(
                at=now,
                action=key.action,
                actor=None if key.actor is None else plain(key.actor),
                token_id=key.token_id,
                address=plain(key.address) if key.address else None,
                result=result,
                status=status,
                count=count,
                detail=detail,
            )
            for key, count in counts
        ]
        await self._store.append(*records)

    # --- lists and upkeep

    async def before_list(self) -> None:
        """Writes what has been counted so far, at most once in LIST_SECONDS."""
        now = self._clock()
        await self.flush(everything=not 0 <= now - self._listed_at < LIST_SECONDS)
        self._listed_at = now

    async def newest(self, limit: int, **query: Any) -> list[AuditEntry]:
        """The newest entries; `query` as of `AuditStore.page`."""
        found: list[AuditEntry] = []
        cursor = None
        while len(found) < limit:
            page = await self._store.page(limit=limit - len(found), cursor=cursor, **query)
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
        return found

    async def run(self) -> None:
        """Repeats `run_once` until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self.run_once()
            except StoreError as error:
                log.error("upkeep_failed", upkeep="audit", error=str(error))
            except Exception:
                log.exception("upkeep_failed", upkeep="audit")

    async def run_once(self) -> None:
        """Writes counts and, each hour, anchors the other chains and removes entries that are too old."""
        await self.use_newest_key()
        await self.flush()
        if self._anchored_at is None:
            await self.anchor()
        elif not 0 <= self._clock() - self._anchored_at < HOUR_SECONDS:
            await self.anchor()
            await self.remove_old()
            self.log_head()

    def log_head(self) -> None:
        """Logs how far this chain has come, for those who keep the log elsewhere."""
        head = self._store.head
        log.info("audit_head", chain=head.chain, entry=head.number, mac=head.mac.hex())

    async def anchor(self) -> int:
        """Records how far other chains have come: those that have grown since the last anchor. Returns how many."""
        now = self._clock()
        last_at = self._anchored_at if self._anchored_at is not None else await self._store.last_at(ANCHOR)
        since = None if last_at is None else min(last_at, now) - SLACK_SECONDS
        read, grown = 0, dict[str, int]()
        while heads := await self._store.heads(since, read):
            read += len(heads)
            new = [head for head in heads if self._anchored.get(head.chain) != head.number]
            if new:
                detail = anchor_detail(new)
                await self._store.append(
                    AuditRecord(at=now, action=ANCHOR, actor="relay", detail=detail, count=len(new))
                )
            grown |= {head.chain: head.number for head in new}
            if len(heads) < MAX_HEADS:
                break
        self._anchored = grown
        self._anchored_at = now
        return len(grown)

    async def remove_old(self) -> int:
        """Removes entries older than `retention.audit_days`. Returns how many."""
        before, removed = self._clock() - self._kept_seconds, 0
        async with self._cutting:
            for chain in await self._store.old_chains(before):
                for _ in range(MAX_CUTS):
                    count = await self._store.cut(chain, before, self._keys)
                    removed += count
                    if not count:
                        break
            await self._store.delete_cuts(before - KEPT_CUTS_SECONDS)
        if removed:
            log.info("retention", kind="audit", deleted=removed)
        return removed

    async def verify(self, seen: Sequence[Seen] = ()) -> Verification:
        """Verifies every chain against the keys, the anchors, `seen`, and this process's memory. Raises StoreError."""
        async with self._cutting:
            for _ in range(MAX_VERIFICATIONS):
                verification, undisturbed = await self._verified(seen)
                if undisturbed:
                    break
        verification.end()
        return verification

    async def _verified(self, seen: Sequence[Seen]) -> tuple[Verification, bool]:
        own = () if self._store.head.number == 0 else (Seen(head=self._store.head, by="the running node"),)
        verification = Verification(self._keys, (*seen, *own))
        cuts: dict[str, int] = {}
        waiting = dict.fromkeys(await self._store.chains(), None) or verification.behind()
        while waiting:
            before = verification.entry_count
            for chain, reached in waiting.items():
                after: Any = reached
                if after is None:
                    cut = await self._store.cut_of(chain)
                    cuts[chain] = 0 if cut is None else cut.number
                    after = verification.begin(chain, cut)
                while entries := await self._store.entries(chain, after):
                    await asyncio.to_thread(verification.take, chain, entries)  # hashing takes a while
                    after = entries[-1] if isinstance(entries[-1], int) else entries[-1].number
                    if after < 0:  # SQLite sorts what is not a number last
                        break
            waiting = verification.behind() if verification.entry_count > before else {}
        now = {chain: await self._store.cut_of(chain) for chain in cuts}
        return verification, all((0 if cut is None else cut.number) == cuts[chain] for chain, cut in now.items())


def _result_of(status: int) -> Result:
    return "ok" if status < 400 else "refused" if status < 500 else "failed"


def _target(text: str) -> str:
    return redact_text(target_of(text))


def _detail(notes: Mapping[str, Any]) -> bytes:
    detail = detail_of(notes)
    text = detail.decode()
    redacted = redact_text(text)
    return detail if redacted == text else detail_of({name: _redacted(value) for name, value in notes.items()})


def _redacted(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_redacted(one) for one in value]
    return redact_text(value) if isinstance(value, str) else value
