"""Commands of the relay as processes forked by `fork_server`, which has already imported the relay."""

import asyncio
import atexit
import functools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TURN_SECONDS = 0.05
"""How long a wait may keep the server from other orders."""


class ForkServer:
    """The process that forks the others: one for each process of tests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names = 0
        self._process = subprocess.Popen(
            # -P: not with its own folder in the path, where html.py would stand for that of the standard library.
            [sys.executable, "-P", str(Path(__file__).with_name("fork_server.py"))],
            env={**os.environ, "PYTHONPATH": os.getcwd()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        atexit.register(self.close)

    async def ask(self, **order: Any) -> Any:
        return await asyncio.to_thread(self.ask_now, **order)

    def ask_now(self, **order: Any) -> Any:
        """Carries out an order, in the calling thread."""
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        assert answer, "the fork server has ended"
        return json.loads(answer)

    def new_name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}-{self._names}"

    def close(self) -> None:
        """Kills what it still runs."""
        self._process.communicate()


@functools.cache
def fork_server() -> ForkServer:
    return ForkServer()


class ForkedPopen:
    """What the tests use of `subprocess.Popen`, for a command of the relay that is forked. Streams are paths."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        *,
        stdout: str,
        stderr: str,
        limits: str = "",
    ) -> None:
        self._name = fork_server().new_name("command")
        self.returncode: int | None = None
        self.pid: int = fork_server().ask_now(
            start=self._name,
            arguments=arguments,
            environ=dict(environ),
            folder=str(folder),
            stdout=stdout,
            stderr=stderr,
            limits=limits,
        )

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = fork_server().ask_now(wait=self._name, seconds=0)
        return self.returncode

    def wait(self, timeout: float = math.inf) -> int:
        """Its exit code, negative for a signal. Raises subprocess.TimeoutExpired."""
        latest = time.monotonic() + timeout
        while self.returncode is None:
            self.returncode = fork_server().ask_now(wait=self._name, seconds=TURN_SECONDS)
            if self.returncode is None and time.monotonic() > latest:
                raise subprocess.TimeoutExpired(self._name, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            fork_server().ask_now(signal=self._name, number=int(number))

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forked:
    """A command of the relay as a process that can be killed and started again; what it writes goes to a file."""

    def __init__(self, kind: str, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REVOR_"))}
        self.environ = {**clean, "XDG_STATE_HOME": str(folder), **(environ or {})}
        self.folder = folder
        self.log = folder / f"{kind}.log"
        self.name = fork_server().new_name(kind)
        self.running = False

    async def start(
        self,
        *arguments: str,
        stop: tuple[str, int] | None = None,
        constants: Mapping[str, float] | None = None,
    ) -> None:
        await fork_server().ask(
            start=self.name,
            arguments=arguments,
            environ=self.environ,
            folder=str(self.folder),
            stdout=str(self.log),
            stderr=str(self.log),
            stop=stop,
            constants=dict(constants or {}),
        )
        self.running = True

    async def signal(self, number: int) -> None:
        await fork_server().ask(signal=self.name, number=int(number))

    async def ended(self, seconds: float) -> int | None:
        """Waits for its end so long. Its exit code, negative for a signal; None when it is still there."""
        latest = time.monotonic() + seconds
        while True:
            code: int | None = await fork_server().ask(wait=self.name, seconds=min(seconds, TURN_SECONDS))
            if code is not None:
                self.running = False
                return code
            if time.monotonic() > latest:
                return None

    async def kill(self) -> None:
        """SIGKILL, at once. It must have lived until then: a relay that ends by itself has failed."""
        await self.signal(signal.SIGKILL)
        code = await self.ended(10)
        assert code == -signal.SIGKILL, f"it ended by itself ({code}):\n{self.log_tail()}"

    def close(self) -> None:
        if self.running:
            self.running = False
            fork_server().ask_now(signal=self.name, number=int(signal.SIGKILL))
            fork_server().ask_now(wait=self.name, seconds=10)

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""
