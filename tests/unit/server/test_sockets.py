"""What systemd passes to a service, with descriptors and sockets of this process."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.errors import UsageError
from relay.server import sockets

PID = 4711


@contextlib.contextmanager
def listening(family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, *, listens: bool = True) -> Iterator[int]:
    """The number of a descriptor, as a parent passes it: no Python object owns it."""
    made = socket.socket(family, kind)
    if family == socket.AF_INET:
        made.bind(("127.0.0.1", 0))
    if listens and (family, kind) == (socket.AF_INET, socket.SOCK_STREAM):
        made.listen()
    number = made.detach()
    try:
        yield number
    finally:
        with contextlib.suppress(OSError):
            os.close(number)


def passed(number: int, fds: str = "1", pid: str = str(PID)) -> list[socket.socket]:
    return sockets.passed_sockets({"LISTEN_FDS": fds, "LISTEN_PID": pid}, PID, number)


def test_passed_socket_is_taken_over_and_kept_from_children() -> None:
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": str(PID), "LISTEN_FDNAMES": "relay.socket", "OTHER": "kept"}
    with listening() as number:
        os.set_inheritable(number, True)
        (found,) = sockets.passed_sockets(environ, PID, number)
        with found:
            assert found.fileno() == number
            assert found.proto == socket.IPPROTO_TCP
            assert not found.get_inheritable()
            assert not found.getblocking()
            assert environ == {"OTHER": "kept"}


def test_sockets_of_another_process_are_left_alone() -> None:
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": str(PID + 1)}
    assert sockets.passed_sockets(environ, PID, 10_000) == []
    assert environ == {}


@pytest.mark.parametrize("fds", ["one", "-1", "1.0", " 1", "17", "1" * 5000, "\u0661", "0x1", "\udcff"])
def test_wrong_number_of_sockets_is_named(fds: str) -> None:
    with pytest.raises(UsageError, match="LISTEN_FDS must be a number of sockets from 0 to 16") as raised:
        passed(10_000, fds=fds)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("abstract", [False, True])
def test_states_are_reported_as_datagrams(tmp_path: Path, abstract: bool) -> None:
    name = f"@relay-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(5)
        for state in (sockets.READY, sockets.ALIVE, sockets.STOPPING):
            sockets.notify({"NOTIFY_SOCKET": name}, state)
            assert manager.recv(100) == state.encode()


def test_watchdog_is_reported_to_twice_as_often_as_it_asks() -> None:
    assert sockets.watchdog_seconds({"WATCHDOG_USEC": "30000000"}, PID) == 15.0
    assert sockets.watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(PID)}, PID) == 15.0
    assert sockets.watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, PID) is None
    for environ in ({}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}):
        assert sockets.watchdog_seconds(environ, PID) is None
