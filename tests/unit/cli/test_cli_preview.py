from typing import Any

import orjson
import pytest

from relay.cli import run
from relay.cli.client import Api

EVENT = {"id": "evt_1", "type": "ai.revor.job.failed", "time": "2026-05-20T10:00:00.000Z", "subject": "job\x1b[2J"}
REQUEST = {
    "method": "POST", "url": "https://one.example/…", "headers": {"webhook-signature": "[redacted]"},
    "body": '{"deal":42,"text":"\u202eabc"}',
}  # fmt: skip
RECENT = {
    "days": 7,
    "since": "2026-05-13T10:00:00.000Z",
    "seen": 1204,
    "matched": 83,
    "cut": False,
    "examples": [EVENT],
}
SHOWN = {"matches": True, "event": EVENT, "requests": [REQUEST], "recent": RECENT}


class Calls(list[Any]):
    answer: Any = SHOWN


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    made = Calls()
    monkeypatch.setenv("RELAY_URL", "http://relay.example")

    def post(self: Api, path: str, body: Any, **_: Any) -> Any:
        made.append((path, body))
        return made.answer

    monkeypatch.setattr(Api, "post", post)
    return made


def test_request_and_count_are_printed(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["subscriptions", "preview", "crm", "--type", "failed", "--metadata", '{"deal": 42}']) == 0
    assert calls == [
        (
            "/v1/subscriptions/preview",
            {"subscription": "crm", "type": "failed", "metadata": {"deal": 42}},
        )
    ]
    assert capsys.readouterr().out.splitlines() == [
        "ai.revor.job.failed (evt_1): it gets this event",
        "",
        "POST https://one.example/…",
        "webhook-signature: [redacted]",
        "",
        "{",
        '  "deal": 42,',
        '  "text": "\\u202eabc"',
        "}",
        "",
        "It would have got 83 of 1,204 events of the last 7 days.",
        "ID\tTYPE\tTIME\tSUBJECT",
        "evt_1\tai.revor.job.failed\t2026-05-20T10:00:00.000Z\tjob [2J",
    ]


def test_a_url_takes_the_options_of_add(calls: Calls) -> None:
    options = ["--types", "failed", "--header", "X-Team: sales", "--rate", "2", "--event", "evt_1"]
    assert run(["subscriptions", "preview", "https://one.example/hook", *options]) == 0
    (_, body) = calls[0]
    assert body == {
        "subscription": {
            "sink": "https://one.example/hook", "types": ["failed"],
            "protocolsettings": {"headers": {"X-Team": "sales"}}, "config": {"rate_per_second": 2.0},
        },
        "event_id": "evt_1",
    }  # fmt: skip


def test_an_event_that_it_does_not_get_has_a_reason_and_exit_code_1(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    recent = {**RECENT, "cut": True, "examples": [], "matched": 0}
    calls.answer = {**SHOWN, "matches": False, "why": "its source is another", "requests": [], "recent": recent}
    assert run(["subscriptions", "preview", "crm"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "ai.revor.job.failed (evt_1): it does not get this event",
        "because its source is another",
        "This is a sample: change its metadata with --metadata, or take a recorded event with --event",
        "",
        "It would have got 0 of the newest 1,204 events since 2026-05-13T10:00:00.000Z.",
    ]
    assert run(["subscriptions", "preview", "crm", "--json"]) == 1
    assert orjson.loads(capsys.readouterr().out) == calls.answer
