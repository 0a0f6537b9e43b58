"""The listening socket, and what systemd passes to a service: sockets, and where to report its state.

With a socket unit, systemd holds the listening socket while the relay restarts: connections wait, none is refused.
Any other program that speaks the same protocol can pass one: `LISTEN_FDS`, `LISTEN_PID` (sd_listen_fds(3)) and
`NOTIFY_SOCKET`, `WATCHDOG_USEC` (sd_notify(3)).
"""

import contextlib
import socket
from collections.abc import Mapping, MutableMapping

from relay.errors import UsageError

BACKLOG = 2048
FIRST_DESCRIPTOR = 3
MAX_SOCKETS = 16
MICROSECONDS = 1e-6
READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


def listening_socket(host: str, port: int) -> socket.socket:
    """A listening socket: connections queue while the node starts. Raises UsageError if the address cannot be used."""
    bare = host.strip("[]")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            bare, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )[0]
        # asyncio disables Nagle's algorithm only if the protocol is named; else each kept-alive request waits 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror}: stop what uses it, or choose another with --port"
        ) from error
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket, host: str) -> str:
    """The URL on this machine: loopback for wildcard addresses."""
    bare = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host.strip("[]"), host.strip("[]"))  # noqa: S104
    shown = f"[{bare}]" if ":" in bare else bare
    return f"http://{shown}:{listener.getsockname()[1]}"


def passed_sockets(
    environ: MutableMapping[str, str], pid: int, first_descriptor: int = FIRST_DESCRIPTOR
) -> list[socket.socket]:
    """The listening sockets that `LISTEN_FDS` announces to this process; none without it.

    Removes the variables, so that no child takes the sockets for its own. Raises UsageError for a wrong value, and for
    a descriptor that is not a listening TCP socket.
    """
    count, owner = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if not count:
        return []
    if _number(owner) is None:
        raise UsageError(f"LISTEN_PID must be the relay's process id where LISTEN_FDS is set, and is {owner[:40]!r}")
    if _number(owner) != pid:  # inherited from a program that the sockets were meant for
        return []
    number = _number(count)
    if number is None or number > MAX_SOCKETS:
        raise UsageError(f"LISTEN_FDS must be a number of sockets from 0 to {MAX_SOCKETS}, and is {count[:40]!r}")
    return [_listening(first_descriptor + index, count) for index in range(number)]


def notify(environ: Mapping[str, str], state: str) -> None:
    """Reports a state to systemd (`Type=notify`). Does nothing without `NOTIFY_SOCKET`, and never fails."""
    path = environ.get("NOTIFY_SOCKET", "")
    if path.startswith(("/", "@")):
        address = "\0" + path[1:] if path.startswith("@") else path
        with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.setblocking(False)
            to.sendto(state.encode(), address)


def watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """Interval of ALIVE reports: half of `WatchdogSec`. None if systemd does not watch this process."""
    limit, owner = _number(environ.get("WATCHDOG_USEC", "")), environ.get("WATCHDOG_PID", str(pid))
    return limit * MICROSECONDS / 2 if limit and owner == str(pid) else None


def _number(text: str) -> int | None:
    """A plain decimal number of at most eighteen digits, else None."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _listening(descriptor: int, count: str) -> socket.socket:
    where = f"LISTEN_FDS is {count}, but file descriptor {descriptor} is"
    try:
        passed = socket.socket(fileno=descriptor)
    except OSError as error:
        raise UsageError(f"{where} no socket: {error.strerror}") from error
    if passed.family not in (socket.AF_INET, socket.AF_INET6) or passed.type != socket.SOCK_STREAM:
        problem = "not a TCP socket: use ListenStream= with an address and a port"
    elif not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        problem = "not listening: use Accept=no"
    else:
        passed.set_inheritable(False)
        passed.setblocking(False)
        return passed
    passed.detach()
    raise UsageError(f"{where} {problem}")
