"""Starts the relay's commands again and again without the second that their imports take.

A process of its own that imports the relay once and forks; the child runs the command as the shell would. Orders are
lines of JSON on standard input, each with one line as answer; at the end of the input every child is killed. A
child's process id is not reused before the child has been waited for.

    {"start": name, "arguments": […], "environ": {…}, "folder": …, "stdout": path, "stderr": path, "limits": "…",
     "stop": [point, passage], "constants": {"module:NAME": value}}                       answers its process id
    {"signal": name, "number": n}     {"freeze": name}     {"wait": name, "seconds": s}

`stop` (see `kill_points`) has the child kill itself there; `limits` are those of `process_world.Process`.
"""

import atexit
import ctypes
import functools
import gc
import importlib
import json
import os
import resource
import secrets
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import typer.main

IMPORTED = (
    *(
        "relay.node.opening",
        "relay.cli",
        "relay.cli.node.serve",
        "relay.server.http_server",
        "relay.config.settings",
        "relay.node.interpreter",
    ),
    *(
        "relay.web.app",
        "relay.sandbox.server",
        "alembic.command",
        "alembic.config",
        "uvloop",
        "uvicorn",
        "uvicorn.lifespan.off",
    ),
    *("uvicorn.loops.uvloop", "uvicorn.protocols.http.httptools_impl"),
    *("asyncpg", "relay.node.cluster", "relay.store.databases.postgres", "sqlalchemy.dialects.postgresql.asyncpg"),
)
POLL_SECONDS = 0.002
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2

Order = Mapping[str, Any]


class Children:
    """The processes that were started and not yet waited for, by name."""

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}

    def start(self, order: Order) -> int:
        """Its process id; 0 in the child."""
        name = order["start"]
        assert name not in self._pids, f"{name} runs already"
        streams = [
            os.open(os.devnull, os.O_RDONLY),
            *(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for name in ("stdout", "stderr")),
        ]
        pid = os.fork()
        if pid == 0:
            for target, source in enumerate(streams):
                os.dup2(source, target)
        for stream in streams:
            os.close(stream)
        self._pids[name] = pid
        return pid

    def signal(self, name: str, number: int) -> None:
        os.kill(self._pids[name], number)

    def freeze(self, name: str) -> bool:
        """SIGSTOP; returns when every thread has stopped. Whether it is frozen: it may have ended before."""
        self.signal(name, signal.SIGSTOP)
        ended = os.waitid(os.P_PID, self._pids[name], os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return ended is not None and ended.si_code == os.CLD_STOPPED

    def wait(self, name: str, seconds: float) -> int | None:
        """Its exit code, negative for a signal; None when it is still there after that time."""
        latest = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self._pids[name], os.WNOHANG)
            if pid:
                del self._pids[name]
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > latest:
                return None
            time.sleep(POLL_SECONDS)

    def kill_all(self) -> None:
        for pid in self._pids.values():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    # The tree of commands takes longer to make than most commands take.
    typer.main.get_command = functools.cache(typer.main.get_command)
    dict(typer.main.get_command(sys.modules["relay.cli"].app).commands)  # type: ignore[attr-defined]  # imports all
    gc.freeze()
    order = _serve()
    if order is not None:
        _end(_run(order))


def _end(code: int) -> NoReturn:
    """Ends as Python does, but without taking every module apart: that copies the memory that the fork shares."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _serve() -> Order | None:
    """Carries out orders. Returns twice for a `start` whose process then ends: in the child, with its order."""
    children = Children()
    try:
        for line in sys.stdin:
            order = json.loads(line)
            answer: Any = True
            if "start" in order:
                answer = children.start(order)
                if answer == 0:
                    children = Children()  # the others are not this one's to kill
                    return order  # type: ignore[no-any-return]
            elif "signal" in order:
                children.signal(order["signal"], order["number"])
            elif "freeze" in order:
                answer = children.freeze(order["freeze"])
            else:
                answer = children.wait(order["wait"], order["seconds"])
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        children.kill_all()
    return None


def _run(order: Order) -> int:
    """The child: what `relay` would do if it was called so."""
    sys.stdin = os.fdopen(0)  # the other one has read on in its pipe
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environ"])
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    _differ()
    _limit(order.get("limits", ""))
    for name, value in order.get("constants", {}).items():
        module_name, _, constant = name.partition(":")
        module = importlib.import_module(module_name)
        assert hasattr(module, constant), name
        setattr(module, constant, value)
    if order.get("stop") is not None:
        from tests.support.kill_stops import Stop

        Stop(*order["stop"]).put_in()
    from relay.cli import run

    return run(order["arguments"])


def _limit(limits: str) -> None:
    for limit in limits.split():
        name, _, most = limit.partition("=")
        if name == "UNPRIVILEGED":  # root has to obey file permissions then
            _drop_capabilities(CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH)
        else:
            kind = getattr(resource, name)
            resource.setrlimit(kind, (int(most), resource.getrlimit(kind)[1]))


def _drop_capabilities(*numbers: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # the version of the structure; this process
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0, ctypes.get_errno()
    for number in numbers:
        for at in range(3):  # effective, permitted, inheritable
            sets[at] &= ~(1 << number)
    assert libc.capset(header, sets) == 0, ctypes.get_errno()


def _differ() -> None:
    """What two processes never share: where their ids come from."""
    from relay import ids

    ids._random.seed(secrets.token_bytes(32))


if __name__ == "__main__":
    main()
