"""Asks the sinks of pending subscriptions for consent, and enables the subscriptions of those that agree.

One node at a time asks a sink, under a turn that expires if the node dies: then the sink is asked again. Consent and
the new state are one write. A sink is asked at growing intervals for a day, and later only on `resume` or on a lower
minimum in the settings.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from relay.core.subscriptions import handshake
from relay.core.subscriptions.handshake import Agreement
from relay.core.subscriptions.subscription import Consent, Subscription
from relay.core.text import storable
from relay.errors import StoreError
from relay.redaction import host_of, redact_text
from relay.tasks import Tasks
from subscribers.registry import infer_kind

if TYPE_CHECKING:
    from relay.delivery.shared import Shared

MAX_ASKING = 16
"""Maximum concurrent handshakes, one per host: a thousand URLs of one host use one of them."""
SWEEP_COUNT = 200
FIRST = (0.0, "")
MARGIN_SECONDS = 30.0
IDLE_SECONDS = 30.0
RETRY_SECONDS = 1.0
WAIVE_SECONDS = 60.0
"""Minimum time before a pending subscription is enabled without consent. While nodes have different minimums, during a
change of settings, they would otherwise toggle its state and expedite its retries each time."""
REASON_CHARACTERS = 200

log = structlog.get_logger("relay.delivery")


class Handshakes:
    """Handshakes of one node. `run_once()` starts those that are due; each runs in its own task."""

    def __init__(self, shared: "Shared") -> None:
        self.tasks = Tasks()
        self._shared = shared
        self._rows = shared.store.handshakes
        self._subscriptions = shared.store.subscriptions
        self._clock = shared.clock
        self._soon = asyncio.Event()
        self._stopped = False
        self._after = FIRST
        self._asking: dict[str, str] = {}
        """Hosts of the handshakes in progress, by subscription."""

    # --- called by the dispatcher

    async def gate(self, subscriptions: Iterable[Subscription]) -> list[Subscription]:
        """The subscriptions. Those that await consent become pending: nothing may be sent to them."""
        found = list(subscriptions)
        awaiting = [
            one
            for one in found
            if (one.state == "enabled" or one.probe_at is not None)
            and handshake.awaits_consent(one, self._shared.settings.handshake, infer_kind)
        ]
        if awaiting:
            await self._rows.await_consent(awaiting, self._clock())
            held = {one.id for one in awaiting}
            found = [replace(one, state="pending", probe_at=None) if one.id in held else one for one in found]
        minimum = self._shared.settings.handshake
        if idle := [one.id for one in found if handshake.is_asked_no_more(one, minimum, infer_kind)]:
            await self._rows.ask_again(idle, self._clock())
        if any(one.state == "pending" for one in found):
            self._soon.set()
        return found

    # --- the loop

    async def run(self) -> None:
        """Repeats `run_once()` until `stop()`."""
        while not self._stopped:
            self._soon.clear()
            try:
                wait_seconds = await self.run_once()
            except Exception as error:
                if not isinstance(error, StoreError):
                    log.exception("handshakes_failed")
                log.error("handshakes_failed", error=str(error))
                wait_seconds = RETRY_SECONDS
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._soon.wait()
            except TimeoutError:
                pass

    async def run_once(self) -> float:
        """Starts due handshakes, up to MAX_ASKING at once. Returns the seconds until the next one."""
        now = self._clock()
        due = await self._rows.due_handshakes(now, after=self._after, count=SWEEP_COUNT)
        self._after = due[-1] if len(due) == SWEEP_COUNT else FIRST
        for one in await self._subscriptions.some([id for _, id in due], failed={}) if due else ():
            host = host_of(one.sink)
            if len(self._asking) < MAX_ASKING and one.id not in self._asking and host not in self._asking.values():
                self._asking[one.id] = host
                self.tasks.start(self._handshake(one))
        if self._after != FIRST:
            return 0.0 if len(self._asking) < MAX_ASKING else IDLE_SECONDS
        at = await self._rows.next_handshake_at(now)
        return IDLE_SECONDS if at is None else min(max(at - now, 0.0), IDLE_SECONDS)

    async def stop(self, timeout_seconds: float) -> None:
        """Starts no more handshakes, and finishes those in progress within the timeout."""
        self._stopped = True
        self._soon.set()
        await self.tasks.finish(timeout_seconds)

    # --- one handshake

    async def _handshake(self, subscription: Subscription) -> None:
        try:
            await self._ask_in_turn(subscription)
        except StoreError as error:
            log.error("handshake_failed", subscription=subscription.id, error=str(error))
        except Exception:
            log.exception("handshake_failed", subscription=subscription.id)
        finally:
            del self._asking[subscription.id]
            self._soon.set()  # the next handshake may start

    async def _ask_in_turn(self, subscription: Subscription) -> None:
        settings = self._shared.settings
        now = self._clock()
        since = subscription.state_since or subscription.created_at
        if not handshake.awaits_consent(subscription, settings.handshake, infer_kind):  # the minimum was lowered
            agreed = subscription.consent is not None and subscription.consent.granted
            if not agreed and 0 <= now - since < WAIVE_SECONDS:
                await self._rows.handshake_turn(subscription.id, now, since + WAIVE_SECONDS)
            elif await self._rows.waive_consent(subscription.id, now, "needs no consent"):
                self._shared.due.set()
            return
        until = now + settings.timeout_of(subscription) + MARGIN_SECONDS
        if not await self._rows.handshake_turn(subscription.id, now, until):
            return
        present = await self._subscriptions.get(subscription.id)  # its sink may have changed before the turn
        if present is None:
            return
        subscription, since = present, present.state_since or present.created_at
        origin = handshake.origin_name(settings.base_url)
        request = handshake.validation_request(subscription, origin)
        response = await self._shared.transport.send(request, timeout_seconds=settings.timeout_of(subscription))
        now = self._clock()
        result = handshake.read_validation(response, origin, now)
        if isinstance(result, Agreement):
            await self._end(subscription, handshake.consent_of(result, origin, now), "the sink has consented")
            return
        why = redact_text(storable(result.why))[:REASON_CHARACTERS]
        log.warning("no_consent", subscription=subscription.id, host=host_of(subscription.sink), why=why)
        if handshake.effective(subscription.handshake, settings.handshake) == "optional":
            consent = Consent(granted=False, origin=origin, at=now)
            await self._end(subscription, consent, f"goes on without consent: {why}")
            return
        at = handshake.next_try_at(since=since, now=now, refusal=result)
        reason = f"{handshake.WAITS}: {why}" if at is not None else f"no consent within a day: {why}; resume asks again"
        await self._rows.postpone_handshake(subscription.id, until, at, reason)

    async def _end(self, subscription: Subscription, consent: Consent, reason: str) -> None:
        kept = await self._rows.end_handshake(subscription, consent, reason)
        log.info("handshake", subscription=subscription.id, host=host_of(subscription.sink), reason=reason, kept=kept)
        self._shared.due.set()
