"""`relay settings` against a stub server."""

from typing import Any

import pytest

from relay.cli import run
from tests.unit.cli.test_cli_client import Stub, stub

__all__ = ["stub"]


def setting(key: str, value: object, *, place: str = "default", secret: bool = False, **more: Any) -> dict[str, Any]:
    return {"key": key, "value": value, "place": place, "secret": secret, "set": True, "reloaded": False, **more}


ITEMS = [
    setting("server.port", 9090, place="relay.yaml:3"),
    setting("server.host", "127.0.0.1"),
    setting("auth.tokens[0].token", None, place="relay.yaml:6 (${OPS})", secret=True, reloaded=True),
    setting("heartbeat.url", None, secret=True, set=False),
    setting("security.allow_ports", [443]),
]


def test_settings_are_a_table(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.says("GET /v1/settings", {"node_id": "n", "items": ITEMS})
    assert run(["settings"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "KEY\tVALUE\tPLACE\tCHANGE",
        "server.port\t9090\trelay.yaml:3\trestart",
        "server.host\t127.0.0.1\tdefault\trestart",
        "auth.tokens[0].token\tset\trelay.yaml:6 (${OPS})\tSIGHUP",
        "heartbeat.url\tnot set\tdefault\trestart",
        "security.allow_ports\t[443]\tdefault\trestart",
    ]
