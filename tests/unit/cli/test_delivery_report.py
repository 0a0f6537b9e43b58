"""`relay deliveries show`: the explanation of a delivery, also on narrow terminals."""

import json
from typing import Any

import pytest

from relay.cli import run
from relay.cli.deliveries.report import (
    attempt_lines,
    describe_delivery,
)
from relay.clock import from_rfc3339
from relay.core.deliveries.causes import LIKELY_CAUSES
from tests.unit.cli.test_cli_client import Stub, stub

__all__ = ["stub"]

NOW = from_rfc3339("2026-05-20T10:05:20Z")
DELIVERY, EVENT, SUBSCRIPTION = (f"{kind}_01jvpq3m8n000000000000000{n}" for n, kind in enumerate(("dlv", "evt", "sub")))
JOB = "7d9f3c52-1f0e-4b58-9a3e-2b7f6f0a9c11"


def attempt(number: int = 1, **changes: Any) -> dict[str, Any]:
    made = {
        "number": number,
        "started_at": "2026-05-20T10:00:08.123Z",
        "duration_ms": 84.2,
        "status_code": 503,
        "error": None,
        "timings": {"dns_ms": 2.14, "connect_ms": 18.44, "tls_ms": 21.3, "first_byte_ms": 41.0},
        "decision": f"HTTP 503 (attempt {number} of 10): tried again in 5 s",
        "next_attempt_at": "2026-05-20T10:00:13.000Z",
        "request_headers": {},
        "response_headers": {},
        "response_excerpt": "upstream is restarting,\n please come back in a few minutes",
        "response_excerpt_encoding": "text",
        "remote_ip": "192.0.2.1",
    }
    return {**made, **changes}


def without_answer(error: str, **timings: float) -> dict[str, Any]:
    times = {**dict.fromkeys(("dns_ms", "connect_ms", "tls_ms", "first_byte_ms")), **timings}
    return attempt(status_code=None, error=error, timings=times, response_excerpt=None, response_excerpt_encoding=None)


def delivery(*attempts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made = {
        "id": DELIVERY,
        "event_id": EVENT,
        "event_type": "ai.revor.job.failed",
        "subscription_id": SUBSCRIPTION,
        "job_uid": "job_1",
        "state": "pending",
        "attempt_count": len(attempts),
        "next_attempt_at": "2026-05-20T10:35:13.000Z",
        "waiting_for": None,
        "reason": None,
        "created_at": "2026-05-20T10:00:08.000Z",
        "ended_at": None,
        "attempts": list(attempts),
    }
    return {**made, **changes}


def subscription(state: str = "enabled", reason: str | None = None, next_probe_at: str | None = None) -> dict[str, Any]:
    sink = "https://receiver.example/hooks/relay?…"
    return {
        "id": SUBSCRIPTION,
        "sink": sink,
        "state": state,
        "disabled_reason": reason,
        "next_probe_at": next_probe_at,
        "config": {"kind": "webhook"},
    }


EVENT_SEEN = {"id": EVENT, "time": "2026-05-20T10:00:08.000Z", "subject": JOB, "sequence": "0000000003"}


def report_lines(of: dict[str, Any], to: dict[str, Any] | None = None, width: int | None = None) -> list[str]:
    return describe_delivery(of, EVENT_SEEN, subscription() if to is None else to, now=NOW, width=width)


def test_report_of_a_failing_delivery() -> None:
    second = attempt(2, timings={"dns_ms": None, "connect_ms": None, "tls_ms": None, "first_byte_ms": 84.0})
    last = {**without_answer("timeout: no answer within 15 s", first_byte_ms=15000.0), "number": 3}
    last["decision"] = "timeout (attempt 3 of 10): tried again in 30 min"
    last["next_attempt_at"] = "2026-05-20T10:35:13.000Z"
    assert report_lines(delivery(attempt(), second, last)) == [
        f"{DELIVERY} is 5 min old and not delivered yet: 3 attempts failed.",
        "",
        f"What  ai.revor.job.failed, event 3 of job {JOB}, at 2026-05-20 10:00:08 UTC: {EVENT}",
        f"To    https://receiver.example/hooks/relay?… (webhook, enabled): {SUBSCRIPTION}",
        "",
        "#1    2026-05-20 10:00:08.123 UTC: HTTP 503 after 84 ms, from 192.0.2.1",
        "      time: DNS 2.1 ms, connect 18 ms, TLS 21 ms, first byte 41 ms, rest 1.3 ms",
        "      answer: “upstream is restarting, please come back in a few minutes”",
        "      → HTTP 503 (attempt 1 of 10): tried again in 5 s, at 10:00:13 UTC",
        "#2    2026-05-20 10:00:08.123 UTC: HTTP 503 after 84 ms, from 192.0.2.1",
        "      time: first byte 84 ms (reused connection)",
        "      answer: the same",
        "      → HTTP 503 (attempt 2 of 10): tried again in 5 s, at 10:00:13 UTC",
        "#3    2026-05-20 10:00:08.123 UTC: timeout: no answer within 15 s after 84 ms, to 192.0.2.1",
        "      time: first byte 15 s (reused connection)",
        "      → timeout (attempt 3 of 10): tried again in 30 min, at 10:35:13 UTC",
        "",
        f"Why   {LIKELY_CAUSES['timeout']}",
        "Next  attempt 4 in 30 min, at 2026-05-20 10:35:13 UTC.",
        f"Do    try it now:      relay deliveries retry {DELIVERY}",
        f"      send a sample:   relay subscriptions test {SUBSCRIPTION}",
        f"      for a ticket:    relay support {DELIVERY}",
    ]


@pytest.mark.parametrize(
    ("seen", "to", "first", "then", "command"),
    [
        (
            delivery(attempt(status_code=200), state="delivered", ended_at="2026-05-20T10:00:09.000Z"),
            subscription(),
            "was delivered at 2026-05-20 10:00:09 UTC, after 1 attempt.",
            "nothing. The sink accepted it.",
            f"send it again:   relay deliveries retry {DELIVERY}",
        ),
        (
            delivery(attempt(), state="dead", reason="http_503", ended_at="2026-05-24T10:00:09.000Z"),
            subscription(),
            "was given up at 2026-05-24 10:00:09 UTC, after 1 attempt: HTTP 503.",
            "nothing, unless you send it again. Later events of the job continue without it.",
            f"all dead ones:   relay deliveries retry --state dead --subscription {SUBSCRIPTION}",
        ),
        (
            delivery(state="cancelled", reason="subscription_removed"),
            None,
            "was cancelled, after 0 attempts: subscription_removed.",
            "nothing, unless you send it again. Later events of the job continue without it.",
            f"for a ticket:    relay support {DELIVERY}",
        ),
        (
            delivery(attempt(), state="uncertain", reason="not_found_in_time", ended_at="2026-05-20T10:05:09.000Z"),
            subscription(),
            "may or may not have been written at 2026-05-20 10:05:09 UTC, after 1 attempt: it is "
            "not among the newest ones, and there are too many to read.",
            f"nothing, until a person settles it. Look in the CRM whether a record names {EVENT}, and settle it. "
            "On which record: `relay events list --type relay.delivery.uncertain --json`. Later events of the "
            "job continue without it.",
            f"it is not:       relay deliveries settle {DELIVERY} --fate not_sent",
        ),
        (
            delivery(attempt(), state="uncertain", reason="http_503"),
            None,
            "may or may not have been written, after 1 attempt: HTTP 503.",
            f"nothing, until a person settles it. Look in the CRM whether a record names {EVENT}, and settle it. "
            "On which record: `relay events list --type relay.delivery.uncertain --json`. Later events of the "
            "job continue without it.",
            f"it is there:     relay deliveries settle {DELIVERY} --fate sent",
        ),
        (
            delivery(attempt(status_code=200), state="cancelled", reason="unmatched"),
            subscription(),
            "was skipped, after 1 attempt: no contact in the CRM matches.",
            "nothing, unless you correct the contact in the CRM and send it again.",
            "all skipped:     relay deliveries retry --state cancelled --reason unmatched "
            f"--subscription {SUBSCRIPTION}",
        ),
        (
            delivery(attempt(status_code=None), state="cancelled", reason="unmatched", job_uid="job_1"),
            subscription(),
            "was skipped, after 1 attempt: its job names no person whom the CRM can look for.",
            "nothing. Give jobs metadata that do, such as deal_id, contact_id or email, or keep recipients "
            "(proxy.capture). Metadata of this job: relay jobs show job_1",
            f"send it again:   relay deliveries retry {DELIVERY}",
        ),
        (
            delivery(attempt(status_code=200), state="cancelled", reason="ambiguous"),
            subscription(),
            "was skipped, after 1 attempt: more than one in the CRM match.",
            "nothing, unless you correct the contact in the CRM and send it again.",
            f"send it again:   relay deliveries retry {DELIVERY}",
        ),
        (
            delivery(attempt(status_code=None), state="delivered", reason="dry_run"),
            subscription(),
            "was not sent: its subscription has config.dry_run, after 1 attempt.",
            "nothing. Switched off, config.dry_run sends new events only.",
            f"send it again:   relay deliveries retry {DELIVERY}",
        ),
        (
            delivery(attempt(), state="delivered", reason="settled"),
            subscription(),
            "counts as delivered, because a person said so, after 1 attempt.",
            "nothing. The sink accepted it.",
            f"send it again:   relay deliveries retry {DELIVERY}",
        ),
        (
            delivery(next_attempt_at=None, waiting_for="dlv_before"),
            subscription(),
            "has waited 5 min for an earlier event of its job.",
            "it is sent after dlv_before, because events of one job are sent in order.",
            "show that one:   relay deliveries show dlv_before",
        ),
        (
            delivery(attempt(status_code=410)),
            subscription("disabled", "http_410"),
            "has waited 5 min: its subscription is disabled.",
            "it is kept while the subscription is disabled, and sent when you resume.",
            f"resume sending:  relay subscriptions resume {SUBSCRIPTION}",
        ),
        (
            delivery(attempt(status_code=500)),
            subscription("disabled", "only failures for 432000 s", "2026-05-20T10:30:00.000Z"),
            "has waited 5 min: its subscription is disabled.",
            "it is kept while the subscription is disabled, and sent when you resume or a probe with the oldest event "
            "succeeds. Next probe: at 2026-05-20 10:30:00 UTC.",
            f"resume sending:  relay subscriptions resume {SUBSCRIPTION}",
        ),
        (
            delivery(attempt(status_code=500)),
            subscription("disabled", "only failures for 432000 s", "2026-05-20T10:00:09.000Z"),
            "has waited 5 min: its subscription is disabled.",
            "it is kept while the subscription is disabled, and sent when you resume or a probe with the oldest event "
            "succeeds. Next probe: now.",
            f"resume sending:  relay subscriptions resume {SUBSCRIPTION}",
        ),
        (
            delivery(next_attempt_at="2026-05-20T10:00:08.000Z"),
            subscription(),
            "is 5 min old and not delivered yet.",
            "attempt 1 is due now.",
            f"for a ticket:    relay support {DELIVERY}",
        ),
        (
            delivery(attempt(), next_attempt_at="2026-05-20T10:06:05.000Z"),
            subscription(),
            "is 5 min old and not delivered yet: 1 attempt failed.",
            "attempt 2 is in progress, or starts within 45 s.",
            f"try it now:      relay deliveries retry {DELIVERY}",
        ),
        (
            delivery(next_attempt_at=None),
            subscription(),
            "is 5 min old and not delivered yet.",
            "it is sent as soon as a slot is free.",
            f"for a ticket:    relay support {DELIVERY}",
        ),
    ],
)
def test_report_shows_state_next_step_and_commands(
    seen: dict[str, Any], to: dict[str, Any] | None, first: str, then: str, command: str
) -> None:
    lines = describe_delivery(seen, None, to, now=NOW)
    assert lines[0] == f"{DELIVERY} {first}"
    assert f"Next  {then}" in lines
    assert any(line[6:] == command for line in lines), lines
    assert f"event {EVENT}, which was deleted" in lines[2]


def test_answer_cannot_control_the_terminal() -> None:
    assert not any("\x1b" in line for line in attempt_lines([attempt(response_excerpt="\x1b[2Jgone")], width=80))


def test_command_reads_the_event_and_the_subscription(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says(f"GET /v1/deliveries/{DELIVERY}", delivery(attempt()))
    stub.says(f"GET /v1/events/{EVENT}", {"code": "event_not_found", "detail": "no"}, status=404)
    stub.says(f"GET /v1/subscriptions/{SUBSCRIPTION}", subscription())
    assert run(["deliveries", "show", DELIVERY]) == 0
    out = capsys.readouterr().out
    assert "which was deleted" in out
    assert "https://receiver.example/hooks/relay?…" in out
    assert run(["deliveries", "show", DELIVERY, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == delivery(attempt())
    stub.says("GET /v1/deliveries/dlv_2", {"code": "delivery_not_found", "detail": "there is no delivery"}, status=404)
    assert run(["deliveries", "show", "dlv_2"]) == 2
    assert capsys.readouterr().err == "relay: there is no delivery\n"


@pytest.mark.parametrize(("fate", "then"), [("sent", "is delivered"), ("not_sent", "is pending again")])
def test_command_settles_an_uncertain_delivery(
    stub: Stub, capsys: pytest.CaptureFixture[str], fate: str, then: str
) -> None:
    stub.says("POST /v1/deliveries/dlv_1/settle", delivery(attempt(), state="delivered"))
    assert run(["deliveries", "settle", "dlv_1", "--fate", fate]) == 0
    assert json.loads(stub.seen[-1][2]) == {"fate": fate}
    assert capsys.readouterr().out == f"dlv_1 is settled as {fate}: it {then}\n"
