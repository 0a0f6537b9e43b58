"""The audit: its entries, their chain and its verification, and counts of frequent actions until they are entries.

An entry's MAC covers all its fields, its number and the MAC of the entry before it. Without the key no entry can be
changed, inserted or removed unnoticed, except at the end of the chain: compare that with a head kept elsewhere.
"""

import hmac
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

import orjson

from relay.core.jsontext import well_formed

Result = Literal["started", "ok", "refused", "failed"]
FindingKind = Literal["changed", "missing", "truncated", "key_missing", "empty"]

CUT = "audit.cut"
"""The action of an entry that says that retention removed the entries up to number `times`."""
HEAD_PATTERN = "[0-9]{1,15}:[0-9a-f]{64}"

MAX_TEXT_CHARACTERS = 200
MAX_FINDINGS = 100
"""Findings listed in a verification. More are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """The content of an entry.

    at          epoch seconds
    action      such as `subscriptions.create`
    actor       the name of a token; `token_id`: its id, if it is one of the database
    target      the id of the changed object
    address     the client's address
    result      started: recorded before the work began. If no other entry `ends` it, the node died meanwhile
    status      of the HTTP response
    times       number of requests, of an aggregated entry
    request_id  also in the log
    ends        the number of the `started` entry whose result this is
    detail      more, as a JSON object
    """

    at: float
    action: str
    actor: str | None = None
    token_id: str | None = None
    target: str | None = None
    address: str | None = None
    result: Result = "ok"
    status: int | None = None
    times: int = 1
    request_id: str | None = None
    ends: int | None = None
    detail: bytes = b"{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """A record in the chain. `number`: its place, from 1; `previous`: the MAC of the entry before it."""

    number: int
    id: str
    previous: bytes
    mac: bytes
    record: AuditRecord


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry of the chain. As text it is `NUMBER:MAC`."""

    number: int
    mac: bytes

    def __str__(self) -> str:
        return f"{self.number}:{self.mac.hex()}"


START = Head(0, b"\0" * 32)
"""The head of an empty chain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A fault of one entry, or of the chain from an entry on."""

    kind: FindingKind
    number: int | None
    text: str


def plain(text: str, limit: int = MAX_TEXT_CHARACTERS) -> str:
    """Text from outside, fit for an entry: cut to `limit`, and with U+FFFD for each character that is not printable,
    such as those that control a terminal or the direction of text."""
    text = well_formed(text[: limit + 1])
    if not text.isprintable():
        text = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def target_of(text: str) -> str:
    """An id from a path, fit for an entry. Nothing with an @ is kept: it may be a recipient's address."""
    return "(an id with @)" if "@" in text else plain(text)


def read_head(text: str) -> Head:
    """The head in a text such as `42:9b…`. Raises ValueError."""
    if not re.fullmatch(HEAD_PATTERN, text):
        raise ValueError("use NUMBER:MAC, from an earlier verification or the log line audit_head")
    number, mac = text.split(":")
    return Head(int(number), bytes.fromhex(mac))


def sealed(record: AuditRecord, *, id: str, after: Head, key: bytes) -> AuditEntry:
    """The entry after `after` with this record."""
    entry = AuditEntry(number=after.number + 1, id=id, previous=after.mac, mac=b"", record=record)
    return replace(entry, mac=_mac(entry, key))


def is_genuine(entry: AuditEntry, key: bytes) -> bool:
    """True if the entry's MAC is that of its fields. SQLite may return values of other types."""
    try:
        return hmac.compare_digest(_mac(entry, key), entry.mac)
    except (TypeError, ValueError, AttributeError):
        return False


def _mac(entry: AuditEntry, key: bytes) -> bytes:
    record = entry.record
    message = [
        *(entry.number, entry.id, entry.previous.hex(), record.at, record.action, record.actor, record.token_id),
        *(record.target, record.address, record.result, record.status, record.times, record.request_id, record.ends),
        record.detail.decode(),
    ]
    return hmac.digest(key, orjson.dumps(message), "sha256")


class Verification:
    """Verifies the chain: `take` all its entries in order, then `end`."""

    def __init__(self, key: bytes | None, kept: Head | None = None) -> None:
        """`key`: None if there is none, and then nothing verifies; `kept`: a head that was noted down earlier."""
        self.entry_count = 0
        self.finding_count = 0
        self.findings: list[Finding] = []
        self._key = key
        self._kept = kept
        self._number = START.number
        self._last: Head | None = START
        """The entry before, if it is genuine."""
        self._gaps: list[tuple[int, int]] = []
        self._cut = 0
        """The last entry that retention has removed."""

    @property
    def head(self) -> Head | None:
        """The last entry, if it is genuine."""
        return self._last if self._number else None

    def take(self, entries: Sequence[AuditEntry | int]) -> None:
        """Checks the next entries. A number stands for an entry that cannot be read."""
        for entry in entries:
            self.entry_count += 1
            if self._key is None:
                continue
            number = entry if isinstance(entry, int) else entry.number
            if number > self._number + 1:
                self._gaps.append((self._number + 1, number - 1))
                self._last = None
            self._number = number
            if isinstance(entry, int) or not is_genuine(entry, self._key):
                self._last = None
                self._find("changed", number, f"entry {number} was changed or inserted: its MAC is wrong")
                continue
            if self._last is not None and self._last.mac != entry.previous:
                text = f"entry {number - 1} was replaced: entry {number} follows another one"
                self._find("changed", number - 1, text)
            self._last = Head(number, entry.mac)
            if entry.record.action == CUT:
                self._cut = max(self._cut, entry.record.times)
            if self._kept is not None and self._kept.number == number and self._kept.mac != entry.mac:
                self._find("changed", number, f"entry {number} is not the one whose MAC was kept")

    def end(self) -> None:
        """Reports missing entries, except those that retention has removed."""
        for begin, last in self._gaps:
            first = max(begin, self._cut + 1)
            if first <= last:
                which = f"entry {first} is" if first == last else f"entries {first} to {last} are"
                self._find("missing", first, f"{which} missing: removed, or lost with the database")
        if not self.entry_count:
            text = "the audit has no entries. A node writes one when it starts: if one has run here, all were removed"
            self._find("empty", None, text)
        elif self._key is None:
            text = "no entry can be verified: the key of the audit is missing, or its encryption key is not configured"
            self._find("key_missing", None, text)
        elif self._kept is not None and self._number < self._kept.number:
            text = f"the end is missing after entry {self._number}: the kept head is entry {self._kept.number}"
            self._find("truncated", self._number + 1, text)

    def _find(self, kind: FindingKind, number: int | None, text: str) -> None:
        self.finding_count += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(kind=kind, number=number, text=text))


Key = TypeVar("Key", bound=Hashable)

MAX_ENDED = 60
"""Windows kept while they cannot be written. Then the two oldest become one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window(Generic[Key]):
    """The counts of one window. `began_at`: epoch seconds; `other_count`: of keys that are not listed."""

    began_at: float
    counts: dict[Key, int]
    other_count: int = 0

    def joined(self, later: "Window[Key]", max_keys: int) -> "Window[Key]":
        """This window and the next one as one."""
        counts, other = dict(self.counts), self.other_count + later.other_count
        for key, count in later.counts.items():
            if key in counts or len(counts) < max_keys:
                counts[key] = counts.get(key, 0) + count
            else:
                other += count
        return Window(began_at=self.began_at, counts=counts, other_count=other)

    def largest(self, limit: int) -> "Window[Key]":
        """The same counts with only the `limit` largest by key."""
        if len(self.counts) <= limit:
            return self
        order = sorted(self.counts.items(), key=lambda pair: pair[1], reverse=True)
        other = self.other_count + sum(count for _, count in order[limit:])
        return Window(began_at=self.began_at, counts=dict(order[:limit]), other_count=other)


class Counters(Generic[Key]):
    """Adds counts to the present window. `add` costs a dictionary access."""

    def __init__(self, window_seconds: float, max_keys: int) -> None:
        self._seconds = window_seconds
        self._max_keys = max_keys
        self._began_at = self._ends_at = 0.0
        self._counts: dict[Key, int] = {}
        self._other_count = 0
        self._ended: list[Window[Key]] = []

    def add(self, key: Key, now: float, count: int = 1) -> None:
        """Counts at this time."""
        if not self._began_at <= now < self._ends_at:  # the clock may have been set back
            self._turn(now)
        counts = self._counts
        if key in counts:
            counts[key] += count
        elif len(counts) < self._max_keys:
            counts[key] = count
        else:
            self._other_count += count

    def take_ended(self, now: float) -> list[Window[Key]]:
        """Removes and returns the windows that have ended."""
        if not self._began_at <= now < self._ends_at:  # the clock may have been set back
            self._turn(now)
        ended, self._ended = self._ended, []
        return ended

    def take_all(self, now: float) -> list[Window[Key]]:
        """Removes and returns all windows, the present one included."""
        self._end()
        return self.take_ended(now)

    def give_back(self, windows: list[Window[Key]]) -> None:
        """Puts windows back that could not be written."""
        self._ended = [*windows, *self._ended]
        self._bound()

    def _turn(self, now: float) -> None:
        self._end()
        self._began_at = now // self._seconds * self._seconds
        self._ends_at = self._began_at + self._seconds

    def _end(self) -> None:
        if self._counts:
            self._ended.append(Window(began_at=self._began_at, counts=self._counts, other_count=self._other_count))
            self._counts, self._other_count = {}, 0
            self._bound()

    def _bound(self) -> None:
        while len(self._ended) > MAX_ENDED:
            first, second, *rest = self._ended
            self._ended = [first.joined(second, self._max_keys), *rest]
