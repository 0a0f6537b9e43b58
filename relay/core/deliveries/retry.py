"""Decides what follows from an attempt's outcome: delivered, retry (when), dead, disable, and so on. Pure functions.

`http_outcome` judges a plain HTTP response: status, redirect, Retry-After. Probes of disabled subscriptions and the
drain rate after a recovery are computed here too.
"""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from relay.clock import in_words
from relay.core.deliveries.delivery import CREDENTIAL_ERROR, SETTLING, Outcome, Response
from relay.core.turns import is_unreadable
from relay.core.values import value_class

MAX_RETRY_AFTER_SECONDS = 86_400.0
"""Longest pause that a server can request: a day."""

_SECONDS = re.compile(r"([+-]?)([0-9]+(?:\.[0-9]*)?)", re.ASCII)


def parse_retry_after(value: str | None, *, now: float, received_date: str | None = None) -> float | None:
    """The pause in seconds that a Retry-After header asks for, or None if it is invalid (RFC 9110 section 10.2.3).

    Accepts seconds (decimals too, which some servers send) or an HTTP date. A date is measured from the response's own
    Date header if `received_date` is valid, so that a sink's wrong clock does no harm, else from `now` (epoch seconds).
    From 0 to 24 hours.
    """
    if value is None or len(value) > 128:
        return None
    text = value.strip()
    number = _SECONDS.fullmatch(text)
    if number is not None:
        return 0.0 if number[1] == "-" else _bounded(float(number[2]))
    moment = parse_http_date(text)
    if moment is None:
        return None
    sent_at = parse_http_date(received_date) if received_date is not None else None
    return _bounded(moment - (now if sent_at is None else sent_at))


def _bounded(seconds: float) -> float:
    return min(seconds, MAX_RETRY_AFTER_SECONDS) if seconds > 0 else 0.0


def parse_http_date(text: str) -> float | None:
    """Epoch seconds of an HTTP date, read as UTC if it has no zone; None if it is invalid."""
    try:
        moment: datetime = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


FIRST_PROBE_SECONDS = 60.0
MAX_PROBE_SECONDS = 3600.0
DRAIN_PER_SECOND = 50.0
DRAIN_DOUBLE_SECONDS = 10.0
DRAIN_SECONDS = 60.0
_NOT_THERE_YET = "asked for the record, which is not there yet"


@value_class(frozen=True, slots=True, kw_only=True)
class Decision:
    """The consequence of an attempt.

    what         done: the sink has accepted the event
                 retry: try again `at` (epoch seconds)
                 dead: given up; the delivery is kept, listed and can be replayed
                 uncertain: given up, although the sink may have accepted the event: a person has to find out
                 skip: nothing in the sink concerns the event
                 disable: the sink accepts no more events, or the subscription cannot be read: it is disabled and its
                 pending deliveries are held, this one included
                 alone: each event of this bundle is sent by itself, at once, and only what is refused then is given up
                 behind: again after an earlier event of its order, which failed in the same bundle; nothing of its
                 schedule is used up
    exhausted    dead or uncertain because the schedule is used up
    pause_until  the sink asked for no requests at all before then; pauses the subscription whatever was decided
    """

    what: Literal["done", "retry", "dead", "uncertain", "skip", "disable", "alone", "behind"]
    reason: str
    at: float = 0.0
    exhausted: bool = False
    pause_until: float | None = None


def decide(
    outcome: Outcome,
    *,
    attempt_count: int,
    schedule_seconds: Sequence[float],
    jitter: float,
    random_value: float,
    now: float,
    bundled: bool = False,
) -> Decision:
    """The decision after an attempt that ended at `now` (epoch seconds).

    attempt_count     attempts made in this schedule, this one included, from 1
    schedule_seconds  pause after each failed attempt; attempts in all = entries + 1
    jitter            0.2 spreads each pause evenly over 80 to 120 % of it
    random_value      position of this pause in that spread, from [0, 1)
    bundled           other events were in the same request

    Retry-After and `wait_seconds` are floors under the pause, up to 24 hours; jitter never shortens them. What may have
    been accepted is never dead, but uncertain.
    """
    floor_seconds = _floor(outcome.retry_after_seconds or 0.0)
    pause_until = now + floor_seconds if floor_seconds else None
    verdict, reason, exhausted = outcome.verdict, outcome.reason, attempt_count > len(schedule_seconds)
    if verdict == "delivered":
        return Decision(what="done", reason=reason, pause_until=pause_until)
    if verdict == "uncertain" or (verdict == "dead" and outcome.in_doubt):
        return Decision(what="uncertain", reason=reason, pause_until=pause_until)
    if verdict == "skip":
        return Decision(what="skip", reason=reason, pause_until=pause_until)
    if verdict == "dead":
        return Decision(what="alone" if bundled else "dead", reason=reason)
    if verdict == "disable":
        return Decision(what="disable", reason=reason)
    if exhausted and not outcome.in_doubt and bundled:
        return Decision(what="alone", reason=reason, pause_until=pause_until)
    if exhausted:
        what: Literal["uncertain", "dead"] = "uncertain" if outcome.in_doubt else "dead"
        return Decision(what=what, reason=reason, exhausted=True, pause_until=pause_until)
    spread = 1.0 + jitter * (2.0 * random_value - 1.0)
    pause_seconds = schedule_seconds[max(attempt_count, 1) - 1] * spread
    at = now + max(pause_seconds, floor_seconds, _floor(outcome.wait_seconds))
    return Decision(what="retry", at=at, reason=reason, pause_until=pause_until)


def _floor(seconds: float) -> float:
    return min(seconds, MAX_RETRY_AFTER_SECONDS) if seconds > 0 else 0.0  # NaN asks for nothing


def sentence(
    decision: Decision,
    *,
    attempt_count: int,
    schedule_seconds: Sequence[float],
    now: float,
    failing_seconds: float | None = None,
    probe: bool = False,
    judged: bool = True,
) -> str:
    """The decision and its reason, in a sentence. Arguments as in `decide`.

    failing_seconds  set if the subscription is disabled too, because its sink has only failed for this time
    probe            the attempt was a probe of a disabled subscription
    judged           it shows the sink's health (`Outcome.judges_sink`)
    """
    reason = _NOT_THERE_YET if decision.reason == SETTLING else decision.reason
    why = f"HTTP {reason[5:]}" if reason.startswith("http_") else reason.replace("_", " ") if not judged else reason
    if decision.what in ("skip", "done") and not judged:
        stays = "; the subscription stays disabled, and the next event probes it" if probe else ""
        return f"{why}: {'skipped, ' if decision.what == 'skip' else ''}nothing was sent{stays}"
    if decision.what == "done":
        pause = "" if decision.pause_until is None else f"; a pause of {in_words(decision.pause_until - now)} follows"
        return f"{why}: delivered" + (", so the subscription is enabled again" if probe else "") + pause
    if probe and decision.what == "retry":
        return f"{why}: the subscription stays disabled; this event waits"
    why = f"{why} (attempt {attempt_count} of {max(attempt_count, len(schedule_seconds) + 1)})"
    disabled = "" if failing_seconds is None else f"only failures for {in_words(failing_seconds)}, so the subscription "
    if decision.what == "dead":
        gone = "no attempt is left" if decision.exhausted else "another attempt would end the same way"
        return f"{why}: given up, {gone}" + (f"; {disabled}is disabled" if disabled else "")
    if decision.what == "uncertain":
        unknown = "it may or may not have been accepted, so a person must find out"
        return f"{why}: uncertain, {unknown}" + (f"; {disabled}is disabled" if disabled else "")
    if decision.what == "disable":
        unread = is_unreadable(decision.reason)
        disabled = "the subscription " if unread else "the sink accepts no more events, so its subscription "
    if decision.what == "alone" and not disabled:
        return f"{why}: not given up, but sent by itself"
    if disabled:
        return f"{why}: {disabled}is disabled; this event waits"
    if decision.what == "behind":
        return f"{reason}: published again after an earlier event of its order, which was not acknowledged"
    asked = decision.pause_until is not None and decision.at <= decision.pause_until
    pause = "when a new token may be asked for" if reason == CREDENTIAL_ERROR else "the pause that the sink asked for"
    return f"{why}: tried again in {in_words(decision.at - now)}" + (f", {pause}" if asked else "")


def next_probe_at(
    *, since: float, now: float, disable_after_seconds: float, jitter: float, random_value: float
) -> float:
    """Time of the next probe of a subscription disabled at `since`: after a minute (or `disable_after_seconds` if that
    is less), then at doubling intervals of up to an hour. Times are epoch seconds; `jitter` and `random_value` as in
    `decide`."""
    least = min(FIRST_PROBE_SECONDS, disable_after_seconds)
    pause_seconds = min(max(now - since, least), MAX_PROBE_SECONDS)
    return now + pause_seconds * (1.0 + jitter * (2.0 * random_value - 1.0))


def drain_per_second(elapsed_seconds: float) -> float | None:
    """Rate limit of a subscription re-enabled `elapsed_seconds` ago: 50 a second, doubling every 10 seconds. None (no
    limit but its slots) after a minute."""
    if elapsed_seconds >= DRAIN_SECONDS:
        return None
    return DRAIN_PER_SECOND * math.exp2(max(elapsed_seconds, 0.0) / DRAIN_DOUBLE_SECONDS)


def http_outcome(response: Response, now: float) -> Outcome:
    """The outcome of a plain HTTP response, for kinds of sinks without rules of their own.

    2xx is success, 410 disables the subscription, 429 and 503 may carry Retry-After; everything else is retried,
    redirects (never followed) and missing responses included. Reasons are `http_<status>` or the response's `error`.
    """
    if response.error is not None or response.status_code is None:
        return Outcome(verdict="retry", reason=response.error or "no_answer")
    status = response.status_code
    reason = f"http_{status}"
    if 200 <= status <= 299:
        return Outcome(verdict="delivered", reason=reason)
    if status == 410:
        return Outcome(verdict="disable", reason=reason)
    if status in (429, 503):
        pause = parse_retry_after(response.header("retry-after"), now=now, received_date=response.header("date"))
        return Outcome(verdict="retry", reason=reason, retry_after_seconds=pause)
    return Outcome(verdict="retry", reason=reason)
