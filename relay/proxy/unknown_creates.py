"""Creates of unknown outcome: one `relay.create.unknown` event each, and how a person resolves them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from relay.clock import Clock
from relay.core import relay_events
from relay.core.events import CREATE_UNKNOWN, Event, relay_event
from relay.core.records import Intent, Registered, Resolution
from relay.core.tracking import TrackRequest
from relay.errors import Conflict, NotFound, RequestError
from relay.ids import new_id

COUNT = 100

log = structlog.get_logger("relay.dropin")


class Intents(Protocol):
    """The store's intents, for announcing."""

    async def unreported(self, now: float, count: int) -> list[Intent]: ...
    async def report(self, id: str, event: Event) -> bool: ...


class Resolvable(Protocol):
    """The store's intents, for resolving."""

    async def get(self, id: str) -> Intent | None: ...
    def in_flight(self, intent: Intent, now: float) -> bool: ...
    async def resolve(self, id: str, fate: Resolution, now: float) -> Intent | None: ...


class Tracking(Protocol):
    """Registers jobs."""

    async def register(self, requests: Sequence[TrackRequest]) -> list[Registered | RequestError]: ...


class UnknownCreates:
    """Announces creates of unknown outcome.

    The event and the mark on the intent are one transaction, so each intent gets exactly one event: from the node that
    lost the answer, or after a crash from the first node that finds it.
    """

    def __init__(
        self, intents: Intents, *, clock: Clock, dataschema_base: str, recorded: Callable[[Event], None]
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
        if await self._intents.report(intent.id, event):
            log.warning(
                CREATE_UNKNOWN, intent=intent.id, event_id=event.id, account=intent.account, cause=intent.reason
            )
            self._recorded(event)

    def _event(self, intent: Intent) -> Event:
        now, data = self._clock(), relay_events.create_unknown_data(intent)
        return relay_event(
            new_id("evt", now), CREATE_UNKNOWN, now, data, dataschema=self._dataschema, subject=intent.id
        )


async def resolve(
    intents: Resolvable, tracking: Tracking, intent_id: str, fate: Resolution, job_id: str | None, *, now: float
) -> Intent:
    """Records the outcome of a create. With `job_id`, tracks that job in the same transaction, with the metadata and
    callback of the create. Raises NotFound, Conflict, RequestError."""
    intent = await intents.get(intent_id)
    if intent is None:
        raise NotFound(f"there is no create {intent_id[:200]!r} whose fate is unknown", code="intent_not_found")
    if intent.fate is not None:
        raise Conflict(f"{intent.id} was resolved already: {intent.fate}", code="intent_resolved")
    if intents.in_flight(intent, now):
        raise Conflict(f"{intent.id} is still in flight: its answer may come", code="intent_in_flight")
    if job_id is None:
        resolved = await intents.resolve(intent.id, fate, now)
        if resolved is None:
            raise Conflict(f"{intent.id} was resolved meanwhile", code="intent_resolved")
        return resolved
    request = TrackRequest(
        external_id=job_id,
        source=intent.source,
        account=intent.account,
        callback_url=intent.callback_url,
        callback_types=intent.callback_types,
        metadata=intent.metadata,
        request=intent.request,
        connect_account_id=intent.connect_account_id,
        resolves=intent,
    )
    (result,) = await tracking.register((request,))
    if isinstance(result, RequestError):
        raise result
    return replace(intent, fate=fate, job_id=job_id)
