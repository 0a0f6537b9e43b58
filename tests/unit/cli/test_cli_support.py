"""`relay support`: the contents of the ticket text, its maximum length, and what it leaves out."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import __version__, build
from relay.cli import run
from relay.cli.node.support import MAX_CHARACTERS, MAX_DELIVERIES, MAX_EVENTS, Case, report
from tests.unit.cli.test_cli_client import Stub, stub
from tests.unit.cli.test_cli_sources import ACCOUNT
from tests.unit.cli.test_delivery_report import DELIVERY, EVENT, JOB, NOW, SUBSCRIPTION, attempt, delivery

__all__ = ["stub"]

UID = "job_01jvpq3m8n0000000000000001"
READY = {
    "status": "unavailable",
    "problems": ["database: nothing can be written"],
    "notes": ["revor/default is down"],
    "checks": {"database": "failing", "api": "running"},
}
EXPLAINED = {
    "sentence": "The job is closed (failed): it is no longer polled.",
    "reason": "closed",
    "waiting_for": None,
    "not_before": None,
    "expected_delay_seconds": None,
    "last_request_id": "req_9",
}
secrets = st.text(st.characters(categories=["Lu", "Ll", "Nd"], max_codepoint=127), min_size=16, max_size=60)


def job(**changes: Any) -> dict[str, Any]:
    made = {
        "uid": UID,
        "id": JOB,
        "source": "revor",
        "account": "default",
        "status": "failed",
        "outcome": "failed",
        "open": False,
        "sequence": 3,
        "metadata": {},
        "priority": "normal",
        "tracked_at": "2026-05-20T09:00:00.000Z",
        "last_polled_at": "2026-05-20T10:00:08.000Z",
        "next_poll_at": None,
        "closed_at": "2026-05-20T10:00:08.000Z",
        "poll_count": 7,
        "last_error": {"code": "unavailable", "message": "503", "request_id": "req_8", "at": None},
        "channel": "email",
        "problem": {"code": "reconnect_required", "message": "…"},
        "upstream": {"state": "failed", "error": "The account is not connected"},
    }
    return {**made, **changes}


def event(number: int = 3, **changes: Any) -> dict[str, Any]:
    made = {
        "id": EVENT,
        "type": "ai.revor.job.failed",
        "subject": JOB,
        "partitionkey": JOB,
        "account": "default",
        "time": "2026-05-20T10:00:08.000Z",
        "sequence": f"{number:010d}",
        "status": "failed",
        "previousstatus": "running",
        "data": {"detected_at": "2026-05-20T10:00:09.000Z", "inferred": False, "request_id": "req_7"},
    }
    return {**made, **changes}


def subscription(sink: str = "https://receiver.example/hooks/relay?…", **changes: Any) -> dict[str, Any]:
    made = {
        "id": SUBSCRIPTION,
        "sink": sink,
        "types": None,
        "source": None,
        "protocol": "HTTP",
        "protocolsettings": {"headers": {"X-Own-Token": "[redacted]"}, "method": "POST"},
        "config": {
            "kind": "webhook",
            "content_mode": "structured",
            "ordering": "job",
            "start": "now",
            "timeout_seconds": 15.0,
            "retry_schedule": [5.0, 300.0],
            "rate_per_second": None,
            "concurrency": None,
        },
        "description": None,
        "state": "disabled",
        "disabled_reason": "http_410",
        "state_since": "2026-05-20T09:00:00.000Z",
        "state_reason": "http_410",
        "failing_since": "2026-05-20T08:00:00.000Z",
        "failing_reason": "http_500",
        "paused_until": None,
        "next_probe_at": None,
        "created_at": "2026-05-19T10:00:00.000Z",
    }
    return {**made, **changes}


def case(**changes: Any) -> Case:
    values: dict[str, Any] = {
        "about": f"job {JOB}",
        "node_version": "0.2.0",
        "readiness": READY,
        "sources": [ACCOUNT],
        "job": job(),
        "explanation": EXPLAINED,
        "events": [event()],
        "deliveries": [delivery(attempt(response_headers={"Server": "nginx", "X-Other": "other"}))],
        "subscriptions": [subscription()],
    }
    return Case(**{**values, **changes})


def serve(stub: Stub) -> None:
    """A relay with one resource of each kind."""
    page = {"next_cursor": None}
    stub.says("GET /openapi.json", {"info": {"version": "0.2.0"}})
    stub.says("GET /readyz", READY, status=503)
    stub.says("GET /v1/sources", {"items": [{**ACCOUNT, "account": "second"}, ACCOUNT], **page})
    for id in (JOB, UID):
        stub.says(f"GET /v1/jobs/{id}", job())
    stub.says(f"GET /v1/jobs/{UID}/explain", EXPLAINED)
    stub.says(f"GET /v1/jobs/{UID}/events", {"items": [event()], **page})
    stub.says(f"GET /v1/events/{EVENT}", event())
    stub.says("GET /v1/deliveries", {"items": [delivery()], **page})
    stub.says(f"GET /v1/deliveries/{DELIVERY}", delivery(attempt(), job_uid=UID))
    stub.says(f"GET /v1/subscriptions/{SUBSCRIPTION}", subscription())


@pytest.mark.parametrize("id", [EVENT, DELIVERY])
def test_published_event_shows_nothing_that_may_be_about_a_person(
    id: str, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    private = "kim@example.com"
    published = event(
        **dict.fromkeys(("id", "subject", "partitionkey", "status", "previousstatus", "sequence"), private),
        type="com.acme.order.paid",
        data={"request_id": private, "metadata": {"email": private}},
    )
    stub.says(f"GET /v1/events/{EVENT}", published)
    stub.says(f"GET /v1/deliveries/{DELIVERY}", delivery(attempt(), job_uid=None))
    serve(stub)  # an answer of before is used first
    assert run(["support", id]) == 0
    out = capsys.readouterr().out
    assert private not in out
    assert f"com.acme.order.paid  {EVENT}" in out


@pytest.mark.parametrize("id", [JOB, UID, EVENT, DELIVERY])
def test_text_has_everything_about_the_id(id: str, stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    serve(stub)
    assert run(["support", id]) == 0
    out = capsys.readouterr().out
    assert id in out.splitlines()[0]
    for what in (
        *(f"node 0.2.0, command {__version__} ({build()}), Python 3.", "/readyz: unavailable"),
        "database: nothing can be written",
        *("note: revor/default is down", "checks: database failing, api running", "source revor/default: state: ok"),
        *(f"JOB {UID}", "status: failed, outcome: failed", "upstream: channel: email, error: reconnect_required"),
        *("last error: code: unavailable", "explained: The job is closed"),
        *("EVENTS (1)", "(running → failed)", "request_id: req_7", "DELIVERIES (1)", f"{DELIVERY}: {EVENT}"),
        *(f"SUBSCRIPTION {SUBSCRIPTION}", "sink: https://receiver.example/…, POST, webhook"),
        "state: disabled, state_since: 2026-05-20T09:00:00.000Z, state_reason: http_410",
        "failing_since: 2026-05-20T08:00:00.000Z, failing_reason: http_500",
        *("retry_schedule: 5 300", "own headers: X-Own-Token"),
        *("time: DNS 2.1 ms, connect 18 ms", "→ HTTP 503 (attempt 1 of 10): tried again in 5 s"),
    ):
        assert what in out, (what, out)
    assert "revor/second" not in out, "another account has nothing to do with it"


def test_unknown_id_is_refused(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("deliveries/dlv_x", "jobs/dlv_x", "jobs/x", "subscriptions/x"):
        stub.says(f"GET /v1/{path}", {"code": "not_found", "detail": "no"}, status=404)
    for id in ("dlv_x", "x"):
        assert run(["support", id]) == 2
        out, err = capsys.readouterr()
        assert (out, err) == ("", f"relay: there is no job, event, delivery or subscription '{id}'\n")


def test_text_is_limited_in_length() -> None:
    long = "x" * 5000
    many = case(
        events=[event(number, type=long) for number in range(MAX_EVENTS)],
        deliveries=[delivery(*(attempt(n, error=long) for n in range(1, 13)))] * MAX_DELIVERIES,
        sources=[ACCOUNT] * 500,
        unknown=[long] * 500,
    )
    lines = report(many, now=NOW)
    assert sum(len(line) + 1 for line in lines) <= MAX_CHARACTERS
    assert lines[-1].startswith("… cut off here, ")
    assert "… 480 more accounts" in lines


def test_text_cannot_control_the_terminal() -> None:
    broken = case(job=job(channel="\x1b[2J\nfaked: line"))
    assert all(line.isprintable() for line in report(broken, now=NOW))


@pytest.mark.parametrize("encoding", ["text", "hex"])
def test_cut_answer_reveals_no_part_of_a_path(encoding: str) -> None:
    path = "/hooks/Zq7fKp2mXw9dLr4vZq7fKp2mXw9dLr4vZq7fKp2mXw9dLr4v"
    said = path * 100
    said = said[:1024] if encoding == "text" else said.encode().hex()[:1024]
    shown = attempt(response_excerpt=said, response_excerpt_encoding=encoding)
    found = subscription(f"https://receiver.example{path}")
    text = "\n".join(report(case(subscriptions=[found], deliveries=[delivery(shown)]), now=NOW))
    assert "[redacted]" in text or b"[redacted]".hex() in text
    assert path[:16] not in text
    assert path[:16].encode().hex() not in text


def test_keys_tokens_and_recipients_are_redacted() -> None:
    leaks = "Bearer Zq7fKp2mXw9dLr4v; sk-revor-Zq7fKp2mXw9dLr4v; whsec_Zq7fKp2mXw9dLr4v; zq7fkp2mxw9dlr4v@example.com"
    planted = case(deliveries=[delivery(attempt(response_excerpt=leaks, error=leaks))], unknown=[f"the job: {leaks}"])
    assert "zq7fkp2mxw9dlr4v" not in "\n".join(report(planted, now=NOW)).lower()


@given(secrets, st.integers(0, 1100))
def test_planted_secrets_never_appear_in_the_text(secret: str, before: int) -> None:
    """Secrets in every field of the API that could hold one."""
    path = f"/hooks/{secret}/in"
    said = f"{'.' * before}Cannot POST {path}; Bearer {secret}; {secret}"[:1024]
    attempts = [
        attempt(response_excerpt=said, response_headers={"Server": f"nginx {path}", "X-Echo": secret}),
        attempt(response_excerpt=said.encode().hex()[:1024], response_excerpt_encoding="hex"),
        attempt(request_headers={"X-Own": secret}, error=f"connect: {path}", status_code=None),
    ]
    found = subscription(
        f"https://user@receiver.example{path}?…",
        description=secret,
        protocolsettings={"headers": {"X-Own": secret}, "method": "POST"},
    )
    upstream = {
        "status": "failed",
        "recipient": {"address": f"{secret}@example.com", "name": secret},
        "result": {"text": secret},
        "error": {"code": "no", "message": secret},
        "channel": {"nested": secret},
    }
    planted = case(
        job=job(
            metadata={"key": secret, secret: 1},
            upstream=upstream,
            last_error={"code": "x", "message": f"token={secret}", "request_id": None, "at": None},
        ),
        events=[event(data={"job": upstream, "metadata": {"a": secret}, "request_id": "req_1"})],
        subscriptions=[found],
        deliveries=[delivery(*attempts)],
        unknown=[f"the job: Authorization: Bearer {secret}"],
    )
    text = "\n".join(report(planted, now=NOW))
    assert secret not in text
    assert secret.encode().hex() not in text
    assert "https://receiver.example/…" in text
