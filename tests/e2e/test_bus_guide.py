"""Runs every command and program in docs/guides/bus.md as written. Only addresses differ."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.brokers.nats import nats_server
from tests.support.process_world import Start
from tests.support.typed import ROOT, blocks, prompts, section, with_places

RELAY, NATS = "http://127.0.0.1:8080", "nats://127.0.0.1:4222"
needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="BUS PAGE NOT RUN: curl is not here")


@needs_curl
async def test_commands_of_the_bus_guide(start: Start, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "guides" / "bus.md").read_text(encoding="utf-8")
    serve, listen, *calls = [line for block in blocks(page, "console") for line in prompts(block)]
    (program,) = blocks(page, "python")
    relay = start(*serve.removeprefix("relay ").split(), "--port", "0")
    url = relay.until(r"serving (http://\S+)")
    listening = start(*listen.removeprefix("relay ").split(), RELAY_URL=url)
    listening.until("ready|signing secret")

    def answer(command: str, **places: str) -> dict[str, object]:
        process = start(with_places(command, {RELAY: url, **places}), program=("bash", "-c"))
        assert process.close() == 0
        found: dict[str, object] = json.loads("".join(process.lines))
        return found

    structured, binary, batch, webhook, nats = calls
    promised = [
        json.loads(line)
        for line in section("docs/guides/bus.md", "Publish in two minutes").splitlines()
        if line[:1] == "{"
    ]
    for command, told in zip((structured, binary, batch), promised, strict=True):
        found = answer(command)
        assert without_ids(found) == without_ids(told)
    again = answer(structured)
    assert (again["accepted"], again["known"]) == (0, 1)
    python = start(with_places(program, {RELAY: url}), program=(sys.executable, "-c"))
    assert python.close() == 0
    assert json.loads("".join(python.lines))["accepted"] == 1
    for line in ("paid A-17", "sent A-17", "paid A-18", "paid A-20"):
        listening.until(line, 20)
    assert answer(webhook)["types"] == ["com.acme.order.paid"]
    async with nats_server(tmp_path) as server:
        made = answer(nats, **{NATS: f"nats://127.0.0.1:{server.port}"})
    assert (made["protocol"], made["state"]) == ("NATS", "enabled")


def without_ids(answer: dict[str, object]) -> str:
    """An answer without the relay's ids, which differ."""
    items = answer["items"]
    assert isinstance(items, list)
    return json.dumps({**answer, "items": [{**item, "id": item["id"][:4]} for item in items]})
