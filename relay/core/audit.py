"""The audit: what an entry says, how entries of one chain are linked, and how a chain is verified.

Each node writes a chain of its own. An entry's MAC covers all its fields, its number and the MAC of the entry before
it. Without the key no entry can be changed, inserted, removed or reordered unnoticed; a cut-off end is found
by `anchor` entries, in which other chains recorded how far this one had come.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from relay.core.jsontext import well_formed

Result = Literal["started", "ok", "refused", "failed"]
FindingKind = Literal["changed", "moved", "missing", "truncated", "key_missing", "unreadable", "cut_changed", "empty"]

ANCHOR = "audit.anchor"
"""The action of an entry that holds the heads of other chains."""
FIRST = 1
"""The number of a chain's first entry."""
START = b"\0" * 32
"""What the first entry has instead of the MAC of an entry before it."""
PURPOSE = b"revor-relay audit v1"
"""Separates the audit's key from other keys derived from the same encryption key."""

MAX_TEXT_CHARACTERS = 200
MAX_NOTES = 20
MAX_FINDINGS = 100
"""Findings listed in a verification. More are counted."""
NEARBY = 16
"""How far a verification looks for the number that a moved entry had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """What happened.

    at          epoch seconds
    action      what, such as `subscriptions.create`
    actor       who: the name of a token; `token_id`: its id, if it is one of the database
    target      on what: an id
    address     from where: the client's address
    result      started: recorded before the work began. If no other entry `ends` it, the node died meanwhile
    status      of the HTTP response
    count       how many requests, of an aggregated entry
    request_id  also in the log
    ends        the number of the `started` entry of this chain whose result this is
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
    count: int = 1
    request_id: str | None = None
    ends: int | None = None
    detail: bytes = b"{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """A record in its chain. `key_id`: the encryption key that the MAC's key is derived from."""

    chain: str
    number: int
    id: str
    key_id: str
    previous: bytes
    mac: bytes
    record: AuditRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The last entry of a chain."""

    chain: str
    number: int
    mac: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where retention has removed the beginning of a chain: up to the entry `number`, which was written at `at`."""

    chain: str
    number: int
    mac: bytes
    at: float
    key_id: str
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditKey:
    """A key for MACs. `id`: of the encryption key that it is derived from."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"AuditKey({self.id})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with an entry, or from an entry on."""

    kind: FindingKind
    chain: str | None
    number: int | None
    text: str


Keys = Mapping[str, bytes]
"""Secrets of audit keys by their id."""


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


def detail_of(notes: Mapping[str, Any]) -> bytes:
    """Notes as the `detail` of a record: at most MAX_NOTES, with texts fit for an entry."""
    return orjson.dumps({plain(name): _note(value) for name, value in list(notes.items())[:MAX_NOTES]})


def _note(value: Any) -> Any:
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 53):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_note(one) for one in list(value)[:MAX_NOTES]]
    return plain(str(value))


def derived_key(id: str, encryption_key: bytes) -> AuditKey:
    """The audit key of an encryption key (HKDF-SHA256, RFC 5869, without a salt)."""
    extracted = hmac.digest(START, encryption_key, "sha256")
    return AuditKey(id=id, secret=hmac.digest(extracted, PURPOSE + b"\x01", "sha256"))


def sealed(record: AuditRecord, *, id: str, head: Head, key: AuditKey) -> AuditEntry:
    """The entry after `head` with this record."""
    number = head.number + 1
    message = _message(head.chain, number, id, key.id, head.mac, record)
    mac = hmac.digest(key.secret, message, "sha256")
    return AuditEntry(chain=head.chain, number=number, id=id, key_id=key.id, previous=head.mac, mac=mac, record=record)


def signed_cut(entry: AuditEntry, key: AuditKey) -> Cut:
    """The cut after this entry."""
    message = _cut_message(entry.chain, entry.number, entry.mac, entry.record.at)
    signature = hmac.digest(key.secret, message, "sha256")
    return Cut(
        chain=entry.chain,
        number=entry.number,
        mac=entry.mac,
        at=entry.record.at,
        key_id=key.id,
        signature=signature,
    )


def anchor_detail(heads: Sequence[Head]) -> bytes:
    """The detail of an anchor entry."""
    return orjson.dumps({"heads": {head.chain: [head.number, head.mac.hex()] for head in heads}})


def anchored(entry: AuditEntry) -> list[Head]:
    """The heads in an anchor entry whose MAC is right; none in any other entry."""
    if entry.record.action != ANCHOR:
        return []
    heads: Mapping[str, tuple[int, str]] = orjson.loads(entry.record.detail)["heads"]
    return [Head(chain=chain, number=number, mac=bytes.fromhex(mac)) for chain, (number, mac) in heads.items()]


def _message(chain: str, number: int, id: str, key_id: str, previous: bytes, record: AuditRecord) -> bytes:
    return orjson.dumps(
        [
            *("entry", chain, number, id, key_id, previous.hex()),
            *(record.at, record.action, record.actor, record.token_id, record.target, record.address),
            *(record.result, record.status, record.count, record.request_id, record.ends),
            record.detail.decode(),
        ]
    )


def _cut_message(chain: str, number: int, mac: bytes, at: float) -> bytes:
    return orjson.dumps(["cut", chain, number, mac.hex(), at])


def _verifies(entry: AuditEntry, number: int, secret: bytes) -> bool:
    """Whether the entry's MAC is that of its fields at this number. A database may return a value of any type."""
    try:
        message = _message(entry.chain, number, entry.id, entry.key_id, entry.previous, entry.record)
        return hmac.compare_digest(hmac.digest(secret, message, "sha256"), entry.mac)
    except (TypeError, ValueError, AttributeError):
        return False


class ChainCheck:
    """Verifies one chain from its beginning, entry by entry."""

    def __init__(self, chain: str, cut: Cut | None, keys: Keys) -> None:
        self.chain = chain
        self.findings: list[Finding] = []
        self.last: AuditEntry | None = None
        """The last entry that verifies."""
        self._keys = keys
        self._number = FIRST
        self._mac: bytes | None = START
        """The MAC of the entry before; None if that entry does not verify."""
        if cut is not None:
            self._begin_at(cut)

    @property
    def reached(self) -> int:
        """The number of the last entry, 0 for an empty chain."""
        return self._number - 1

    @property
    def is_right(self) -> bool:
        """Whether the last entry verifies."""
        return self.last is not None and self.last.number == self.reached

    def _begin_at(self, cut: Cut) -> None:
        if cut.number < FIRST:
            self._find("cut_changed", cut.number, "the record of what retention removed cannot be read: it was changed")
            return
        secret = self._keys.get(cut.key_id)
        message = _cut_message(cut.chain, cut.number, cut.mac, cut.at)
        if secret is None:
            self._find("key_missing", cut.number, f"the record of retention was signed with {_key(cut.key_id)}")
        elif not hmac.compare_digest(hmac.digest(secret, message, "sha256"), cut.signature):
            self._find("cut_changed", cut.number, "the record of what retention removed was changed or forged")
            return
        self._number, self._mac = cut.number + 1, cut.mac

    def take(self, entry: AuditEntry) -> bool:
        """Checks the next entry. Whether it is right."""
        number, expected = entry.number, self._number
        if number < expected:
            self._find("changed", number, f"entry {number} is there twice: one was inserted")
            return False
        if number > expected:
            until = number - 1
            which = f"entry {expected} is" if until == expected else f"entries {expected} to {until} are"
            self._find("missing", expected, f"{which} missing: removed, or lost with the database")
            self._mac = None
        self._number = number + 1
        secret = self._keys.get(entry.key_id)
        if secret is None:
            self._find("key_missing", number, f"entry {number} was written with {_key(entry.key_id)}")
            self._mac = entry.mac
            return False
        if not _verifies(entry, number, secret):
            self._find(*self._explained(entry, secret))
            self._mac = None
            return False
        if self._mac is not None and self._mac != entry.previous:
            self._find("changed", number - 1, f"entry {number - 1} was replaced: entry {number} follows another one")
        self._mac, self.last = entry.mac, entry
        return True

    def unreadable(self, number: int) -> None:
        """The next entry cannot be read."""
        self._find("unreadable", number, f"entry {number} cannot be read: it was changed")
        self._number, self._mac = max(self._number, number + 1), None

    def _explained(self, entry: AuditEntry, secret: bytes) -> tuple[FindingKind, int, str]:
        number = entry.number
        for other in range(max(FIRST, number - NEARBY), number + NEARBY + 1):
            if other != number and _verifies(entry, other, secret):
                return "moved", number, f"entry {number} holds what was entry {other}: the entries were reordered"
        return "changed", number, f"entry {number} was changed or inserted: its MAC is wrong"

    def _find(self, kind: FindingKind, number: int, text: str) -> None:
        self.findings.append(Finding(kind=kind, chain=self.chain, number=number, text=f"chain {self.chain}: {text}"))


def _key(id: str) -> str:
    return f"the encryption key {plain(str(id), 16)}, which is not configured: add it to encryption.keys to verify"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A head that `by` saw: the chain must have come that far, with this entry."""

    head: Head
    by: str


class Verification:
    """Verifies all chains: `begin` and `take` for each, `take` again for those that are `behind`, then `end`."""

    def __init__(self, keys: Keys, seen: Sequence[Seen] = ()) -> None:
        """`seen` are heads known from outside the database."""
        self.entry_count = 0
        self.finding_count = 0
        self.findings: list[Finding] = []
        self._keys = keys
        self._seen = {(one.head.chain, one.head.number): one for one in seen}
        self._furthest: dict[str, Seen] = {}
        self._checks: dict[str, ChainCheck] = {}
        for one in seen:
            self._note(one)

    @property
    def chain_count(self) -> int:
        """The number of chains."""
        return len(self._checks)

    @property
    def heads(self) -> list[Head]:
        """The last entry of each chain that is right to its end, newest first."""
        lasts = [last for check in self._checks.values() if check.is_right for last in (check.last,) if last]
        lasts.sort(key=lambda last: last.record.at, reverse=True)
        return [Head(chain=last.chain, number=last.number, mac=last.mac) for last in lasts]

    def begin(self, chain: str, cut: Cut | None) -> int:
        """Begins a chain. Returns the number of the entry before its first one."""
        check = self._checks[chain] = ChainCheck(chain, cut, self._keys)
        self._collect(check)
        return check.reached

    def take(self, chain: str, entries: Sequence[AuditEntry | int]) -> None:
        """Checks the next entries of a chain; a number stands for an entry that cannot be read."""
        check = self._checks[chain]
        for entry in entries:
            self.entry_count += 1
            if isinstance(entry, int):
                check.unreadable(entry)
            elif check.take(entry):
                self._compare(entry)
        self._collect(check)

    def behind(self) -> dict[str, int | None]:
        """Chains that had come further than was read: they have grown meanwhile, or their end is gone. The last
        number that was read; None if nothing was."""
        found: dict[str, int | None] = {}
        for chain, seen in self._furthest.items():
            check = self._checks.get(chain)
            if check is None or check.reached < seen.head.number:
                found[chain] = None if check is None else check.reached
        return found

    def end(self) -> None:
        """Reports the chains that have not come as far as others saw."""
        for chain, reached in self.behind().items():
            seen = self._furthest[chain]
            if reached:
                text = (
                    f"chain {chain}: the end is missing after entry {reached}: {seen.by} saw entry {seen.head.number}"
                )
            else:
                text = f"chain {chain} is missing: {seen.by} saw entry {seen.head.number} of it"
            self._add("truncated", chain, (reached or 0) + 1, text)
        if not self._checks:
            text = "the audit has no entries. A node writes one when it starts: if one has run here, all were removed"
            self._add("empty", None, None, text)

    def _compare(self, entry: AuditEntry) -> None:
        for head in anchored(entry):
            self._note(Seen(head=head, by=f"entry {entry.number} of chain {entry.chain}"))
        seen = self._seen.get((entry.chain, entry.number))
        if seen is not None and seen.head.mac != entry.mac:
            text = f"chain {entry.chain}: entry {entry.number} is not the one that {seen.by} saw"
            self._add("changed", entry.chain, entry.number, text)

    def _note(self, seen: Seen) -> None:
        known = self._furthest.get(seen.head.chain)
        if known is None or known.head.number < seen.head.number:
            self._furthest[seen.head.chain] = seen

    def _collect(self, check: ChainCheck) -> None:
        for finding in check.findings:
            self._add(finding.kind, finding.chain, finding.number, finding.text)
        check.findings.clear()

    def _add(self, kind: FindingKind, chain: str | None, number: int | None, text: str) -> None:
        self.finding_count += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(kind=kind, chain=chain, number=number, text=text))
