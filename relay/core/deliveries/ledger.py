"""The ledger of a write that must not happen twice: a subscription's memory of one event's record. Pure.

A kind stores an entry with `Step.remember` before it sends the write, and `done` with the answer. An attempt that finds
an entry which is not done asks the sink for the record first, and writes only if it does not exist. "Does not exist"
counts only once the entry has settled: the sink may still be working on a request that timed out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from relay.core.deliveries.delivery import (
    ALREADY_WRITTEN,
    CREDENTIAL_ERROR,
    PROXY_ERROR,
    RENDER_ERROR,
    SETTLING,
    UNSENT_ERROR,
    Outcome,
    Response,
)
from relay.core.deliveries.dialogue import Memory

SETTLE_SECONDS = 120.0
"""Time after which a write has been carried out or never will be. Longer than the longest timeout of an attempt."""
WRITTEN = Outcome(verdict="delivered", reason=ALREADY_WRITTEN)
"""An earlier attempt has written the record."""
CLEARED: Memory = {}
"""The memory of a write that was not carried out."""
EVENT_KEY = "event/"
"""Prefix of the keys of entries."""
MADE = "made"
"""Under this name, a kind that writes several records stores those already written, beside the entry of
the one that may have been written."""
SETTLED: Memory = {"settled": "sent"}
"""Added to a memory once a person has confirmed that the records exist."""

DOUBTS: Mapping[str, str] = {
    "written_elsewhere": "the subscription writes to another account by now",
    "target_gone": "the CRM no longer has the deal or contact that it was for",
    "not_found_in_time": "it is not among the newest ones, and there are too many to read",
    "not_found": "it is not among those that can be read",
    "not_readable": "the answer cannot be read",
    "unreadable": "what the relay remembers of it cannot be read",
}
"""Reasons why a CRM cannot tell whether it has a record, by the reasons of the kinds."""

_NEVER_SENT = frozenset(("connect", "dns", "tls", "refused", UNSENT_ERROR, PROXY_ERROR, CREDENTIAL_ERROR, RENDER_ERROR))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One write.

    state   intended: it may have been sent; done: the sink has confirmed the write
    record  the kind of record, such as `note`
    target  the object it is attached to: a field of the sink and an id, never an address
    portal  the sink's account
    at      time of the intent, in epoch seconds
    id      of the record, from the sink
    """

    state: Literal["intended", "done"] = "intended"
    record: str
    target: Mapping[str, str | int] = field(default_factory=dict)
    portal: str
    at: float
    id: str | int | None = None

    def memory(self) -> Memory:
        """The entry as it is stored."""
        found: dict[str, Any] = {"state": self.state, "record": self.record, "target": dict(self.target)}
        return {**found, "portal": self.portal, "at": self.at, "id": self.id}

    def done(self, id: str | int | None = None) -> "Entry":
        """The entry once the sink has confirmed the write. `id`: None if it was found without one."""
        return replace(self, state="done", id=id)

    def settles_in(self, now: float) -> float:
        """Seconds until "does not exist" counts; 0 if it does now."""
        return min(max(self.at + SETTLE_SECONDS - now, 0.0), SETTLE_SECONDS)

    def waiting(self, now: float) -> tuple[Outcome, Memory]:
        """The outcome of an attempt that has to wait, and the memory. If the clock was set back, the wait restarts."""
        outcome = Outcome(verdict="retry", reason=SETTLING, wait_seconds=self.settles_in(now), in_doubt=True)
        return outcome, replace(self, at=min(self.at, now)).memory()


def event_key(event_id: str) -> str:
    """The key of an event's entry."""
    return f"{EVENT_KEY}{event_id}"


def read_entry(memory: Memory) -> Entry | None:
    """The entry; None if there is none. An unreadable one has no portal, so it leads to no write."""
    if not memory:
        return None
    match memory:
        case {
            "state": "intended" | "done" as state,
            "record": str() as record,
            "target": Mapping() as target,
            "portal": str() as portal,
            "at": float() | int() as at,
        }:
            return Entry(state=state, record=record, target=target, portal=portal, at=float(at), id=memory.get("id"))
    return Entry(record="", portal="", at=0.0)


def never_sent(response: Response) -> bool:
    """True if the sink did not get the request."""
    return response.error in _NEVER_SENT


def is_doubtful(response: Response) -> bool:
    """True if the sink may have carried out the request although it did not confirm it."""
    if response.status_code is None or response.error is not None:
        return not never_sent(response)
    return response.status_code >= 500


def is_settled(memory: Memory) -> bool:
    """True if a person has confirmed that the records exist: nothing more is sent."""
    return {**memory, **SETTLED} == memory


def is_open(memory: Memory) -> bool:
    """True if it is unknown whether a record was written. Works with the memory of every kind."""
    return not is_settled(memory) and memory.get("state") == "intended"


def not_sent(memory: Memory) -> Memory:
    """The memory once a person has found that the write in doubt was not carried out. Other written records are
    kept."""
    return {MADE: memory[MADE]} if MADE in memory else CLEARED


def uncertain(why: str) -> Outcome:
    """The outcome if only a person can find out."""
    return Outcome(verdict="uncertain", reason=why, in_doubt=True)


def still_in_doubt(outcome: Outcome) -> Outcome:
    """The outcome of a failed question: the write stays in doubt, whatever the question's outcome."""
    if outcome.verdict in ("retry", "disable"):
        return replace(outcome, in_doubt=True)
    return uncertain(outcome.reason)
