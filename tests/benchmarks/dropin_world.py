"""What dropin.py and others measure with: an upstream, a relay and callers as processes of their own, and what a
process uses. All are in sessions of their own, so that an interrupt at the terminal reaches the measuring program
only, which ends them."""

import contextlib
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from dropin_load import KEY, TOKEN

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STARTED_SECONDS = 60.0
SETTINGS = """\
sources:
  revor:
    base_url: http://127.0.0.1:{port}
    polling: {{min_interval_seconds: {least}, max_interval_seconds: {most}, max_requests_per_second: {rate}}}
"""


AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
"""For `/v1`."""


@contextlib.contextmanager
def stub(kind: str) -> Iterator[int]:
    """`upstream` or `bare` of dropin_stub.py, and its port."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "dropin_stub.py"), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.communicate("", timeout=10)


@contextlib.contextmanager
def relay(
    upstream_port: int,
    *,
    least: float = 1.0,
    most: float = 900.0,
    rate: float = 5.0,
    environ: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    folder: str | None = None,
    root: Path = ROOT,
    python: str = sys.executable,
) -> Iterator[tuple[int, int]]:
    """`relay serve` in front of it, with these variables and options besides: its port and its process id. `folder`:
    where its database is and stays; None: one of its own. `root` and `python`: another version of the relay, and the
    interpreter that has its packages."""
    with contextlib.nullcontext(folder) if folder else tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "relay.yaml").write_text(SETTINGS.format(port=upstream_port, least=least, most=most, rate=rate))
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REVOR_"))}
        own.pop("PYTHONDONTWRITEBYTECODE", None)  # each start would compile for seconds
        token = Path(folder) / "relay.token"
        token.write_text(TOKEN)
        written = Path(folder) / "stderr"
        with written.open("wb") as errors:
            process = subprocess.Popen(
                [python, "-m", "relay", "serve", "--port", "0", *options],
                cwd=folder,
                env={
                    **own,
                    **{"PYTHONPATH": str(root), "XDG_STATE_HOME": folder, "REVOR_API_KEY": KEY},
                    "RELAY_TOKEN_FILE": str(token),
                    **(environ or {}),
                },
                stdin=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
            try:
                yield _port_of(process, written), process.pid
            finally:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()


def _port_of(process: subprocess.Popen[bytes], written: Path) -> int:
    ends_at = time.monotonic() + STARTED_SECONDS
    while process.poll() is None and time.monotonic() < ends_at:
        found = re.search(r"serving http://\S+:(\d+)\n", written.read_text())
        if found:
            return int(found[1])
        time.sleep(0.005)
    raise RuntimeError(f"the relay did not start: {written.read_text()[-2000:]}")


def load(way: str, port: int, **spec: Any) -> dict[str, Any]:
    """What came of these calls: see dropin_load.py."""
    given = orjson.dumps({"way": way, "port": port, **spec})
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # cuts large answers
    done = subprocess.run(
        [sys.executable, str(HERE / "dropin_load.py")],
        input=given,
        env=environ,
        capture_output=True,
        timeout=120,
        check=False,
        start_new_session=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode()[-2000:])
    found: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    return found


def check(found: dict[str, Any], *expected: str) -> None:
    """Raises RuntimeError where an answer was another than it should be: the figure would mean nothing."""
    odd = {reported: count for reported, count in found["answers"].items() if reported not in expected}
    if sum(odd.values()) > 0.02 * sum(found["answers"].values()):
        raise RuntimeError(f"expected {expected}: {found['answers']}")


def cpu_seconds(pid: int) -> float:
    """The processor time that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """What the process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@contextlib.contextmanager
def peak_of(pid: int) -> Iterator[list[int]]:
    """The most that it had in memory while inside, beyond what it had before."""
    before, over, peak = resident_bytes(pid), threading.Event(), [0]

    def watch() -> None:
        while not over.wait(0.002):
            peak[0] = max(peak[0], resident_bytes(pid) - before)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peak
    finally:
        over.set()
        watching.join()
