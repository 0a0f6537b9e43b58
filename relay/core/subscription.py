"""A subscription: which events go where, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["enabled", "paused", "disabled", "pending"]

DEFAULT_RETRY_SCHEDULE_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningSecret:
    """A Standard Webhooks secret (`whsec_…`). `expires_at` (epoch seconds) is set on one that was rotated away."""

    value: str = field(repr=False)
    expires_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Where matching events go. Times are epoch seconds.

    types     event types, matched exactly; None = every job event and none about the relay
    source    a CloudEvents source, matched exactly; None = any
    callback  made by a job's `callback_url`: gets only the events of the jobs that named it
    ordering  "job": an event waits for the earlier ones of its job; "none": it does not
    timeout_seconds, retry_schedule_seconds  of one attempt, and between attempts; None = as the settings say when it
              comes to that

    How it stands: in `state` since `state_since` (None: since it was made) for `state_reason`; its sink has only failed
    since `failing_since`, at first for `failing_reason`, and asked that nothing be sent before `paused_until`.
    probe_at     disabled, and its oldest event is tried then; None where only `resume` enables it again
    drain_since  when it was enabled again after it was disabled: what had waited goes out slowly at first
    """

    id: str
    sink: str
    kind: str = "webhook"
    types: tuple[str, ...] | None = None
    source: str | None = None
    state: State = "enabled"
    state_since: float | None = None
    state_reason: str | None = None
    callback: bool = False
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    ordering: Literal["job", "none"] = "job"
    timeout_seconds: float | None = None
    retry_schedule_seconds: tuple[float, ...] | None = None
    rate_per_second: float | None = None
    concurrency: int | None = None
    description: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    secrets: tuple[SigningSecret, ...] = field(default=(), repr=False)
    created_at: float = 0.0
    start_at: float | None = None
    failing_since: float | None = None
    failing_reason: str | None = None
    paused_until: float | None = None
    probe_at: float | None = None
    drain_since: float | None = None

    @property
    def reached_by(self) -> tuple[object, ...]:
        """What decides how its sink answers: the URL, and what is sent beside the event."""
        return self.sink, self.method, self.headers

    @property
    def enabled_since(self) -> float | None:
        """When it was enabled or resumed last, 0 where it has been enabled since it was made; None while it is not."""
        return (self.state_since or 0.0) if self.state == "enabled" else None

    @property
    def disabled_reason(self) -> str | None:
        """Why it is disabled; None where it is not."""
        return self.state_reason if self.state == "disabled" else None
