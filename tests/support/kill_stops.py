"""Stops a relay with SIGKILL between two of its steps, in a process that `fork_server` started."""

import asyncio
import functools
import os
import signal
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

SENT_SECONDS = 0.03
"""In this time the upstream has read a request, and may have answered; the answer is not read."""


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

        from relay.bus.publishers import Publishers
        from relay.config.keyring import KeyFile
        from relay.delivery.dispatcher import Dispatcher
        from relay.http import exchange, sender
        from relay.node.audit import AuditLog
        from relay.proxy.creates import Creates
        from relay.proxy.transport import UpstreamTransport
        from relay.sources.client import UpstreamClient
        from relay.store.access.ciphertexts import CiphertextStore
        from relay.store.accounts import AccountStore
        from relay.store.deliveries.deliveries import DeliveryStore
        from relay.store.deliveries.memories import MemoryStore
        from relay.store.deliveries.pulls import PullStore
        from relay.store.deliveries.replays import ReplayStore
        from relay.store.jobs.intents import IntentStore
        from relay.store.jobs.jobs import JobStore
        from relay.store.published import PublishedStore
        from relay.store.store import Store
        from relay.store.subscriptions.subscriptions import SubscriptionStore

        self._around(UpstreamClient, "poll", after="poll.answered")
        self._around(JobStore, "record", before="record.called", after="record.committed", operation="record.written")
        self._around(JobStore, "note", before="note.called")
        self._around(JobStore, "register_many", "register.called", "register.committed", "register.written")
        self._around_claims(DeliveryStore)
        self._around(DeliveryStore, "expedite", after="forward.committed", operation="forward.written")
        self._around(DeliveryStore, "record", "mark.called", "mark.committed", "mark.written")
        self._around(DeliveryStore, "record", after="drain.marked", draining=True)
        self._around(MemoryStore, "take", "turn.called", "turn.committed", "turn.written")
        self._around(MemoryStore, "keep", "keep.called", "keep.committed", "keep.written")
        self._around(sender.Sender, "send", "send.called", "send.answered")
        self._around(sender.Sender, "send", after="drain.answered", draining=True)
        self._around(Publishers, "publish", "broker.called", "broker.acknowledged")
        self._around(IntentStore, "begin", "create.called", "intent.committed", "intent.written")
        self._around(ReplayStore, "advance", "replay.called", "replay.committed", "replay.written")
        self._around(PublishedStore, "record", "publish.called", "publish.committed", "publish.written")
        self._around(PullStore, "claim", "pull.called", "pull.committed", "pull.written")
        self._around(PullStore, "settle", "ack.called", "ack.committed", "ack.written")
        self._around(PullStore, "end_leases", "ended.called", "ended.committed", "ended.written")
        self._around(UpstreamClient, "read_credits", after="credits.answered")
        self._around(AccountStore, "mark_credits", "credits.called", "credits.committed", "credits.written")
        self._around(CiphertextStore, "replace", "again.called", "again.committed", "again.written")
        self._after(KeyFile, "add", "rotation.filed")
        self._around(UpstreamTransport, "send", operation="create.sent")
        self._around(Creates, "_settle_answer", "create.answered", "create.recorded")
        self._around(AuditLog, "begin", "audit.called", "audit.committed", "audit.written")
        self._around(SubscriptionStore, "create", after="subscription.committed")
        self._around(AuditLog, "end", after="audit.ended")
        self._around(Store, "recover_from_crash", "start.migrated", "start.freed")
        self._around(Store, "close", before="stop.closing")
        self._when_sent(exchange, "_answer", "send.sent")
        self._notes(MemoryStore, sender.Sender)
        self._when_sent(exchange, "_answer", "note.sent", operation="note")
        self._when_sent(ClientResponse, "start", "create.sent", operation="create.sent")
        self._on_end(Dispatcher)
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

    def _around_claims(self, deliveries: type) -> None:
        """The points of a probe have other names than those of other claims."""
        plain = deliveries.claim  # type: ignore[attr-defined]
        claims: dict[bool, Any] = {}
        for probe, kind in ((False, "claim"), (True, "probe")):
            deliveries.claim = plain  # type: ignore[attr-defined]
            self._around(deliveries, "claim", f"{kind}.called", f"{kind}.committed", f"{kind}.written")
            claims[probe] = deliveries.claim  # type: ignore[attr-defined]

        async def claim(this: Any, request: Any) -> Any:
            return await claims[request.probe](this, request)

        deliveries.claim = claim  # type: ignore[attr-defined]

    def _after(self, owner: type, name: str, point: str) -> None:
        """For a function that does not wait."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(*arguments: Any) -> Any:
            result = original(*arguments)
            self.at(point)
            return result

        setattr(owner, name, wrapped)

    def _when_sent(self, owner: Any, name: str, point: str, *, operation: str = "") -> None:
        """`name`: what waits for an answer."""
        original = getattr(owner, name)

        async def wait(*arguments: Any) -> Any:
            if self._operation.get() == operation and self._is_last(point):
                await asyncio.sleep(SENT_SECONDS)
                _kill_myself()
            return await original(*arguments)

        setattr(owner, name, wait)

    def _notes(self, memories: type, sender: type) -> None:
        """What a delivery sends after it has remembered something is a note, until it takes another turn."""
        take, keep, send = memories.take, memories.keep, sender.send  # type: ignore[attr-defined]

        async def taking(*arguments: Any) -> Any:
            self._operation.set("")
            return await take(*arguments)

        async def keeping(*arguments: Any) -> Any:
            kept = await keep(*arguments)
            self._operation.set("note")
            return kept

        async def sending(*arguments: Any, **named: Any) -> Any:
            response = await send(*arguments, **named)
            if self._operation.get() == "note":
                self.at("note.answered")
            return response

        memories.take, memories.keep, sender.send = taking, keeping, sending  # type: ignore[attr-defined]

    def _on_end(self, dispatcher: type) -> None:
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

            call = this.database.call

            async def wrapped_call(batch: Any, item: Any) -> Any:
                if self._operation.get() == self._point:
                    batch = self._stopping(batch, in_call=True)
                return await call(batch, item)

            this.database.write, this.database.call = wrapped, wrapped_call

        store.__init__ = make  # type: ignore[misc]

    @functools.lru_cache(maxsize=16)  # noqa: B019 - one for each function, so that their items share a call
    def _stopping(self, batch: Callable[..., Any], *, in_call: bool = False) -> Callable[..., Any]:
        def stopping(connection: Any, items: Any) -> Any:
            if in_call:  # a transaction by itself: it would be committed
                connection.exec_driver_sql("BEGIN")
            result = batch(connection, items)
            self.at(self._point)
            if in_call:
                connection.exec_driver_sql("COMMIT")
            return result

        return stopping


def _kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
