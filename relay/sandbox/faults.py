"""Fault injection: which requests fail, and how. Pure: time is passed in, randomness comes from the seed.

Durations in a fault are real seconds as the client sees them. The world's speed does not divide them.
"""

from collections.abc import Set
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

from relay.sandbox.fields import flag, invalid, json_object, number, refuse_unknown, text, whole_number

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
"""Kinds that corrupt the answer on its way, after the request took effect."""
JOB_KINDS = frozenset({"unknown_status", "status_back"})
"""Kinds that change the status in a read of a job."""
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
MAX_TEXT_CHARACTERS = 500
_TEXTS = ("path_prefix", "method", "account", "status_value")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSpec:
    """A fault as requested. It ends after `count` hits or `duration_seconds`, whichever comes first. With neither,
    and a `share`, it never ends."""

    kind: str
    count: int | None = None
    share: float = 1.0
    """Fraction of the matching requests that it hits, 0 to 1, drawn from the seed."""
    duration_seconds: float | None = None
    path_prefix: str = "/"
    method: str | None = None
    account: str | None = None
    after_effect: bool = True
    """True if the request takes effect before it fails (a job is created, its answer is lost). Defaults to false for
    kinds that answer with an error and to true for `timeout`. The other kinds corrupt a real answer: always true."""
    hold_seconds: float = 30.0
    """`timeout`: silence before the connection is closed. `slow_drip`: how long the body takes."""
    retry_after_seconds: float | None = None
    """`429` and `503`: the Retry-After header."""
    size_bytes: int = 2 * 1024 * 1024
    """`oversized`: the size of the body."""
    status_value: str = "awaiting_approval"
    """`unknown_status`: the status shown."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """An injected fault."""

    id: int
    spec: FaultSpec
    added_at: float
    rng: Random
    hits: int = 0

    def is_active(self, now: float) -> bool:
        """True while it can still hit a request."""
        spec = self.spec
        return not (
            (spec.count is not None and self.hits >= spec.count)
            or (spec.duration_seconds is not None and now >= self.added_at + spec.duration_seconds)
        )

    def shown(self, now: float) -> dict[str, Any]:
        """The JSON object in `GET /_sandbox/faults`."""
        return {"id": self.id, **asdict(self.spec), "hits": self.hits, "active": self.is_active(now)}


@dataclass(kw_only=True)
class FaultInjector:
    """The injected faults. The oldest one that matches a request hits it."""

    seed: int = 0
    max_faults: int = 100
    _faults: list[Fault] = field(default_factory=list, init=False)
    _added: int = field(default=0, init=False)

    def add(self, spec: FaultSpec, now: float) -> Fault:
        """Injects a fault. Raises Refused if `max_faults` are active."""
        if len(self._faults) >= self.max_faults:
            self._faults = [fault for fault in self._faults if fault.is_active(now)]
        if len(self._faults) >= self.max_faults:
            raise invalid(f"{self.max_faults} faults are in force: DELETE some first")
        self._added += 1
        rng = Random(f"{self.seed}:fault:{self._added}")  # noqa: S311  (reproducible, not a secret)
        fault = Fault(id=self._added, spec=spec, added_at=now, rng=rng)
        self._faults.append(fault)
        return fault

    def faults(self) -> tuple[Fault, ...]:
        """All faults, including ended ones that have not been removed yet."""
        return tuple(self._faults)

    def clear(self, fault_id: int | None = None) -> int:
        """Removes one fault, or all. Returns how many were removed."""
        kept = [] if fault_id is None else [fault for fault in self._faults if fault.id != fault_id]
        removed = len(self._faults) - len(kept)
        self._faults = kept
        return removed

    def draw(
        self, *, method: str, path: str, account: str | None, now: float, impossible: Set[str] = frozenset()
    ) -> FaultSpec | None:
        """The fault that hits this request, if any. Skips the kinds in `impossible` without counting a hit."""
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
    """Reads the body of `POST /_sandbox/faults`. Without count, share and duration_seconds the fault hits once.

    Raises Refused.
    """
    fields = json_object(body, "the body")
    refuse_unknown(fields, {*FaultSpec.__dataclass_fields__, "path"})
    kind = _kind(fields.get("kind"))
    numbers = {
        "count": whole_number(fields, "count", 1, MAX_COUNT),
        "share": number(fields, "share", 0, 1),
        "duration_seconds": number(fields, "duration_seconds", 0, MAX_DURATION_SECONDS),
    }
    if not any(value is not None for value in numbers.values()):
        numbers["count"] = 1
    texts = {name: text(fields, name, max_characters=MAX_TEXT_CHARACTERS) for name in _TEXTS}
    method, after_effect = texts["method"], flag(fields, "after_effect")
    given: dict[str, Any] = {
        **numbers,
        **texts,
        "path_prefix": texts["path_prefix"] or text(fields, "path", max_characters=MAX_TEXT_CHARACTERS),
        "method": method and method.upper(),
        "after_effect": kind not in REFUSALS if after_effect is None else after_effect,
        "hold_seconds": number(fields, "hold_seconds", 0, MAX_HOLD_SECONDS),
        "retry_after_seconds": number(fields, "retry_after_seconds", 0, MAX_DURATION_SECONDS),
        "size_bytes": whole_number(fields, "size_bytes", 1, MAX_SIZE_BYTES),
    }
    return FaultSpec(kind=kind, **{name: value for name, value in given.items() if value is not None})


def _kind(value: object) -> str:
    name = str(value).strip().lower().replace("-", "_").replace(" ", "_")
    name = _ALIASES.get(name, name)
    if name not in KINDS:
        raise invalid(f"kind must be one of {', '.join(KINDS)}")
    return name
