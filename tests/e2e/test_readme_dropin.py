"""Runs the first two README examples as written, one terminal per block. Only the ports differ."""

import contextlib
import json
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.process_world import DEADLINE_SECONDS, Process, Start
from tests.support.typed import blocks, prompts, section, shell_path, with_places

BASH = ("bash", "-c")
WAYS_TO_END = "(succeeded|failed|cancelled)"

needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="README NOT RUN: curl is not here")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminals:
    """The README's terminals. `sandbox` and `relay` are running."""

    start: Start
    path: str
    sandbox: str
    relay: str
    sandbox_says: list[str]

    def typed(self, text: str, **variables: str) -> Process:
        """Runs lines with this test's ports instead of the document's."""
        for said, here in (("127.0.0.1:8090", self.sandbox), ("127.0.0.1:8080", self.relay)):
            text = text.replace(said, here)
        # The address that commands have by themselves is the port of the document.
        return self.start(text, program=BASH, PATH=self.path, RELAY_URL=f"http://{self.relay}", **variables)


@pytest.fixture
def terminals(start: Start, tmp_path: Path) -> Terminals:
    """The stand-in and the relay of the first section."""
    sandbox, relay, *_ = blocks(section("README.md", "1. curl"), "console")
    path = shell_path(tmp_path)
    (line,) = prompts(sandbox)
    upstream = start(with_places(line, {"--port 8090": "--port 0"}), program=BASH, PATH=path)
    at = upstream.until(r"serving http://(127\.0\.0\.1:\d+)")
    upstream.until("^inject faults")
    *exports, serve = prompts(relay)
    begun = "\n".join(exports).replace("127.0.0.1:8090", at)
    node = start(f"{begun}\nexec {serve} --port 0", program=BASH, PATH=path)
    here = node.until(r"serving http://(127\.0\.0\.1:\d+)")
    return Terminals(start=start, path=path, sandbox=at, relay=here, sandbox_says=upstream.lines)


@pytest.fixture
def hook() -> int:
    """A free port for the receiver."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def until_it_listens(port: int) -> None:
    latest = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < latest:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on {port}")


@needs_curl
def test_readme_curl_example(terminals: Terminals, hook: int, tmp_path: Path) -> None:
    *_, receiver, you = blocks(section("README.md", "1. curl"), "console")
    (code,) = blocks(section("README.md", "5. Your code"), "python")
    (tmp_path / "receiver.py").write_text(with_places(code, {'("127.0.0.1", 3000)': f'("127.0.0.1", {hook})'}))
    secret, begin = prompts(receiver)
    sink = terminals.typed(f"{secret}\nexec {begin}", PYTHONUNBUFFERED="1")
    until_it_listens(hook)
    program = terminals.typed("\n".join(prompts(you)).replace("127.0.0.1:3000", f"127.0.0.1:{hook}"))
    assert program.close() == 0, program.lines
    registered, ended = (json.loads(each) for each in "".join(program.lines).replace("}{", "}\n{").splitlines())
    job_id = registered["id"]
    assert registered["metadata"] == {"deal_id": 42}
    assert (ended["id"], ended["open"]) == (job_id, False)
    assert ended["outcome"] in ("succeeded", "failed", "cancelled")
    sink.until(rf"^ai\.revor\.job\.{WAYS_TO_END} {job_id} \d+$")


def test_sandbox_prints_the_settings_in_the_readme(terminals: Terminals) -> None:
    _, relay, *_ = blocks(section("README.md", "1. curl"), "console")
    *exports, serve = [line.replace("127.0.0.1:8090", terminals.sandbox) for line in prompts(relay)]
    at = terminals.sandbox_says.index("a relay for this sandbox:")
    assert terminals.sandbox_says[at + 1 : at + 1 + len(exports) + 1] == [*exports, serve]


@needs_curl
def test_readme_change_one_line(terminals: Terminals) -> None:
    change, story = blocks(section("README.md", "2. Change one line"), "console")
    listen, export, create = prompts(story)
    listener = terminals.typed(listen)
    listener.until("^ready: ")
    program = terminals.typed(f"{export}\n{create}")
    assert program.close() == 0
    answer = json.loads("".join(program.lines))
    assert answer["ok"] is True
    job_id = answer["item"]["id"]

    listener.until(rf"ai\.revor\.job\.queued {job_id} #1$")
    listener.until(rf"ai\.revor\.job\.running {job_id} ")
    listener.until(rf"ai\.revor\.job\.(succeeded|failed|cancelled|retrying) {job_id} ")
    show = terminals.typed("relay jobs show --json " + job_id)
    assert show.close() == 0
    assert json.loads(show.lines[0])["metadata"] == {"deal_id": 42}
    assert prompts(change)[0].partition(" #")[0] in export, "the one line is the one that is tried"
