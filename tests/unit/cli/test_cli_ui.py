"""`relay ui` against a stub server."""

import json
import webbrowser
from typing import Any

import pytest

from relay.cli import run
from tests.unit.cli.test_cli_client import Stub, stub

__all__ = ["stub"]

LINK = {"url": "https://relay.example/ui/login?link=secret", "expires_at": "2026-05-20T10:02:00.000Z"}


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a browser was asked to open; none is there."""
    found: list[str] = []

    def open_in_browser(url: str) -> bool:
        found.append(url)
        return False

    monkeypatch.setattr(webbrowser, "open", open_in_browser)
    return found


def test_link_is_alone_on_stdout(stub: Stub, capsys: pytest.CaptureFixture[str], opened: list[str]) -> None:
    stub.says("POST /v1/sessions", LINK)
    assert run(["ui"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{LINK['url']}\n"
    assert err == (
        "It works once, until 2026-05-20T10:02:00.000Z. Do not share it: it signs in as your token.\n"
    )  # fmt: skip
    assert opened == []
    assert run(["ui", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == LINK


def test_open_opens_it_and_says_if_no_browser_is_there(
    stub: Stub, capsys: pytest.CaptureFixture[str], opened: list[str]
) -> None:
    stub.says("POST /v1/sessions", {"url": "https://relay.example/ui", "expires_at": None})
    assert run(["ui", "--open"]) == 0
    assert opened == ["https://relay.example/ui"]
    assert capsys.readouterr() == (
        "https://relay.example/ui\n",
        "No browser was found on this machine. Open the link in one.\n",
    )


@pytest.mark.parametrize(
    "answer", [{}, {"url": None}, {"url": "file:///etc/passwd"}, {"url": "--version"}, {"url": "javascript:1"}, []]
)
def test_only_a_web_page_is_opened(stub: Stub, answer: Any, opened: list[str]) -> None:
    stub.says("POST /v1/sessions", answer)
    assert run(["ui", "--open"]) == 1
    assert opened == []
