"""A stand-in for systemd with a socket unit: holds a listening socket, and passes it to each relay that it starts."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator

from relay.server.sockets import listening_socket
from tests.support.process_world import Process, Start

START_SECONDS = 120.0
AS_SYSTEMD = 'exec 3<&"$0"; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'


class SocketHolder:
    """Holds the socket of a relay; `url` is where it is."""

    def __init__(self, start: Start, held: socket.socket) -> None:
        self.url = f"http://127.0.0.1:{held.getsockname()[1]}"
        self._start = start
        self._held = held

    def serve(self, *arguments: str, **variables: str) -> Process:
        """Starts `relay serve` with the socket as file descriptor 3."""
        number = self._held.fileno()
        program = ("bash", "-c", AS_SYSTEMD, str(number), sys.executable, "-m", "relay", "serve")
        return self._start(*arguments, program=program, pass_fds=(number,), **variables)

    async def served(self, *arguments: str, **variables: str) -> Process:
        """Starts one, and waits until it serves: five seconds of work for a machine that is busy with other tests."""
        relay = self.serve(*arguments, **variables)
        await asyncio.to_thread(relay.until, "relay: serving", START_SECONDS)
        return relay


@contextlib.contextmanager
def socket_holder(start: Start) -> Iterator[SocketHolder]:
    """A socket on a free port of loopback, and what starts relays with it."""
    with contextlib.closing(listening_socket("127.0.0.1", 0)) as held:
        yield SocketHolder(start, held)
