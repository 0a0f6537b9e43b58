"""Creates of unknown outcome: one `relay.create.unknown` event each."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from relay.clock import Clock
from relay.core import relay_events
from relay.core.events.event import CREATE_UNKNOWN, Event, owner_of, relay_event
from relay.core.records import Intent
from relay.ids import new_id

if TYPE_CHECKING:
    from relay.store.jobs.intents import IntentStore

COUNT = 100

log = structlog.get_logger("relay.proxy")


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
