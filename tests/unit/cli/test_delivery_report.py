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
        f"      for a ticket:    relay doctor --bundle ticket.txt --about {DELIVERY}",
    ]


ACCEPTED, FAILED, NOT_ASKED = attempt(status_code=200), attempt(), attempt(status_code=None)
NEXT_COMMANDS = [
    ({"state": "delivered"}, [ACCEPTED], "enabled", f"deliveries retry {DELIVERY}"),
    ({"state": "dead"}, [FAILED], "enabled", f"deliveries retry --state dead --subscription {SUBSCRIPTION}"),
    ({"state": "cancelled", "reason": "subscription_removed"}, [], None, f"--about {DELIVERY}"),
    ({"state": "uncertain", "reason": "not_found_in_time"}, [FAILED], "enabled", "--fate not_sent"),
    ({"state": "uncertain", "reason": "http_503"}, [FAILED], None, f"deliveries resolve {DELIVERY} --fate sent"),
    ({"state": "cancelled", "reason": "unmatched"}, [ACCEPTED], "enabled", "--state cancelled --reason unmatched"),
    ({"state": "cancelled", "reason": "unmatched", "job_uid": "job_1"}, [NOT_ASKED], "enabled", "jobs show job_1"),
    ({"state": "cancelled", "reason": "ambiguous"}, [ACCEPTED], "enabled", f"deliveries retry {DELIVERY}"),
    ({"state": "delivered", "reason": "dry_run"}, [NOT_ASKED], "enabled", f"deliveries retry {DELIVERY}"),
    ({"waiting_for": "dlv_before", "next_attempt_at": None}, [], "enabled", "deliveries show dlv_before"),
    ({}, [FAILED], "disabled", f"subscriptions resume {SUBSCRIPTION}"),
    ({}, [FAILED], "enabled", f"deliveries retry {DELIVERY}"),
    ({"next_attempt_at": None}, [], "enabled", f"--about {DELIVERY}"),
]


@pytest.mark.parametrize(("changes", "attempts", "standing", "command"), NEXT_COMMANDS)
def test_report_names_the_next_command(
    changes: dict[str, Any], attempts: list[dict[str, Any]], standing: str | None, command: str
) -> None:
    to = subscription(standing, "http_410") if standing else None
    lines = describe_delivery(delivery(*attempts, **changes), None, to, now=NOW)
    assert any(command in line for line in lines[3:]), lines
    assert f"event {EVENT}, which was deleted" in lines[2]


@pytest.mark.parametrize(
    ("next_at", "then"),
    [
        ("2026-05-20T10:00:08.000Z", "attempt 1 is due now."),
        ("2026-05-20T10:06:05.000Z", "attempt 1 is in progress, or starts within 45 s."),
        (None, "it is sent as soon as a slot is free."),
    ],
)
def test_report_says_when_the_next_attempt_is(next_at: str | None, then: str) -> None:
    lines = describe_delivery(delivery(next_attempt_at=next_at), None, subscription(), now=NOW)
    assert f"Next  {then}" in lines


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
def test_command_resolves_an_uncertain_delivery(
    stub: Stub, capsys: pytest.CaptureFixture[str], fate: str, then: str
) -> None:
    stub.says("POST /v1/deliveries/dlv_1/settle", delivery(attempt(), state="delivered"))
    assert run(["deliveries", "resolve", "dlv_1", "--fate", fate]) == 0
    assert json.loads(stub.seen[-1][2]) == {"fate": fate}
    assert capsys.readouterr().out == f"dlv_1 is resolved as {fate}: it {then}\n"
