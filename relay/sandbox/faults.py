"""The fault book: which requests go wrong, and how. Pure: time is passed in, chance comes from the seed.

Durations in a fault are real seconds, as the client sees them; the world's speed does not divide them.
"""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from random import Random
from typing import Any

REFUSALS = {
    "429": (429, "api_rate_limit_exceeded"),
    "500": (500, "internal_error"),
    "502": (502, "bad_gateway"),
    "503": (503, "task_unavailable"),
    "403": (403, "permission_denied"),
    "404": (404, "external_api_job_not_found"),
    "revoked_key": (401, "api_key_revoked"),
}
"""Kinds that answer with an error: kind -> (HTTP status, code)."""
CORRUPTIONS = ("timeout", "malformed_json", "truncated", "wrong_content_type", "slow_drip", "oversized")
"""Kinds that spoil the answer on its way, after the request took effect."""
JOB_KINDS = frozenset({"unknown_status", "status_back"})
"""Kinds that change what a read of a job says."""
KINDS = (*REFUSALS, *CORRUPTIONS, *sorted(JOB_KINDS))

_ALIASES = {
    "5xx": "500",
    "time_out": "timeout",
    "timeouts": "timeout",
    "time_outs": "timeout",
    "malformed": "malformed_json",
    "malformed_body": "malformed_json",
    "truncated_body": "truncated",
    "content_type": "wrong_content_type",
    "drip": "slow_drip",
    "revoked": "revoked_key",
    "unknown_status_value": "unknown_status",
    "backwards": "status_back",
    "oversized_body": "oversized",
}

MAX_COUNT = 1_000_000_000
MAX_DURATION_SECONDS = 86_400.0
MAX_HOLD_SECONDS = 600.0
MAX_SIZE_BYTES = 64 * 1024 * 1024
MAX_TEXT = 500
DEFAULT_HOLD_SECONDS = 30.0
DEFAULT_SIZE_BYTES = 2 * 1024 * 1024
UNKNOWN_STATUS = "awaiting_approval"


class FaultInvalid(ValueError):
    """The fault asked for makes no sense; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSpec:
    """A fault as asked for. It ends after `count` hits or `duration_seconds`, whichever comes first; never, with
    neither of them (then `share` is given)."""

    kind: str
    count: int | None = None
    share: float = 1.0
    """The part of the matching requests that is hit, 0 to 1, drawn from the seed."""
    duration_seconds: float | None = None
    path_prefix: str = "/"
    method: str | None = None
    account: str | None = None
    after_effect: bool = True
    """Whether the request takes effect first (a job is made, its answer lost). By default: no, for the kinds that
    answer with an error; yes, for `timeout`. The other kinds spoil a real answer, so there it always does."""
    hold_seconds: float = DEFAULT_HOLD_SECONDS
    """`timeout`: how long nothing comes before the connection is closed; `slow_drip`: how long the body takes."""
    retry_after_seconds: float | None = None
    """`429` and `503`: the Retry-After header."""
    size_bytes: int = DEFAULT_SIZE_BYTES
    """`oversized`: the size of the body."""
    status_value: str = UNKNOWN_STATUS
    """`unknown_status`: the value shown."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """A fault in the book."""

    id: int
    spec: FaultSpec
    added_at: float
    rng: Random
    hits: int = 0

    def is_active(self, now: float) -> bool:
        """Whether it can still hit."""
        spec = self.spec
        return not (
            (spec.count is not None and self.hits >= spec.count)
            or (spec.duration_seconds is not None and now >= self.added_at + spec.duration_seconds)
        )

    def shown(self, now: float) -> dict[str, Any]:
        """As the book's listing shows it."""
        spec = self.spec
        return {
            "id": self.id,
            "kind": spec.kind,
            "count": spec.count,
            "share": spec.share,
            "duration_seconds": spec.duration_seconds,
            "path_prefix": spec.path_prefix,
            "method": spec.method,
            "account": spec.account,
            "after_effect": spec.after_effect,
            "hold_seconds": spec.hold_seconds,
            "retry_after_seconds": spec.retry_after_seconds,
            "size_bytes": spec.size_bytes,
            "status_value": spec.status_value,
            "hits": self.hits,
            "active": self.is_active(now),
        }


@dataclass(kw_only=True)
class FaultInjector:
    """The faults in force; the first in the order of adding that matches a request hits it."""

    seed: int = 0
    max_faults: int = 100
    _faults: list[Fault] = field(default_factory=list, init=False)
    _added: int = field(default=0, init=False)

    def add(self, spec: FaultSpec, now: float) -> Fault:
        """Puts a fault in force. Raises FaultInvalid when the book is full of active ones."""
        if len(self._faults) >= self.max_faults:
            self._faults = [fault for fault in self._faults if fault.is_active(now)]
        if len(self._faults) >= self.max_faults:
            raise FaultInvalid(f"{self.max_faults} faults are in force: DELETE some first")
        self._added += 1
        rng = Random(f"{self.seed}:fault:{self._added}")  # noqa: S311  (a reproducible draw, no secret)
        fault = Fault(id=self._added, spec=spec, added_at=now, rng=rng)
        self._faults.append(fault)
        return fault

    def faults(self) -> tuple[Fault, ...]:
        """All that are kept, ended ones too."""
        return tuple(self._faults)

    def clear(self, fault_id: int | None = None) -> int:
        """Removes one fault, or all; how many were removed."""
        kept = [] if fault_id is None else [fault for fault in self._faults if fault.id != fault_id]
        removed = len(self._faults) - len(kept)
        self._faults = kept
        return removed

    def draw(
        self, *, method: str, path: str, account: str | None, now: float, impossible: Set[str] = frozenset()
    ) -> FaultSpec | None:
        """The fault that hits this request, if any. Kinds in `impossible` are passed over and lose no count."""
        for fault in self._faults:
            spec = fault.spec
            if (
                spec.kind not in impossible
                and fault.is_active(now)
                and path.startswith(spec.path_prefix)
                and spec.method in (None, method)
                and spec.account in (None, account)
                and (spec.share >= 1 or fault.rng.random() < spec.share)
            ):
                fault.hits += 1
                return spec
        return None


def parse_fault(body: object) -> FaultSpec:
    """A fault from the JSON of `POST /_sandbox/faults`. Without count, share and duration_seconds it hits once."""
    if not isinstance(body, dict):
        raise FaultInvalid("the body must be a JSON object with a kind")
    unknown = sorted(set(body) - set(FaultSpec.__dataclass_fields__) - {"path"})
    if unknown:
        raise FaultInvalid(f"unknown field {unknown[0]!r}")
    kind = _kind(body.get("kind"))
    count = _number(body, "count", 1, MAX_COUNT)
    share = _number(body, "share", 0, 1)
    duration = _number(body, "duration_seconds", 0, MAX_DURATION_SECONDS)
    if count is not None and count != int(count):
        raise FaultInvalid("count must be a whole number")
    if count is None and share is None and duration is None:
        count = 1
    after_effect = body.get("after_effect", kind not in REFUSALS)
    if not isinstance(after_effect, bool):
        raise FaultInvalid("after_effect must be true or false")
    hold = _number(body, "hold_seconds", 0, MAX_HOLD_SECONDS)
    size = _number(body, "size_bytes", 1, MAX_SIZE_BYTES)
    method = _text(body, "method")
    return FaultSpec(
        kind=kind,
        count=None if count is None else int(count),
        share=1.0 if share is None else share,
        duration_seconds=duration,
        path_prefix=_text(body, "path_prefix") or _text(body, "path") or "/",
        method=None if method is None else method.upper(),
        account=_text(body, "account"),
        after_effect=after_effect,
        hold_seconds=DEFAULT_HOLD_SECONDS if hold is None else hold,
        retry_after_seconds=_number(body, "retry_after_seconds", 0, MAX_DURATION_SECONDS),
        size_bytes=DEFAULT_SIZE_BYTES if size is None else int(size),
        status_value=_text(body, "status_value") or UNKNOWN_STATUS,
    )


def _kind(value: object) -> str:
    name = str(value).strip().lower().replace("-", "_").replace(" ", "_")
    name = _ALIASES.get(name, name)
    if name not in KINDS:
        raise FaultInvalid(f"kind must be one of {', '.join(KINDS)}")
    return name


def _number(body: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FaultInvalid(f"{name} must be a number")
    if not least <= value <= most:
        raise FaultInvalid(f"{name} must be {least:g} to {most:g}")
    return float(value)


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise FaultInvalid(f"{name} must be a text of 1 to {MAX_TEXT} characters")
    return value
