"""`relay verify`: every reason for a failure, from a file and from standard input."""

import io
import json
import sys
from pathlib import Path

import pytest

from relay.cli import run
from relay.core.subscriptions.signing import new_signing_key, public_key_of, sign
from tests.unit.cli.test_cli_client import Stub, stub

__all__ = ["stub"]

SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
OTHER = "whsec_OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk="
AT = 1_780_000_000
BODY = b'{"b":1,"a":"x"}'


def request(
    *,
    body: bytes = BODY,
    sent: bytes | None = None,
    at: object = AT,
    without: str = "",
    signature: str | None = None,
    length: int | None = None,
) -> bytes:
    signed = signature or sign([SECRET], "evt_1", AT, body)
    headers = {"Host": "x", "Webhook-Id": "evt_1", "Webhook-Timestamp": str(at), "Webhook-Signature": signed}
    if length is not None:
        headers["Content-Length"] = str(length)
    lines = [f"{name}: {value}" for name, value in headers.items() if name.lower() != without]
    return ("POST /hook HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode() + (body if sent is None else sent)


@pytest.mark.parametrize(
    ("raw", "secret", "now", "reason"),
    [
        (request(), SECRET, AT, "ok"),
        (request(), SECRET, AT + 299, "ok"),
        (request().replace(b"\r\n", b"\n"), SECRET, AT, "ok"),
        (request().partition(b"\r\n")[2], SECRET, AT, "ok"),
        (request(), SECRET, AT + 301, "old_timestamp"),
        (request(), SECRET, AT - 301, "future_timestamp"),
        (request(), OTHER, AT, "wrong_secret"),
        (request(sent=b'{"b": 1, "a": "x"}'), SECRET, AT, "reserialised_body"),
        (request(sent=b'{"b":1,"a":"y"}'), SECRET, AT, "wrong_secret"),
        (request(length=len(BODY), sent=b'{"b":1,"a":"xy"}'), SECRET, AT, "changed_body"),
        (request(length=len(BODY), sent=b'{"b":1,"a":"xy"}'), SECRET, AT + 301, "changed_body"),
        (request(length=len(BODY)), OTHER, AT, "wrong_secret"),
        (request(without="webhook-id"), SECRET, AT, "missing_header"),
        (request(without="webhook-signature"), SECRET, AT, "missing_header"),
        (request(at="soon"), SECRET, AT, "malformed_timestamp"),
        (request(signature="v1a,abc"), SECRET, AT, "no_v1_signature"),
    ],
)
def test_every_reason_is_reported(
    raw: bytes, secret: str, now: int, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "request.http"
    file.write_bytes(raw)
    arguments = ["verify", "--secret", secret, "--now", str(now), str(file)]
    assert run([*arguments, "--json"]) == (0 if reason == "ok" else 1)
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is (reason == "ok")
    assert answer["reason"] == reason
    assert run(arguments) == (0 if reason == "ok" else 1)
    assert answer["detail"] in capsys.readouterr().out


def test_standard_input_and_other_times_are_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    def judged(*arguments: str) -> int:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(request())))
        return run(["verify", "--secret", SECRET, *arguments])

    assert judged("--now", "2026-05-28T20:26:40Z") == 0
    assert judged("--now", str(AT + 400), "--tolerance", "500", "-") == 0
    assert judged("--now", "yesterday") == 2


def test_invalid_secret_is_not_echoed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "request.http"
    file.write_bytes(request())
    assert run(["verify", "--secret", "hunter2hunter2", str(file)]) == 2
    err = capsys.readouterr().err
    assert "whsec_" in err
    assert "hunter2" not in err


def test_secret_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "request.txt").write_bytes(request())
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    assert run(["verify", str(tmp_path / "request.txt"), "--now", str(AT)]) == 0
    monkeypatch.setenv("WEBHOOK_SECRET", OTHER)
    assert run(["verify", str(tmp_path / "request.txt"), "--now", str(AT)]) == 1


# --- public keys

PRIVATE, OTHER_PRIVATE = new_signing_key(bytes(32)), new_signing_key(bytes(range(32)))


@pytest.mark.parametrize(
    ("private", "now", "reason"),
    [(PRIVATE, AT, "ok"), (OTHER_PRIVATE, AT, "wrong_key"), (PRIVATE, AT + 301, "old_timestamp")],
)
def test_a_public_key_verifies_v1a(
    private: str, now: int, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "request.http"
    file.write_bytes(request(signature=sign([SECRET, private], "evt_1", AT, BODY)))
    public = public_key_of(PRIVATE)
    assert run(["verify", "--secret", public, "--now", str(now), "--json", str(file)]) == (0 if reason == "ok" else 1)
    assert json.loads(capsys.readouterr().out)["reason"] == reason
    assert run(["verify", "--secret", PRIVATE, str(file)]) == 2
    err = capsys.readouterr().err
    assert "is a private key" in err
    assert PRIVATE.removeprefix("whsk_") not in err


@pytest.mark.parametrize("end", ["", "/", "/.well-known/webhook-keys.json"])
@pytest.mark.parametrize(
    ("signature", "now", "reason"),
    [
        (sign([PRIVATE], "evt_1", AT, BODY), AT, "ok"),
        (sign([OTHER_PRIVATE], "evt_1", AT, BODY), AT, "ok"),
        (sign([OTHER_PRIVATE], "evt_1", AT, BODY), AT + 301, "old_timestamp"),
        (sign([OTHER_PRIVATE], "evt_1", AT, BODY + b" "), AT, "wrong_key"),
        (sign([SECRET], "evt_1", AT, BODY), AT, "no_v1a_signature"),
    ],
)
def test_public_keys_are_fetched_from_a_relay(
    stub: Stub, end: str, signature: str, now: int, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [{"public_key": public_key_of(private)} for private in (PRIVATE, OTHER_PRIVATE)]
    stub.says("GET /.well-known/webhook-keys.json", {"keys": keys})
    file = tmp_path / "request.http"
    file.write_bytes(request(signature=signature))
    arguments = ["verify", "--relay", stub.url + end, "--now", str(now), "--json", str(file)]
    assert run(arguments) == (0 if reason == "ok" else 1)
    assert json.loads(capsys.readouterr().out)["reason"] == reason
    assert "authorization" not in stub.seen[0][1]
