"""`relay jobs import` against a real node: every imported entry is tracked."""

import asyncio
import contextlib
import io
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay import cli
from relay.cli import client
from relay.cli.client import Api, Unreachable
from relay.cli.demo.environment import listen, served, url_of
from relay.cli.jobs import importing
from tests.support.e2e_world import World, open_e2e_world
from tests.support.relay_world import open_relay_world

SAMPLES = Path(__file__).resolve().parents[1] / "fixtures" / "revor-samples.json"
HOOK = "https://receiver.example/hook"


@dataclass
class Importer:
    """Runs the command against the node."""

    world: World
    url: str
    folder: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    code: int = -1
    err: str = ""

    async def __call__(self, *arguments: str | Path, stdin: bytes | None = None) -> str:
        """Returns stdout. Sets `code` and `err`."""
        self.capsys.readouterr()
        if stdin is not None:
            self.monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        command = ["jobs", "import", *map(str, arguments)]
        self.code = await asyncio.to_thread(cli.run, command)
        out, self.err = self.capsys.readouterr()
        return out

    async def json(self, *arguments: str | Path, stdin: bytes | None = None) -> dict[str, Any]:
        """Runs with --json and returns the object."""
        (line,) = (await self(*arguments, "--json", stdin=stdin)).splitlines()
        document: dict[str, Any] = json.loads(line)
        return document

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    async def tracked(self) -> dict[str, dict[str, Any]]:
        """All jobs of the node, by id."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            query = {"limit": "500"} | ({"cursor": cursor} if cursor else {})
            page = (await self.world.api.get("/v1/jobs", params=query)).json()
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                assert len({job["id"] for job in found}) == len(found)
                return {job["id"]: job for job in found}


@pytest.fixture
async def importer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Importer]:
    (tmp_path / "node").mkdir()
    # Without a key nothing is polled, and no log line of the node mixes with the command's output.
    with capture_logs(), contextlib.closing(listen()) as listener:
        async with open_e2e_world(tmp_path / "node", api_key=None) as world, served(world.node, listener):
            monkeypatch.setenv("RELAY_URL", url_of(listener))
            monkeypatch.delenv("RELAY_TOKEN", raising=False)
            monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # not the token of a relay of this machine
            yield Importer(world, url_of(listener), tmp_path, capsys, monkeypatch)


class Cut:
    """Raises `raises` at the n-th batch, before or after the relay gets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, raises: BaseException, *, after: bool = False) -> None:
        self.batches: list[int] = []
        send = Api.send

        def cut(api: Api, method: str, path: str, **options: Any) -> Any:
            if path != importing.PATH:
                return send(api, method, path, **options)
            self.batches.append(len(options["body"]["jobs"]))
            answer = send(api, method, path, **options) if len(self.batches) != at or after else None
            if len(self.batches) == at:
                raise raises
            return answer

        monkeypatch.setattr(client.Api, "send", cut)


def numbered(count: int, *, first: int = 0) -> str:
    rows = (f'job-{number},"{{""deal"": {number}}}",high' for number in range(first, first + count))
    return "id,metadata,priority\n" + "\n".join(rows) + "\n"


async def test_interrupted_import_is_run_again(importer: Importer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "BATCH_ENTRIES", 10)
    rows = numbered(95).splitlines(keepends=True)
    rows[13] = "job-12,no metadata,high\n"
    file = importer.write("jobs.csv", "".join(rows))
    with monkeypatch.context() as patch:
        Cut(patch, 4, KeyboardInterrupt())
        out = await importer(file)
    assert importer.code == 130
    assert "29 created, 0 already tracked, 1 rejected" in out
    first, second = importer.err.splitlines()
    assert first.startswith("line 14 (job-12): metadata: ")
    assert second == "relay: stopped after line 31. Run it again from the start: tracked jobs do not change"
    found = await importer.json(file)
    assert (importer.code, found["complete"], found["created"], found["existing"]) == (2, True, 65, 29)
    assert [(one["line"], one["id"]) for one in found["rejected"]] == [(14, "job-12")]
    assert len(await importer.tracked()) == 94


async def test_lost_connection_is_reported_with_how_to_continue(
    importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "BATCH_ENTRIES", 10)
    monkeypatch.setattr(importing, "PATIENCE_SECONDS", 0.0)
    file = importer.write("ids", "".join(f"job-{number}\n" for number in range(30)))
    with monkeypatch.context() as patch:
        Cut(patch, 2, Unreachable("no relay at all"), after=True)  # it has them, and its answer was lost
        found = await importer.json(file)
    assert (importer.code, found["complete"], found["created"]) == (1, False, 10)
    assert importer.err == (
        "relay: stopped after line 10. Run it again from the start: tracked jobs do not change: no relay at all\n"
    )
    found = await importer.json(file)
    assert (importer.code, found["created"], found["existing"]) == (0, 10, 20)


WRONG = {
    # row: (part of the reason, corrected row)
    "ok-1,default,,,": ("", ""),
    "bad\x07id,default,,,": ("printable", "good-id,default,,,"),
    ",default,,,": ("id: missing", "was-empty,default,,,"),
    "far,nobody,,,": ("no account 'nobody'", "far,default,,,"),
    "hook,default,ftp://example.com,,": ("scheme 'ftp'", f"hook,default,{HOOK},,"),
    "prio,default,,urgent,": ("'urgent' is unknown", "prio,default,,low,"),
    "late,default,,,soon": ("expected a number", "late,default,,,60"),
    "later,default,,,-1": ("greater than 0", "later,default,,,1"),
    '"open,default,,,': ("a quote is not closed", "open,default,,,"),
    "ok-2,default,,,": ("", ""),
    "more,default,,,,,": ("7 cells, but only", "more,default,,,"),
    "caf\udce9,default,,,": ("not UTF-8", "café,default,,,"),
}


async def test_rejected_lines_are_corrected_in_the_file(importer: Importer) -> None:
    head = "id,account,callback_url,priority,deadline_seconds\n"
    given = (head + "".join(f"{row}\n" for row in WRONG)).encode("utf-8", "surrogateescape")
    out = await importer(importer.write("jobs.csv", given))
    assert (importer.code, out) == (2, "2 created, 0 already tracked, 10 rejected\n")
    wrong = [(number, said) for number, (said, corrected) in enumerate(WRONG.values(), 2) if corrected]
    shown = importer.err.splitlines()
    assert len(shown) == len(wrong)
    for (number, said), line in zip(wrong, shown, strict=True):
        assert re.match(rf"line {number}\b", line)
        assert said in line
    text = head + "".join(f"{corrected or row}\n" for row, (_, corrected) in WRONG.items())
    found = await importer.json(importer.write("jobs.csv", text))
    assert (importer.code, found["created"], found["existing"], found["rejected"]) == (0, 10, 2, [])
    assert set(await importer.tracked()) == {
        (corrected or row).partition(",")[0] for row, (_, corrected) in WRONG.items()
    }


async def test_json_lines_may_be_answers_and_ids(importer: Importer) -> None:
    samples = json.loads(SAMPLES.read_text())
    answer = samples["create_response"]["body"]
    lines = [
        json.dumps({"id": "a", "metadata": {"deal": 1}, "priority": "low"}),
        json.dumps(answer),
        "",
        json.dumps("b"),
        json.dumps(samples["error_envelope"]["body"]),
        json.dumps({"id": "c", "sourse": "revor"}),
        json.dumps({"id": "d", "metadata": json.loads("[" * 61 + "]" * 61)}),
        json.dumps({"id": "e", "metadata": {"deep": json.loads("[" * 62 + "]" * 62)}}),
        "{broken",
        "5",
    ]
    file = importer.write("jobs.jsonl", "\n".join(lines))
    found = await importer.json(file, "--metadata", '{"from": "file"}')
    assert importer.code == 2
    tracked = await importer.tracked()
    assert {id: job["metadata"] for id, job in tracked.items()} == {
        "a": {"deal": 1},
        answer["item"]["id"]: {"from": "file"},
        "b": {"from": "file"},
    }
    assert tracked[answer["item"]["id"]]["status"] == "queued"  # the pasted answer has the status, so no poll is needed
    codes = [(one["line"], one["id"], one["code"]) for one in found["rejected"]]
    assert codes == [
        (5, None, "missing"),
        (6, "c", "unknown_field"),
        (7, "d", "wrong_type"),
        (8, "e", "too_deep"),
        (9, None, "not_json"),
        (10, None, "wrong_type"),
    ]
    assert "did you mean source?" in found["rejected"][1]["detail"]


async def test_import_waits_for_a_killed_relay(tmp_path: Path) -> None:
    ids = [f"job-{number:06}" for number in range(14_000)]
    pipe = tmp_path / "jobs"
    os.mkfifo(pipe)
    async with open_relay_world(tmp_path) as relay:
        await relay.serve()
        port = relay.url.rpartition(":")[2]

        async def is_under_way() -> bool:
            (account,) = (await relay.get("/v1/sources"))["items"]
            return bool(account["open_jobs"] > importing.BATCH_ENTRIES)  # the first batch has been answered

        command = relay.start("jobs", "import", str(pipe), RELAY_URL=relay.url)
        with await asyncio.to_thread(pipe.open, "w") as stream:
            half = len(ids) // 2
            await asyncio.to_thread(stream.writelines, (f"{id}\n" for id in ids[:half]))
            stream.flush()
            await relay.until(is_under_way)
            assert await relay.end(signal.SIGKILL) == -signal.SIGKILL
            writing = asyncio.create_task(asyncio.to_thread(stream.writelines, (f"{id}\n" for id in ids[half:])))
            await asyncio.to_thread(command.until, "trying again in")
            await relay.serve("--port", port)
            await writing
        assert await asyncio.to_thread(command.close) == 0
        created, existing = map(int, re.findall(r"([\d,]+) (?:created|already)", command.lines[-1].replace(",", "")))
        assert created + existing == len(ids)  # a batch whose answer was lost counts as tracked already
        (account,) = (await relay.get("/v1/sources"))["items"]
        assert account["open_jobs"] == len(ids)
