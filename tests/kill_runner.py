"""Starts the relay's commands again and again without the second that their imports take, and has them kill themselves.

A process of its own that imports the relay once and forks; the child runs the command as the shell would. Orders are
lines of JSON on standard input, each with one line as answer; at the end of the input every child is killed. Until a
child has been waited for its process id is nobody else's.

    {"start": name, "arguments": […], "environ": {…}, "folder": …, "log": …, "stop": [point, passage],
     "constants": {"module:NAME": value}}
    {"signal": name, "number": n}     {"freeze": name}     {"wait": name, "seconds": s}
"""

import asyncio
import contextlib
import functools
import gc
import importlib
import json
import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

IMPORTED = (
    *(
        "relay.app",
        "relay.cli",
        "relay.cli.serve",
        "relay.cli.sockets",
        "relay.config",
        "relay.process",
        "relay.reload",
    ),
    *("relay.sandbox.server", "alembic.command", "alembic.config", "uvloop", "uvicorn", "uvicorn.lifespan.off"),
    *("uvicorn.loops.uvloop", "uvicorn.protocols.http.httptools_impl"),
    *("asyncpg", "relay.cluster", "relay.store.postgres", "sqlalchemy.dialects.postgresql.asyncpg"),
)
POLL_SECONDS = 0.002
CRASHED = 70
SENT_SECONDS = 0.03
"""In this time the other side has read a request, and may have answered: nobody reads the answer."""


class Children:
    """The processes that were started and not yet waited for, by name."""

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}

    def start(self, order: dict[str, Any]) -> None:
        name = order["start"]
        assert name not in self._pids, f"{name} runs already"
        pid = os.fork()
        if pid == 0:
            _run(order)
        self._pids[name] = pid

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
    gc.freeze()
    children = Children()
    try:
        for line in sys.stdin:
            order = json.loads(line)
            answer: Any = True
            if "start" in order:
                children.start(order)
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


def _run(order: dict[str, Any]) -> None:
    """The child: never returns."""
    code = CRASHED
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        sys.stdin = os.fdopen(0)  # the other one has read on in its pipe
        os.chdir(order["folder"])
        os.environ.clear()
        os.environ.update(order["environ"])
        _differ()
        for name, value in order.get("constants", {}).items():
            module_name, _, constant = name.partition(":")
            module = importlib.import_module(module_name)
            assert hasattr(module, constant), name
            setattr(module, constant, value)
        if order.get("stop") is not None:
            Stop(*order["stop"]).put_in()
        from relay.cli import run

        code = run(order["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _differ() -> None:
    """What two processes never share: where their ids come from."""
    from relay import ids

    ids._random.seed(secrets.token_bytes(32))


class Stop:
    """SIGKILL to this process as it passes a point (see `kill_points`) for the n-th time."""

    def __init__(self, point: str, passage: int) -> None:
        self._point = point
        self._left = passage
        self._draining = False
        self._operation: ContextVar[str] = ContextVar("kill_operation", default="")

    def at(self, point: str) -> None:
        if self._is_last(point):
            _kill_myself()

    def _is_last(self, point: str) -> bool:
        if point != self._point:
            return False
        self._left -= 1
        return self._left == 0

    def put_in(self) -> None:
        """Wraps the calls between which the points lie."""
        from aiohttp import ClientResponse

        from relay import sender
        from relay.dispatcher import Dispatcher
        from relay.dropin.creates import Creates
        from relay.sources.client import UpstreamClient
        from relay.sources.passage import Passage
        from relay.store.deliveries import DeliveryStore
        from relay.store.intents import IntentStore
        from relay.store.jobs import JobStore
        from relay.store.replays import ReplayStore
        from relay.store.store import Store

        self._around(UpstreamClient, "look", after="look.answered")
        self._around(JobStore, "record", before="record.called", after="record.committed", operation="record.written")
        self._around(JobStore, "note", before="note.called")
        self._around(JobStore, "register", "register.called", "register.committed", "register.written")
        self._around(DeliveryStore, "claim_due", "claim.called", "claim.committed", "claim.written")
        self._around(DeliveryStore, "claim_probe", "probe.called", "probe.committed", "probe.written")
        self._around(DeliveryStore, "bring_forward", after="forward.committed", operation="forward.written")
        self._around(DeliveryStore, "mark", "mark.called", "mark.committed", "mark.written")
        self._around(DeliveryStore, "mark", after="drain.marked", draining=True)
        self._around(sender.Sender, "send", "send.called", "send.answered")
        self._around(sender.Sender, "send", after="drain.answered", draining=True)
        self._around(IntentStore, "begin", "create.called", "intent.committed", "intent.written")
        self._around(ReplayStore, "advance", "replay.called", "replay.committed", "replay.written")
        self._around(Passage, "send", operation="create.sent")
        self._around(Creates, "_take_in", "create.answered", "create.recorded")
        self._around(Store, "free_what_a_crash_left", "start.migrated", "start.freed")
        self._around(Store, "close", before="stop.closing")
        self._when_sent(sender._TrackedResponse, "send.sent")
        self._when_sent(ClientResponse, "create.sent", operation="create.sent")
        self._when_told_to_end(Dispatcher)
        self._before_commits(Store)

    def _around(
        self,
        owner: type,
        name: str,
        before: str = "",
        after: str = "",
        operation: str = "",
        *,
        draining: bool = False,
    ) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        async def wrapped(*arguments: Any, **named: Any) -> Any:
            self.at(before)
            token = self._operation.set(operation) if operation else None
            try:
                result = await original(*arguments, **named)
            finally:
                if token is not None:
                    self._operation.reset(token)
            if self._draining or not draining:
                self.at(after)
            return result

        setattr(owner, name, wrapped)

    def _when_sent(self, response: type, point: str, *, operation: str = "") -> None:
        original = response.start  # type: ignore[attr-defined]

        async def start(this: Any, connection: Any) -> Any:
            if self._operation.get() == operation and self._is_last(point):
                await asyncio.sleep(SENT_SECONDS)
                _kill_myself()
            return await original(this, connection)

        response.start = start  # type: ignore[attr-defined]

    def _when_told_to_end(self, dispatcher: type) -> None:
        original = dispatcher.stop  # type: ignore[attr-defined]

        async def stop(this: Any, timeout_seconds: float) -> None:
            self._draining = True
            if this._tasks:
                self.at("drain.begun")
            await original(this, timeout_seconds)

        dispatcher.stop = stop  # type: ignore[attr-defined]

    def _before_commits(self, store: type) -> None:
        """The batch functions of one operation stop where they have done their work: what follows is the commit."""
        original = store.__init__  # type: ignore[misc]

        def make(this: Any, *arguments: Any, **named: Any) -> None:
            original(this, *arguments, **named)
            write = this.database.write

            async def wrapped(batch: Any, item: Any) -> Any:
                if self._operation.get() == self._point:
                    batch = self._stopping(batch)
                return await write(batch, item)

            this.database.write = wrapped

        store.__init__ = make  # type: ignore[misc]

    @functools.lru_cache(maxsize=16)  # noqa: B019 - one for each function, so that their items share a call
    def _stopping(self, batch: Callable[..., Any]) -> Callable[..., Any]:
        def stopping(connection: Any, items: Any) -> Any:
            result = batch(connection, items)
            self.at(self._point)
            return result

        return stopping


if __name__ == "__main__":
    main()
