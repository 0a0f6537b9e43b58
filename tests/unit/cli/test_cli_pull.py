"""`relay listen --subscription` against a stub server: what it acknowledges, and what it gives back."""

import json
from typing import Any

import pytest
from standardwebhooks import Webhook

from relay.cli import run
from relay.cli.events import listen
from tests.unit.cli.test_cli_client import SECRET, Stub
from tests.unit.cli.test_cli_client import stub as stub

PATH = "/v1/subscriptions/sub_1"
ENOUGH = {"detail": "enough"}


def item(n: int) -> dict[str, Any]:
    event = {"specversion": "1.0", "id": f"own {n}", "type": "com.acme.x", "subject": f"s{n}"}
    return {"delivery_id": f"dlv_{n}", "event_id": f"evt_{n}", "event": event, "attempt": 1}


def pulls(stub: Stub, *answers: list[int], reason: str | None = None) -> None:
    for numbers in answers:
        stub.says(f"POST {PATH}/pull", {"items": [item(n) for n in numbers], "reason": reason})
    stub.says(f"POST {PATH}/pull", ENOUGH, status=404)


def said(stub: Stub, action: str) -> list[Any]:
    return [json.loads(body) for what, _, body in stub.seen if what == f"POST {PATH}/{action}"]


def test_what_is_forwarded_is_acknowledged_after_a_2xx(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /v1/signing-secret", {"secret": SECRET})
    pulls(stub, [1], [2])
    for status in (204, 200):
        stub.says("POST /hook", {}, status=status)
    stub.says(f"POST {PATH}/ack", {"results": []})
    assert run(["listen", "--subscription", "sub_1", "--forward-to", f"{stub.url}/hook"]) == 2
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"ready: pulling sub_1 from {stub.url}, signing secret {SECRET}"
    assert "com.acme.x s1" in out[1]
    assert "→ 204" in out[2]
    assert said(stub, "ack") == [{"ids": ["dlv_1"]}, {"ids": ["dlv_2"]}]
    assert [one["wait_seconds"] for one in said(stub, "pull")] == [0.0, 20.0, 20.0]
    assert {one["lease_seconds"] for one in said(stub, "pull")} == {180.0}
    sent = [(headers, body) for what, headers, body in stub.seen if what == "POST /hook"]
    assert [headers["webhook-id"] for headers, _ in sent] == ["evt_1", "evt_2"]
    Webhook(SECRET).verify(sent[0][1], sent[0][0])


def test_what_is_refused_goes_back_and_takes_those_behind_it_along(stub: Stub) -> None:
    stub.says("GET /v1/signing-secret", {}, status=403)
    pulls(stub, [1, 2, 3])
    for status in (500, 204):
        stub.says("POST /hook", {}, status=status)
    stub.says(f"POST {PATH}/nack", {"results": [], "returned": ["dlv_2"]})
    stub.says(f"POST {PATH}/ack", {"results": []})
    assert run(["listen", "--subscription", "sub_1", "--forward-to", f"{stub.url}/hook"]) == 2
    assert said(stub, "nack") == [{"ids": ["dlv_1"]}]
    assert said(stub, "ack") == [{"ids": ["dlv_3"]}]
    hooked = [headers for what, headers, _ in stub.seen if what == "POST /hook"]
    assert [headers["webhook-id"] for headers in hooked] == ["evt_1", "evt_3"]
    assert all("webhook-signature" not in headers for headers in hooked), "its token may not read the secret"


def test_interrupt_gives_back_what_was_not_accepted(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.says("GET /v1/signing-secret", {"secret": SECRET})
    pulls(stub, [1, 2, 3])
    stub.says(f"POST {PATH}/ack", {"results": []})
    stub.says(f"POST {PATH}/nack", {"results": [], "returned": []})
    show = listen.show_event

    def interrupted(event: Any, wanted: Any, *, json: bool) -> bool:
        if event.id == "evt_2":
            raise KeyboardInterrupt
        return show(event, wanted, json=json)

    monkeypatch.setattr(listen, "show_event", interrupted)
    assert run(["listen", "--subscription", "sub_1"]) == 130
    assert said(stub, "ack") == [{"ids": ["dlv_1"]}]
    assert said(stub, "nack") == [{"ids": ["dlv_2", "dlv_3"], "untried": True}]


def test_what_was_accepted_while_the_relay_was_away_is_acknowledged_later(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(listen, "FIRST_PAUSE_SECONDS", 0.0)
    stub.says("GET /v1/signing-secret", {"secret": SECRET})
    pulls(stub, [1, 2])
    stub.says(f"POST {PATH}/ack", {"detail": "starting"}, status=503)
    stub.says(f"POST {PATH}/ack", {"results": []})
    stub.says(f"POST {PATH}/nack", {"detail": "starting"}, status=503)
    assert run(["listen", "--subscription", "sub_1", "--json"]) == 2
    assert said(stub, "ack") == [{"ids": ["dlv_1"]}, {"ids": ["dlv_1"]}]
    assert "1 events come again" not in capsys.readouterr().out
