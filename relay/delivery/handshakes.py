"""Asks the sinks of pending subscriptions for consent, and enables the subscriptions of those that agree.

One node at a time asks a sink, under a turn that expires if the node dies: then the sink is asked again. Consent and
the new state are one write, and only if the subscription was not changed during the turn.
"""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from relay.core.jsontext import storable
from relay.core.subscriptions import handshake
from relay.core.subscriptions.subscription import Consent, Subscription
from relay.errors import StoreError
from relay.redaction import host_of, redact_text
from relay.tasks import Tasks
from subscribers.registry import infer_kind

if TYPE_CHECKING:
    from relay.delivery.shared import Shared

MAX_ASKING = 16
"""Maximum concurrent handshakes, each with another host: a thousand URLs of one host delay no other."""
PAGE_COUNT = 200
START = (0.0, "")
MARGIN_SECONDS = 5.0
IDLE_SECONDS = 30.0
RETRY_SECONDS = 1.0
WAIVE_SECONDS = 60.0
"""Minimum time before a pending subscription is enabled without consent. While nodes have different minimums, during a
change of settings, they would otherwise toggle its state and expedite its retries each time."""
REASON_CHARACTERS = 200

log = structlog.get_logger("relay.delivery")


class Handshakes:
    """Handshakes of one node."""

    def __init__(self, shared: "Shared") -> None:
        self._shared = shared
        self._rows = shared.store.handshakes
        self._subscriptions = shared.store.subscriptions
        self._soon = asyncio.Event()
        self._after = START
        self._asking: set[str] = set()
        """Hosts whose sinks are being asked."""
        self.tasks = Tasks()

    async def gate(self, subscriptions: list[Subscription]) -> list[Subscription]:
        """The subscriptions. Those that await consent become pending: nothing may be sent to them."""
        minimum, now = self._shared.settings.handshake, self._shared.clock()
        sent_to = [one for one in subscriptions if one.state == "enabled" or one.probe_at is not None]
        held = {one.id: one for one in sent_to if handshake.awaits_consent(one, minimum, infer_kind)}
        await asyncio.gather(*(self._rows.await_consent(one, now) for one in held.values()))
        if held or any(one.state == "pending" for one in subscriptions):
            self._soon.set()
        return [replace(one, state="pending", probe_at=None) if one.id in held else one for one in subscriptions]

    async def run(self) -> None:
        """Repeats `run_once()` until cancelled. Handshakes under way are then cancelled too: their turns expire."""
        try:
            while True:
                self._soon.clear()
                wait_seconds = RETRY_SECONDS
                try:
                    wait_seconds = await self.run_once()
                except Exception as error:
                    _log_failure(error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_seconds):
                        await self._soon.wait()
        finally:
            self.tasks.cancel()
            await self.tasks.drain()

    async def run_once(self) -> float:
        """Starts to ask sinks that are due, one of each host at a time. Returns the seconds until the next one."""
        now = self._shared.clock()
        pending = await self._rows.pending(after=self._after, count=PAGE_COUNT)
        due = [id for at, id in pending if at <= now]
        self._after = pending[-1] if len(due) == PAGE_COUNT else START
        for one in await self._subscriptions.some(due, failed={}) if due else ():
            if len(self._asking) < MAX_ASKING and host_of(one.sink) not in self._asking:
                self._asking.add(host_of(one.sink))
                self.tasks.start(self._ask_host(one))
        if self._after != START:
            return 0.0 if len(self._asking) < MAX_ASKING else IDLE_SECONDS
        return min([IDLE_SECONDS, *(at - now for at, _ in pending if at > now)])

    async def _ask_host(self, one: Subscription) -> None:
        try:
            await self._ask(one)
        except Exception as error:
            _log_failure(error)
            await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._asking.discard(host_of(one.sink))
            self._soon.set()  # the next one of this host may be due

    async def _ask(self, before: Subscription) -> None:
        settings, now = self._shared.settings, self._shared.clock()
        until = now + settings.timeout_of(before) + MARGIN_SECONDS
        if not await self._rows.take_turn(before.id, now, until):
            return
        one = await self._subscriptions.get(before.id)  # as it is during the turn
        if one is None:
            return
        since, consent, at = one.state_since or one.created_at, one.consent, None
        if handshake.awaits_consent(one, settings.handshake, infer_kind):
            origin = handshake.origin_name(settings.base_url)
            request = handshake.validation_request(one, origin)
            response = await self._shared.transport.send(request, timeout_seconds=settings.timeout_of(one))
            now = self._shared.clock()
            result = handshake.read_validation(response, origin, now)
            if isinstance(result, Consent):
                consent, reason = result, "the sink has consented"
            else:
                at = handshake.next_try_at(since=since, now=now, refusal=result)
                reason = f"{handshake.WAITS}: {redact_text(storable(result.why))[:REASON_CHARACTERS]}"
        else:  # the minimum was lowered
            reason = "needs no consent"
            at = since + WAIVE_SECONDS if 0 <= now - since < WAIVE_SECONDS else None
        kept = await self._rows.end_turn(one.id, until, now, reason, consent, at)
        log.info("handshake", subscription=one.id, host=host_of(one.sink), reason=reason, kept=kept)
        if at is None:
            self._shared.signals.due.set()


def _log_failure(error: Exception) -> None:
    log.error("handshakes_failed", error=str(error), exc_info=not isinstance(error, StoreError))
