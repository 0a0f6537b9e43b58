"""Keeps jobs that upstream has created but the database has not accepted in memory, and records them once it does.

Their number is bounded. If the process ends first, each job's intent is in the database as a create of unknown outcome;
the log and the answer to its create have the job's id.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import structlog

from relay.clock import Clock
from relay.core import relay_events
from relay.core.events.event import CREATE_UNKNOWN, Event, owner_of, relay_event
from relay.core.polling.tracking import TrackRequest
from relay.core.records import Intent
from relay.errors import RelayError
from relay.ids import new_id
from relay.proxy.types import Caller

if TYPE_CHECKING:
    from relay.store.jobs.intents import IntentStore

MAX_UNRECORDED = 1_000
AGAIN_SECONDS = 1.0
MAX_FAILED = 3
"""Consecutive failures after which a run ends until AGAIN_SECONDS later."""

log = structlog.get_logger("relay.proxy")


class MadeJob(NamedTuple):
    """A job that upstream has created."""

    intent: Intent
    caller: Caller
    request: TrackRequest


class Unrecorded:
    """Retries recording every AGAIN_SECONDS. `record` raises if it fails."""

    def __init__(self, record: Callable[[MadeJob], Awaitable[object]]) -> None:
        self._record = record
        self._waiting: deque[MadeJob] = deque()
        self._running: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def keep(self, made: MadeJob, error: Exception) -> None:
        """Keeps a job to record it once the database accepts it, if there is room. `error`: why recording failed."""
        if len(self._waiting) < MAX_UNRECORDED:
            self._waiting.append(made)
            hint = "it is recorded as soon as the database is back"
            if self._running is None:
                self._running = asyncio.get_running_loop().create_task(self._run())
        else:
            hint = f"{MAX_UNRECORDED} jobs wait to be recorded already: its create will be listed as unknown"
        unknown = None if isinstance(error, RelayError) else error
        _say_missing(made, error=str(error), hint=hint, exc_info=unknown)

    async def finish(self, timeout_seconds: float) -> None:
        """Waits until all are recorded, at most `timeout_seconds`."""
        if self._running is not None:
            await asyncio.wait([self._running], timeout=timeout_seconds)
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        for made in self._waiting:
            _say_missing(made, error="the relay stops", hint="its create will be listed as unknown")

    async def _run(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(AGAIN_SECONDS)
                await self._try_all()
        finally:
            self._running = None

    async def _try_all(self) -> None:
        failed = 0
        for _ in range(len(self._waiting)):
            made = self._waiting[0]
            try:
                await self._record(made)
            except Exception:
                self._waiting.rotate(-1)
                failed += 1
                if failed == MAX_FAILED:
                    return
            else:
                failed = 0
                self._waiting.popleft()
                log.info("job_recorded_late", job=made.request.external_id, intent=made.intent.id)


def _say_missing(made: MadeJob, **fields: object) -> None:
    log.error("job_not_recorded", job=made.request.external_id, intent=made.intent.id, **fields)


COUNT = 100


class UnknownCreates:
    """Announces creates of unknown outcome.

    The event and the mark on the intent are one transaction, so each intent gets exactly one event: from the node that
    lost the answer, or after a crash from the first node that finds it.
    """

    def __init__(
        self, intents: "IntentStore", *, clock: Clock, dataschema_base: str, recorded: Callable[[Event], None]
    ) -> None:
        """`recorded` is called with each recorded event."""
        self._intents = intents
        self._clock = clock
        self._dataschema = relay_events.dataschema_for(CREATE_UNKNOWN, dataschema_base)
        self._recorded = recorded

    async def announce(self) -> None:
        """Records the missing events. Raises StoreError; the next call continues."""
        while found := await self._intents.unreported(self._clock(), COUNT):
            for intent in found:
                await self._announce(intent)
            if len(found) < COUNT:
                return

    async def _announce(self, intent: Intent) -> None:
        try:
            event = self._event(intent)
        except Exception:  # one bad intent must not block the others
            log.exception("create_not_shown", intent=intent.id)
            event = self._event(replace(intent, metadata=None, request=None))
        if await self._intents.report(intent, event):
            log.warning(
                CREATE_UNKNOWN, intent=intent.id, event_id=event.id, account=intent.account, cause=intent.reason
            )
            self._recorded(event)

    def _event(self, intent: Intent) -> Event:
        now, data = self._clock(), relay_events.create_unknown_data(intent)
        return relay_event(
            new_id("evt", now),
            CREATE_UNKNOWN,
            now,
            data,
            dataschema=self._dataschema,
            subject=intent.id,
            owner=owner_of(intent.source, intent.account),
        )
