"""Explains a delivery to a person: turns the API's documents into lines of text. Pure."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from relay.cli.output import clean
from relay.clock import from_rfc3339, in_words, short_time
from relay.core.deliveries.causes import likely_cause
from relay.core.deliveries.ledger import DOUBTS

Document = Mapping[str, Any]

FIRST_ATTEMPTS, LAST_ATTEMPTS = 2, 10
"""With many attempts, only the first and last are shown."""
MAX_EXCERPT_CHARACTERS = 400
LABEL_WIDTH = 6
PARTS = (("dns_ms", "DNS"), ("connect_ms", "connect"), ("tls_ms", "TLS"), ("first_byte_ms", "first byte"))
SKIPPED = {"unmatched": "no contact in the CRM matches", "ambiguous": "more than one in the CRM match"}
"""Reasons of a delivery that was skipped."""
NAMES_NO_PERSON = "its job names no person whom the CRM can look for"
DELIVERED = {
    "dry_run": "was not sent: its subscription has config.dry_run",
    "settled": "counts as delivered, because a person marked it as delivered",
    "already_written": "was delivered by an earlier attempt, as the sink says",
}
"""Reasons of a delivery that was not delivered by its last attempt."""


def describe_delivery(
    delivery: Document, event: Document | None, subscription: Document | None, *, now: float, width: int | None = None
) -> list[str]:
    """The lines of `relay deliveries show`, wrapped to `width` if given. `event` and `subscription` are None if they
    were deleted."""
    attempts: Sequence[Document] = delivery.get("attempts") or ()
    lines = wrapped(f"{delivery['id']} {_state(delivery, subscription, now)}.", width)
    lines.append("")
    lines += _labelled("What", " ".join(_about_event(delivery, event)), width)
    lines += _labelled("To", _about_sink(delivery, subscription), width)
    lines.append("")
    if attempts:
        lines += [*attempt_lines(attempts, width=width), ""]
    ended_well = delivery["state"] in ("delivered", "uncertain") or _is_skipped(delivery)
    cause = likely_cause(attempts[-1]) if attempts and not ended_well else None
    if cause is not None:
        lines += _labelled("Why", cause, width)
    lines += _labelled("Next", _next(delivery, subscription, now), width)
    for place, (does, command) in enumerate(_commands(delivery, subscription)):
        # not wrapped, so that it can be copied
        lines.append(f"{'' if place else 'Do':<{LABEL_WIDTH}}{f'{does}:':<17}{command}")
    return lines


def attempt_lines(attempts: Sequence[Document], *, width: int | None = None) -> list[str]:
    """The attempts: start, duration, timings, answer and decision of each."""
    lines: list[str] = []
    left_out = len(attempts) - FIRST_ATTEMPTS - LAST_ATTEMPTS
    shown: Document | None = None
    for place, attempt in enumerate(attempts):
        if left_out > 0 and FIRST_ATTEMPTS <= place < FIRST_ATTEMPTS + left_out:
            if place == FIRST_ATTEMPTS:
                lines += _labelled("", f"… {left_out} more attempts, see --json …", width)
            continue
        lines += _labelled(f"#{attempt['number']}", _headline(attempt), width)
        for line in _details(attempt, shown):
            lines += _labelled("", line, width)
        shown = attempt
    return lines


def _headline(attempt: Document) -> str:
    status, address, started = attempt.get("status_code"), attempt.get("remote_ip"), attempt["started_at"]
    if attempt.get("requests") is not None:
        return f"{started[:10]} {started[11:23]} UTC: a dry run"
    if status is None and not attempt.get("error") and _message(attempt):
        by = f", by {address}" if address else ""
        return f"{started[:10]} {started[11:23]} UTC: acknowledged after {duration(attempt['duration_ms'])}{by}"
    if status is None and not attempt.get("error"):
        hidden = attempt.get("request_headers", {}) is None
        what = f"no HTTP status, after {duration(attempt['duration_ms'])}" if hidden else "nothing was sent"
        return f"{started[:10]} {started[11:23]} UTC: {what}"
    result = attempt.get("error") if status is None else f"HTTP {status}"
    where = f", {'to' if status is None else 'from'} {address}" if address else ""
    return f"{started[:10]} {started[11:23]} UTC: {result} after {duration(attempt['duration_ms'])}{where}"


def _details(attempt: Document, before: Document | None) -> Iterator[str]:
    parts = time_parts(attempt)
    if parts:
        yield f"time: {parts}"
    message = _message(attempt)
    if message:
        yield f"message: {message}"
    excerpt = attempt.get("response_excerpt")
    if attempt.get("response_headers", {}) is None and attempt.get("status_code") is not None:
        yield "answer: shown to tokens that may change the subscription (subscriptions:write)"
    if excerpt:
        cut = _cut(excerpt)
        shown = f"(hex) {cut}" if attempt.get("response_excerpt_encoding") == "hex" else f"“{' '.join(cut.split())}”"
        same = before is not None and before.get("response_excerpt") == excerpt
        yield "answer: the same" if same else f"answer: {shown}"
    for number, request in enumerate(attempt.get("requests") or (), start=1):
        yield f"{number:>2}  {request['method']:<6}  {request['url']}"
        if request.get("body"):
            yield f"    {_cut(' '.join(request['body'].split()))}"
    if attempt.get("decision"):
        planned = attempt.get("next_attempt_at")
        started = from_rfc3339(attempt["started_at"])
        yield f"→ {attempt['decision']}" + (f", at {short_time(from_rfc3339(planned), started)}" if planned else "")


def _message(attempt: Document) -> str:
    """The broker's place and id of a message. Empty if it was no message."""
    headers = attempt.get("request_headers") or {}
    if "destination" not in headers:
        return ""
    key = f", partitioned by {headers['partitioned-by']}" if "partitioned-by" in headers else ""
    return f"{headers.get('message-id')} to {headers['destination']}{key}"


def _cut(text: str) -> str:
    return text[:MAX_EXCERPT_CHARACTERS] + ("…" if len(text) > MAX_EXCERPT_CHARACTERS else "")


def time_parts(attempt: Document) -> str:
    """The timings of an attempt in words. Empty if nothing was measured."""
    timings = attempt.get("timings") or {}
    parts = [(label, timings[name]) for name, label in PARTS if timings.get(name) is not None]
    if not parts:
        return ""
    rest = attempt["duration_ms"] - sum(took for _, took in parts)
    parts_in_words = [f"{label} {duration(took)}" for label, took in parts]
    if rest >= 1:
        parts_in_words.append(f"rest {duration(rest)}")
    reused = timings.get("connect_ms") is None and timings.get("first_byte_ms") is not None
    return ", ".join(parts_in_words) + (" (reused connection)" if reused else "")


def duration(milliseconds: float) -> str:
    """A short duration in words: `0.4 ms`, `84 ms`, `1.2 s`."""
    if milliseconds < 9.95:
        return f"{max(milliseconds, 0.1):.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 999.5 else in_words(milliseconds / 1000)


def moment(text: str) -> str:
    """A time of the API in words: `2026-05-20 10:00:08 UTC`."""
    return f"{text[:10]} {text[11:19]} UTC"


def _state(delivery: Document, subscription: Document | None, now: float) -> str:
    state, count = delivery["state"], delivery["attempt_count"]
    reason = str(delivery.get("reason") or "").replace("http_", "HTTP ")
    age = in_words(now - from_rfc3339(delivery["created_at"]))
    tries = "1 attempt" if count == 1 else f"{count} attempts"
    ended = f" at {moment(delivery['ended_at'])}" if delivery.get("ended_at") else ""
    if state == "delivered":
        return f"{DELIVERED.get(reason, 'was delivered')}{ended}, after {tries}"
    if state == "uncertain":
        return f"may or may not have been written{ended}, after {tries}: {DOUBTS.get(reason, reason)}"
    if _is_skipped(delivery):
        return (
            f"was skipped{ended}, after {tries}: {NAMES_NO_PERSON if _names_no_person(delivery) else SKIPPED[reason]}"
        )
    if state == "dead":
        return f"was given up{ended}, after {tries}" + (f": {reason}" if reason else "")
    if state == "cancelled":
        return f"was cancelled{ended}, after {tries}" + (f": {reason}" if reason else "")
    if delivery.get("waiting_for"):
        return f"has waited {age} for an earlier event of its {_order(delivery)}"
    if subscription is not None and subscription["state"] != "enabled":
        return f"has waited {age}: its subscription is {subscription['state']}"
    return f"is {age} old and not delivered yet: {tries} failed" if count else f"is {age} old and not delivered yet"


def _order(delivery: Document) -> str:
    """The key that keeps the order of the delivery's event."""
    return "partition key" if delivery["job_uid"] is None else "job"


def _is_skipped(delivery: Document) -> bool:
    return delivery["state"] == "cancelled" and delivery.get("reason") in SKIPPED


def _names_no_person(delivery: Document) -> bool:
    """True if it was skipped and the CRM was not even asked."""
    last = (delivery.get("attempts") or ({"error": "unknown"},))[-1]
    return _is_skipped(delivery) and last.get("status_code") is None and not last.get("error")


def _about_event(delivery: Document, event: Document | None) -> Iterator[str]:
    yield f"{delivery['event_type']},"
    if event is None:
        yield f"event {delivery['event_id']}, which was deleted"
        return
    sequence = str(event.get("sequence") or "").lstrip("0")
    if sequence and delivery["job_uid"] is not None:
        yield f"event {sequence} of job {event.get('subject')},"
    elif event.get("subject"):
        yield f"about {event['subject']},"
    at = f"at {moment(event['time'])}: " if event.get("time") else ""
    yield f"{at}{delivery['event_id']}"


def _about_sink(delivery: Document, subscription: Document | None) -> str:
    if subscription is None:
        return f"subscription {delivery['subscription_id']}, which was removed"
    reason = subscription.get("disabled_reason")
    state = subscription["state"] + (f": {reason}" if reason else "")
    sink = subscription["sink"] or "a program that asks"
    return f"{sink} ({subscription['config']['kind']}, {state}): {subscription['id']}"


def _next(delivery: Document, subscription: Document | None, now: float) -> str:
    if delivery["state"] == "delivered" and delivery.get("reason") == "dry_run":
        return "nothing. Switched off, config.dry_run sends new events only."
    if delivery["state"] == "delivered":
        return "nothing. The sink accepted it."
    if delivery["state"] == "uncertain":
        what = f"Look in the CRM whether a record names {delivery['event_id']}, and settle it."
        where = "On which record: `relay events list --type relay.delivery.uncertain --json`."
        return f"nothing, until a person settles it. {what} {where} Later events of the job continue without it."
    if _names_no_person(delivery):
        names = "Give jobs metadata that do, such as deal_id, contact_id or email, or keep recipients (proxy.capture)."
        return f"nothing. {names} Metadata of this job: relay jobs show {delivery['job_uid']}"
    if _is_skipped(delivery):
        return "nothing, unless you correct the contact in the CRM and send it again."
    if delivery["state"] != "pending":
        return f"nothing, unless you send it again. Later events of the {_order(delivery)} continue without it."
    if subscription is not None and subscription["state"] != "enabled":
        kept = f"it is kept while the subscription is {subscription['state']}, and sent"
        probe = subscription.get("next_probe_at")
        if probe is None:
            return f"{kept} when you resume."
        probed = f"at {moment(probe)}" if from_rfc3339(probe) > now else "now"
        return f"{kept} when you resume or a probe with the oldest event succeeds. Next probe: {probed}."
    if delivery.get("waiting_for"):
        return (
            f"it is sent after {delivery['waiting_for']}, because events of one {_order(delivery)} are sent in order."
        )
    if delivery.get("next_attempt_at") is None:
        return "it is sent as soon as a slot is free."
    attempts = delivery.get("attempts") or ()
    planned = attempts[-1].get("next_attempt_at") if attempts else delivery["created_at"]
    due = from_rfc3339(delivery["next_attempt_at"])
    number = delivery["attempt_count"] + 1
    if due <= now:
        return f"attempt {number} is due now."
    if planned is not None and from_rfc3339(planned) <= now:
        return f"attempt {number} is in progress, or starts within {in_words(due - now)}."
    return f"attempt {number} in {in_words(due - now)}, at {moment(delivery['next_attempt_at'])}."


def _commands(delivery: Document, subscription: Document | None) -> Iterator[tuple[str, str]]:
    """The possible actions, and the command for each."""
    id, sink, state, failed = (delivery[name] for name in ("id", "subscription_id", "state", "attempt_count"))
    if state == "uncertain":
        yield "it is there", f"relay deliveries resolve {id} --fate sent"
    if subscription is None:
        pass  # no sink to send it to
    elif state == "pending" and subscription["state"] in ("paused", "disabled"):
        yield "resume sending", f"relay subscriptions resume {sink}"
    elif state == "pending" and delivery.get("waiting_for"):
        yield "show that one", f"relay deliveries show {delivery['waiting_for']}"
    elif state == "pending" and failed:
        yield "try it now", f"relay deliveries retry {id}"
    elif state == "uncertain":
        yield "it is not", f"relay deliveries resolve {id} --fate not_sent"
        yield "ask the CRM", f"relay deliveries retry {id}"
    elif state != "pending":
        yield "send it again", f"relay deliveries retry {id}"
    if subscription is not None and failed and state in ("pending", "dead"):
        yield "send a sample", f"relay subscriptions test {sink}"
    if subscription is not None and _is_skipped(delivery):
        reason = delivery["reason"]
        yield "all skipped", f"relay deliveries retry --state cancelled --reason {reason} --subscription {sink}"
    if subscription is not None and state == "dead":
        yield "all dead ones", f"relay deliveries retry --state dead --subscription {sink}"
    yield "for a ticket", f"relay doctor --bundle ticket.txt --about {id}"


def wrapped(text: str, width: int | None, *, first: str = "", later: str = "") -> list[str]:
    """Wraps a text between words and indents it with `first`, then `later`. Never breaks ids and URLs."""
    text = clean(text)
    if width is None:
        return [first + text]
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=later, **options)


def _labelled(label: str, text: str, width: int | None) -> list[str]:
    return wrapped(text, width, first=f"{label:<{LABEL_WIDTH}}", later=" " * LABEL_WIDTH)
