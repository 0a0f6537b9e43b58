"""A broker's process: started, waited for, killed, and ended with the test."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

START_SECONDS = 240.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(kw_only=True)
class Process:
    """A process that listens on a port of loopback. `start` may be called again after `kill`."""

    command: Sequence[str]
    port: int
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    _running: subprocess.Popen[bytes] | None = None

    async def start(self) -> Self:
        log = (self.folder / "broker.log").open("ab")
        self._running = subprocess.Popen(
            self.command, stdout=log, stderr=log, cwd=self.folder, env={**os.environ, **self.environment}
        )
        log.close()
        async with asyncio.timeout(START_SECONDS):
            while not self._listens():
                if self._running.poll() is not None:
                    raise RuntimeError(self.said())
                await asyncio.sleep(0.02)
        return self

    def said(self) -> str:
        """The end of what it printed."""
        return (self.folder / "broker.log").read_text(errors="replace")[-3000:]

    def kill(self) -> None:
        """SIGKILL."""
        if self._running is not None:
            self._running.send_signal(signal.SIGKILL)
            self._running.wait()
            self._running = None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
