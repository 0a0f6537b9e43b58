"""The command `relay` as a process: its output as it comes, its exit code and its resource limits."""

import contextlib
import os
import queue
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from tests.support.forks import ForkedPopen

API_TOKEN = "rl_of_the_tests_0123456789abcdef"
DEADLINE_SECONDS = 300.0
"""Ends a wait for what takes a second: for many, on a machine that is busy with other work."""
POLL_AGAIN_SECONDS = 0.2
READ_AT_IMPORT = ("PYTHON", "SSL_")
"""Variables for Python itself, but for the one below, and those by which aiohttp trusts certificates."""
WITHOUT_BYTE_CODE = {"PYTHONDONTWRITEBYTECODE": "1"}
"""For processes whose files are limited: Python would leave byte code that is cut off."""


class Process:
    """A command that runs; its lines of stdout and stderr are read as they come.

    `limits`: `RLIMIT_NOFILE=64` and the like, soft limits; `UNPRIVILEGED`: file permissions hold for root too.
    `program`: another one than `relay`, such as a shell in which `relay` is called; it inherits `pass_fds`.

    Without one, and without variables that imports read, it is forked by `fork_server`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        limits: str = "",
        program: Sequence[str] | None = None,
        pass_fds: Sequence[int] = (),
        **variables: str,
    ) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REVOR_"))}
        environ.pop("DATABASE_URL", None)
        environ |= {"PYTHONPATH": os.getcwd(), "XDG_STATE_HOME": str(folder / "state"), **variables}
        if limits:
            environ |= WITHOUT_BYTE_CODE
        self.popen: subprocess.Popen[bytes] | ForkedPopen
        reading, writing = zip(os.pipe(), os.pipe(), strict=True)
        try:
            if program or any(name.startswith(READ_AT_IMPORT) for name in variables.keys() - WITHOUT_BYTE_CODE.keys()):
                assert not limits
                self.popen = subprocess.Popen(
                    [*(program or [sys.executable, "-m", "relay"]), *arguments],
                    cwd=folder,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=writing[0],
                    stderr=writing[1],
                    pass_fds=pass_fds,
                )
            else:
                stdout, stderr = (f"/proc/{os.getpid()}/fd/{number}" for number in writing)
                self.popen = ForkedPopen(arguments, folder, environ, stdout=stdout, stderr=stderr, limits=limits)
        finally:
            for number in writing:
                os.close(number)
        self.lines: list[str] = []
        self._queue: queue.Queue[str] = queue.Queue()
        self._pipes = [os.fdopen(number, encoding="utf-8") for number in reading]
        self._threads = [threading.Thread(target=self._read, args=(pipe,)) for pipe in self._pipes]
        for thread in self._threads:
            thread.start()

    def _read(self, pipe: IO[str]) -> None:
        for line in pipe:
            self._queue.put(line.rstrip("\n"))

    def until(self, pattern: str, deadline_seconds: float = DEADLINE_SECONDS) -> str:
        """The first group in the first line that matches, among those not read yet."""
        ends_at = time.monotonic() + deadline_seconds
        while (left := ends_at - time.monotonic()) > 0:
            try:
                line = self._queue.get(timeout=min(left, POLL_AGAIN_SECONDS))
            except queue.Empty:
                if any(thread.is_alive() for thread in self._threads) or not self._queue.empty():
                    continue
                break  # it has ended
            self.lines.append(line)
            found = re.search(pattern, line)
            if found:
                return found[1] if found.groups() else found[0]
        raise AssertionError(f"{pattern} did not come: {self.lines}")

    def limit(self, kind: int, most: int) -> None:
        """Sets one of the running process's soft limits (`resource.RLIMIT_…`); the hard one stays."""
        hard = resource.prlimit(self.popen.pid, kind)[1]
        resource.prlimit(self.popen.pid, kind, (most, hard))

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends the signal, unless it has ended already. Returns the exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        return self.close()

    def close(self) -> int:
        """Waits for its end and returns the exit code; kills it when that takes too long."""
        try:
            code = self.popen.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            code = self.popen.wait()
        for thread in self._threads:
            thread.join()
        for pipe in self._pipes:
            pipe.close()
        while not self._queue.empty():
            self.lines.append(self._queue.get())
        return code


Start = Callable[..., Process]


def keep_token(folder: Path) -> None:
    """Puts `API_TOKEN` where a relay of this folder would make a token of its own."""
    path = folder / "state" / "revor-relay" / "token"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(0o600)
    path.write_text(f"{API_TOKEN}\n")


@contextlib.contextmanager
def processes(folder: Path) -> Iterator[Start]:
    """What starts commands in a folder; all of them are ended at the end."""
    started: list[Process] = []

    def begin(
        *arguments: str,
        limits: str = "",
        program: Sequence[str] | None = None,
        pass_fds: Sequence[int] = (),
        **variables: str,
    ) -> Process:
        process = Process(arguments, folder, limits=limits, program=program, pass_fds=pass_fds, **variables)
        started.append(process)
        return process

    try:
        yield begin
    finally:
        for process in started:
            process.end()
