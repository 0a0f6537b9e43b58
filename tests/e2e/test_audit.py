"""The audit of a relay as a process: through the node, on its file, over a reload, and after somebody changed it."""

import asyncio
import json
import re
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.process_world import API_TOKEN, Start, keep_token

SINK = "https://receiver.example/hook"
UPSTREAM = {"REVOR_BASE_URL": "http://127.0.0.1:9", "REVOR_API_KEY": "sk-revor-default"}


def run(start: Start, *arguments: str, **variables: str) -> tuple[int, list[str]]:
    process = start(*arguments, **{**UPSTREAM, **variables})
    return process.close(), process.lines


def entries(start: Start, *arguments: str, **variables: str) -> list[dict[str, Any]]:
    code, lines = run(start, "audit", *arguments, "--json", **variables)
    assert code == 0, lines
    found: list[dict[str, Any]] = json.loads(lines[-1])
    return found


async def test_the_command_lists_and_verifies_through_the_node_and_on_the_file(start: Start, tmp_path: Path) -> None:
    keep_token(tmp_path)
    relay = start("serve", "--port", "0", **UPSTREAM)
    url = relay.until(r"serving (http://\S+)")
    through = {"RELAY_URL": url}
    async with aiohttp.ClientSession(url) as session:
        admin = {"Authorization": f"Bearer {API_TOKEN}"}
        async with session.post("/v1/subscriptions", json={"sink": SINK}, headers=admin) as response:
            made = await response.json()
        for _ in range(3):
            async with session.get("/v1/jobs", headers={"Authorization": "Bearer wrong"}) as response:
                assert response.status == 401
    listed = await asyncio.to_thread(entries, start, **through)
    shown = [(entry["actor"], entry["action"], entry["target"], entry["result"]) for entry in listed]
    assert ("token file", "subscriptions.create", made["id"], "ok") in shown
    (refused,) = [entry for entry in listed if entry["action"] == "login.refused"]
    assert (refused["address"], refused["count"]) == ("127.0.0.1", 3)
    code, lines = await asyncio.to_thread(run, start, "audit", **through)
    assert (code, lines[0].split("\t")) == (0, ["AT", "ACTOR", "ACTION", "TARGET", "ADDRESS", "RESULT", "COUNT"])
    code, lines = await asyncio.to_thread(run, start, "audit", "verify", **through)
    assert (code, lines[0].partition(":")[0]) == (0, "the audit is intact")
    assert re.search(r": \d+ entries, head \d+:[0-9a-f]{64}$", lines[0])
    assert relay.end() == 0

    # the node is gone: the same on its file
    listed = await asyncio.to_thread(entries, start, "--limit", "100")
    assert [listed[0]["action"], listed[-1]["action"]] == ["node.stop", "node.start"]
    assert [entry["actor"] for entry in entries(start, "--action", "subscriptions.create")] == ["token file"]
    assert entries(start, "--since", "2020-01-01T00:00:00Z", "--until", "1d") == []
    code, lines = run(start, "audit", "verify", "--json")
    report = json.loads(lines[-1])
    assert (code, report["ok"]) == (0, True)
    assert any("audit_head" in line and report["head"] in line for line in relay.lines), "the node logged it"
    code, lines = run(start, "tokens", "create", "crm", "--scopes", "read")
    assert code == 0, lines
    (created,) = entries(start, "--action", "tokens.create")
    assert (created["actor"], created["result"]) == ("command line", "ok")
    assert created["detail"] == {"name": "crm", "scopes": ["read"]}

    # somebody with the file, and without the key
    with closing(sqlite3.connect(tmp_path / "relay.db")) as connection:
        connection.execute("DROP TRIGGER audit_is_kept")
        last = max(entry["number"] for entry in listed)
        connection.execute("DELETE FROM audit WHERE number >= ?", (last,))
        connection.commit()
    code, lines = run(start, "audit", "verify")
    assert (code, lines[-1].partition(":")[0]) == (0, "the audit is intact"), "nothing says that it had another end"
    code, lines = run(start, "audit", "verify", "--head", report["head"])
    assert code == 1
    # findings go to stderr, and the sum to stdout: either may be read first
    found = f"the end is missing after entry {last - 1}: the kept head is entry {last}"
    assert any(found in line for line in lines)
    code, lines = run(start, "audit", "verify", "--head", "42")
    assert (code, "NUMBER:MAC" in lines[-1]) == (2, True)


async def test_reloads_are_recorded_with_what_changed_and_without_values(start: Start, tmp_path: Path) -> None:
    keep_token(tmp_path)
    (tmp_path / "relay.yaml").write_text("delivery: {concurrency: 8}\n")
    relay = start("serve", "--port", "0", **UPSTREAM)
    relay.until(r"serving (http://\S+)")
    secret = "rl_0123456789abcdefghijklmnopqrstuvw"
    token = f"auth: {{tokens: [{{name: crm, token: {secret}, scopes: [read]}}]}}\n"
    (tmp_path / "relay.yaml").write_text(f"delivery: {{concurrency: 9}}\n{token}")
    relay.popen.send_signal(signal.SIGHUP)
    relay.until("settings_read_again")
    (tmp_path / "relay.yaml").write_text("delivery: {concurrency: none}\n")
    relay.popen.send_signal(signal.SIGHUP)
    relay.until("settings_refused")
    assert relay.end() == 0
    refused, applied = entries(start, "--action", "settings.reload", RELAY_DELIVERY__CONCURRENCY="8")
    assert (refused["actor"], refused["result"]) == ("SIGHUP", "refused")
    assert (applied["result"], applied["detail"]) == ("ok", {"changed": ["auth.tokens", "delivery.concurrency"]})
    assert secret not in json.dumps([refused, applied])


def test_without_a_database_the_command_says_so(start: Start, tmp_path: Path) -> None:
    code, lines = run(start, "audit", RELAY_SERVER__PORT="7")  # where no relay answers
    assert code == 2
    assert "there is no database at" in lines[0]
    assert not (tmp_path / "relay.db").exists()
