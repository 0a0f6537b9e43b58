"""The attempts of a delivery: each as a bar of its phases, and all of them on the line of time, both to scale."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from relay.clock import from_rfc3339

PHASES = ("dns_ms", "connect_ms", "tls_ms", "first_byte_ms")
"""The phases of an attempt, in their order. What follows them is `rest`: reading the answer, or waiting in vain."""
BAR_WIDTH = 300
BAR_HEIGHT = 14
LINE_WIDTH = 1000
LINE_HEIGHT = 40
LEAST = 1.5
"""Units that a phase is drawn with at least: one that took microseconds is still seen."""

Answer = Mapping[str, Any]


def phases(attempt: Answer) -> list[tuple[str, float]]:
    """The phases that were measured, with their milliseconds, and the rest of the attempt."""
    timings = attempt.get("timings") or {}
    known = [(name.removesuffix("_ms"), float(timings[name])) for name in PHASES if timings.get(name) is not None]
    rest = attempt["duration_ms"] - sum(took for _, took in known)
    return [*known, ("rest", rest)] if rest >= 0.05 else known


def longest(attempts: Sequence[Answer]) -> float:
    """The milliseconds that the scale of the bars ends with."""
    return max((float(one["duration_ms"]) for one in attempts), default=0.0) or 1.0


def bar(attempt: Answer, scale_ms: float, label: str) -> Markup:
    """One attempt. `label`: what it says, for people who do not see it."""
    at, parts = 0.0, Markup()
    for name, took in phases(attempt):
        width = max(LEAST, took / scale_ms * BAR_WIDTH)
        parts += Markup('<rect class="phase {}" x="{:.1f}" y="0" width="{:.1f}" height="{}"/>').format(
            name, min(at, BAR_WIDTH - LEAST), min(width, BAR_WIDTH - min(at, BAR_WIDTH - LEAST)), BAR_HEIGHT
        )
        at += width
    return Markup('<svg class="attempt" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        BAR_WIDTH, BAR_HEIGHT, label, parts
    )


def waits(attempts: Sequence[Answer]) -> list[float | None]:
    """For each attempt the seconds since the one before it ended; None for the first."""
    found: list[float | None] = []
    before: float | None = None
    for one in attempts:
        began = from_rfc3339(one["started_at"])
        found.append(None if before is None else max(0.0, began - before))
        before = began + one["duration_ms"] / 1000
    return found


def planned_waits(attempts: Sequence[Answer]) -> list[float | None]:
    """For each attempt the seconds after the one before it at which it was to be made; None if there was no plan."""
    plans: list[float | None] = [None] if attempts else []
    for one in attempts[:-1]:
        planned, ended = one.get("next_attempt_at"), from_rfc3339(one["started_at"]) + one["duration_ms"] / 1000
        plans.append(None if planned is None else max(0.0, from_rfc3339(planned) - ended))
    return plans


def line(delivery: Answer, now: float, label: str) -> Markup:
    """The life of a delivery: when it was made, its attempts, its end or now, and the next attempt."""
    began, attempts = from_rfc3339(delivery["created_at"]), delivery["attempts"]
    ended, planned = (
        None if delivery[name] is None else from_rfc3339(delivery[name]) for name in ("ended_at", "next_attempt_at")
    )
    until = now if ended is None else ended
    tried: list[tuple[float, float, Answer]] = [
        (from_rfc3339(one["started_at"]), one["duration_ms"] / 1000, one) for one in attempts
    ]
    last: float = max([until, planned or until, *(at + took for at, took, _ in tried)])
    across = max(last - began, 0.001)

    def place(time: float) -> float:
        return 8 + min(max(time - began, 0.0), across) / across * (LINE_WIDTH - 16)

    middle = LINE_HEIGHT / 2
    drawn = Markup('<line class="life" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(
        place(began), place(until), middle, middle
    )
    if planned is not None and planned > until:
        drawn += Markup('<line class="ahead" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(
            place(until), place(planned), middle, middle
        )
        drawn += Markup('<circle class="planned" cx="{:.1f}" cy="{}" r="6"/>').format(place(planned), middle)
    for number, (at, took, one) in enumerate(tried, start=1):
        well = delivery["state"] == "delivered" and number == len(tried)
        drawn += Markup('<rect class="try {}" x="{:.1f}" y="6" width="{:.1f}" height="28"/>').format(
            "well" if well else _kind(one), place(at) - 2, max(4.0, place(at + took) - place(at))
        )
    return Markup(
        '<svg class="line" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(LINE_WIDTH, LINE_HEIGHT, label, drawn)


def _kind(attempt: Answer) -> str:
    """`failed` or `sent`, judged by the attempt alone."""
    status = attempt.get("status_code")
    return "failed" if attempt.get("error") or (status is not None and status >= 300) else "sent"
