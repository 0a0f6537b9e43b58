"""Schedules deliveries: scans for due ones, claims them by lease and gives them slots.

Deliveries of a poll that was just recorded arrive in memory, already leased. The scan finds retries, recoveries and
deliveries that got no slot. A delivery is claimed only for a slot that is free or soon will be, so a slow sink delays
only its own deliveries. Slots are counted in `slots.py`; attempts run in `worker.py`.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from relay.core.deliveries.delivery import Attempt, OutboundRequest, Outcome
from relay.core.deliveries.dialogue import Step, Steps, previewed
from relay.core.events.event import Event
from relay.core.jobs.job import Recipient
from relay.core.records import Lease, Recorded
from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import Filters, filters_of, matches
from relay.core.subscriptions.subscription import PULL, Subscription
from relay.core.values import Progress, value_class
from relay.delivery.dialogues import greet
from relay.delivery.handshakes import Handshakes
from relay.delivery.outcomes import attempt_of
from relay.delivery.shared import DeliverySettings, Shared
from relay.delivery.slots import Portal, Slots, Target
from relay.delivery.worker import DATABASE_RETRY_SECONDS, Signer, Worker
from relay.errors import DecryptError, StoreError
from relay.redaction import secrets_of
from relay.store.deliveries.claims import ClaimRequest
from relay.tasks import Tasks

if TYPE_CHECKING:
    from relay.store.deliveries.claims import Backlog
    from subscribers.base import Kind

IDLE_SCAN_SECONDS = 30.0
RESCAN_SECONDS = 0.05
MIN_PAUSE_SECONDS = 0.001
MAX_RESCAN_SECONDS = 1.0
"""Maximum pause after scans that found due deliveries but claimed none, for example when the clock was set forward and
all deliveries in flight seem due."""
SYNC_SECONDS = 60.0
"""Interval at which a node reads failures and successes of sinks from other nodes."""
EXPEDITE_SECONDS = 3600.0
"""A node that starts within this time after a subscription was enabled again expedites its retries."""
MAX_EXTRA_ATTEMPTS = 20
"""Maximum extra attempts of one delivery due to recoveries. At a sink with few events each success is a recovery, and
an event that it always rejects would be sent again after each of them for days."""
FRESH_WAIT_SECONDS = 1.0
"""Deliveries to a failing sink that have waited this long are demoted behind later ones."""
DEMOTE_CHUNKS = 5
"""Maximum batches that one claim demotes."""
CALLBACKS_PER_SCAN = 1_000
"""Maximum callback subscriptions that one scan loads."""
LOADED_AT_ONCE = 250
"""Subscriptions read and adopted in one step. Other tasks run between two steps."""
OWN = "the relay's own"
"""Key in place of a subscription id if the relay's own secrets cannot be decrypted."""
SCANNED_PER_SECOND = 50_000
"""Maximum backlogged subscriptions that scans read per second. There may be as many as jobs, each scan reads all of
them, and each freed slot triggers another scan."""

log = structlog.get_logger("relay.delivery")


@value_class(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Slots for deliveries that are about to be recorded. Release it with `settle`."""

    lease: Lease
    targets: tuple[Target, ...]


class Share(NamedTuple):
    """Slots taken by a scan for a subscription, and the priorities to claim. Without priorities: a probe."""

    target: Target
    slots: int
    priorities: tuple[int, ...]


class Dispatcher:
    """Sends due deliveries. `run_once()` is one scan; attempts run in their own tasks."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self._deliveries = shared.store.deliveries
        self._subscriptions = shared.store.subscriptions
        self._clock = shared.clock
        self._filters_of: dict[str, Filters] = {}
        """Filters by subscription; absent for one without filters."""
        self._version = -1
        self._gone: set[str] = set()
        self._sync_at = 0.0
        self._rescan_seconds = RESCAN_SECONDS
        self._pause_seconds = 0.0
        """Minimum pause before the next scan."""
        self._tasks = Tasks()
        settings = shared.settings
        self.slots = Slots(concurrency=settings.concurrency, per_host=settings.per_host, due=shared.signals.due)
        self.signer = Signer(shared)
        self.handshakes = Handshakes(shared)
        self._worker = Worker(shared, self.slots, self._tasks, self.signer)
        self._scans = 0

    @property
    def undecryptable(self) -> dict[str, DecryptError]:
        """Decryption errors that block deliveries, by subscription."""
        return self._worker.undecryptable

    def configure(self, settings: DeliverySettings) -> None:
        """Replaces the settings."""
        self.shared.settings = settings
        self.slots.limit(concurrency=settings.concurrency, per_host=settings.per_host)

    # --- called by other components

    def reserve(self, events: Sequence[Event]) -> Reservation | None:
        """Reserves slots for the first deliveries of a job's events. None if nothing matches or no slot is free.

        The only lease that another's commit writes, that of the poll: otherwise each event would wait for a scan and
        for the commit of a claim before it is sent. The scan serves callback subscriptions that are not loaded.
        """
        if self.slots.closed or not events or self._version != self._subscriptions.version:
            return None
        now = self._clock()
        taken: list[Target] = []
        views = [EventView(event.body, event.compared) for event in events] if self._filters_of else []
        for target in self.slots.listed.values():
            filters = self._filters_of.get(target.subscription.id)
            wanted = any(
                matches(
                    target.subscription,
                    event.type,
                    event.source,
                    job_event=event.job_uid is not None,
                    owner=event.owner,
                )
                and (filters is None or filters.passes(views[place]))
                for place, event in enumerate(events)
            )
            if wanted:
                self.slots.fresh_at = now
            if (
                wanted
                and target.sink.may_send(now)
                and self.slots.free(target) > 0
                and target.takes_fresh(now)
                and (target.portal is None or target.portal.take_turn(now))
            ):
                self.slots.occupy(target)
                target.sink.paced(1, now)
                target.count_request(now)
                taken.append(target)
        if not taken:
            return None
        longest = max(self.shared.settings.timeout_of(target.subscription) for target in taken)
        ids = frozenset(target.subscription.id for target in taken)
        return Reservation(lease=self.shared.lease(longest, ids), targets=tuple(taken))

    def settle(self, reservation: Reservation | None, recorded: Recorded) -> None:
        """Starts the deliveries leased with a reservation and frees unused slots. Always call it after `reserve`."""
        due = recorded.due
        for target in reservation.targets if reservation is not None else ():
            leased = [one for one in recorded.claimed if one.subscription_id == target.subscription.id]
            if not leased or not target.known:  # none leased, or the subscription was removed with its deliveries
                self.slots.vacate(target)
                due |= target.has_backlog  # a scan may have skipped it for lack of slots
                continue
            for nth, one in enumerate(leased):  # several only without ordering
                self._worker.start(target, one, has_slot=nth == 0)
        if due:
            self.shared.signals.due.set()

    async def test(self, subscription: Subscription, event: Event) -> tuple[Attempt, Outcome]:
        """Sends one event now, without limits. Nothing is stored."""
        kind = self.shared.kinds[subscription.kind]
        await self.signer.refresh()
        ((sent, outcome),) = await self._worker.exchange(subscription, kind, event)
        shown_sink = kind.redacted_url(subscription.sink)
        secrets = secrets_of(subscription.sink, shown_sink, subscription.headers, sent.secrets)
        stored = outcome.verdict == "delivered" and kind.broker(subscription) is not None
        where = sent.response.detail if stored else None
        return attempt_of(
            1, sent.headers, sent.response, secrets=secrets, decision=where, made_up=sent.made_up
        ), outcome

    async def greet(self, subscription: Subscription, steps: Steps) -> Mapping[str, str]:
        """Facts read from a sink before its subscription is stored. Stores nothing. Raises CheckFailed."""
        return await greet(
            subscription,
            steps,
            credentials=self._worker.credentials.apart(),
            transport=self.shared.transport,
            clock=self._clock,
        )

    async def request_of(
        self, subscription: Subscription, event: Event, recipient: Recipient | None
    ) -> OutboundRequest | None:
        """The first request that is not a GET, as it would be sent now; None if there is none, because the event names
        no person. Raises the errors of the kind of sink."""
        steps = await self.requests_of(subscription, event, recipient)
        return next((step.request for step in steps if step.request.method != "GET"), None)

    async def requests_of(
        self, subscription: Subscription, event: Event, recipient: Recipient | None
    ) -> tuple[Step, ...]:
        """The requests as they would be sent now, with an empty memory and the expected answers. Values from an answer
        or a create are placeholders. Raises the errors of the kind of sink.

        recipient  the recipient in the job's create; only placeholders of its parts are shown
        """
        kind = self.shared.kinds[subscription.kind]
        dialogue = kind.dialogue(subscription)
        if dialogue is not None:
            context = self._worker.context
            if recipient is not None and kind.wants_recipient(subscription):
                context = replace(context, recipient=recipient.shown())
            return previewed(dialogue.steps(event, subscription, context, {}, self._clock()))
        await self.signer.refresh()
        return (Step(request=self._worker.signed(subscription, kind, event), name=""),)

    # --- the loop

    async def run(self) -> None:
        """Repeats `run_once()` until `stop()`, and runs the handshakes concurrently."""
        asking = asyncio.get_running_loop().create_task(self.handshakes.run())
        try:
            await self._scan()
        finally:
            asking.cancel()  # its turns expire
            await asyncio.gather(asking, return_exceptions=True)

    async def _scan(self) -> None:
        while not self.slots.closed:
            self.shared.signals.due.clear()
            self._pause_seconds = 0.0
            try:
                wait_seconds = await self.run_once()
            except StoreError as error:
                if isinstance(error, DecryptError):  # the relay's own secrets: nothing can be signed
                    self.undecryptable[OWN] = error
                log.error("dispatch_failed", error=str(error))
                wait_seconds = DATABASE_RETRY_SECONDS
            except Exception:
                log.exception("dispatch_failed")
                wait_seconds = DATABASE_RETRY_SECONDS
            if self._pause_seconds >= MIN_PAUSE_SECONDS:
                await asyncio.sleep(self._pause_seconds)
            if wait_seconds > self._pause_seconds:
                try:
                    async with asyncio.timeout(wait_seconds - self._pause_seconds):
                        await self.shared.signals.due.wait()
                except TimeoutError:
                    pass

    async def run_once(self) -> float:
        """One scan, in four steps. Returns the seconds until the next one.

        1. Refresh: load changed subscriptions, sink health from other nodes, and callbacks with due deliveries.
        2. Due: find the subscriptions with due deliveries whose sinks may be sent to now.
        3. Share: divide the free slots among them.
        4. Claim: lease due deliveries for these slots, and start their attempts.
        """
        await self._refresh()
        now = self._clock()
        await self._sync_failing(now)
        backlog = await self._deliveries.backlog()
        self._pause_seconds = len(backlog) / SCANNED_PER_SECOND
        all_loaded = await self._load_callbacks(backlog, now)
        self.slots.note_backlog({entry.subscription_id for entry in backlog})
        await _turn_of_others(len(backlog))

        due, next_due = self._due(backlog, now)
        await _turn_of_others(len(backlog))

        shares = self._share(due, now)

        counts = await asyncio.gather(*(self._claim(share, now) for share in shares))
        started = sum(counts)
        waits = [share.target.ready_at for share, count in zip(shares, counts, strict=True) if not count]
        waits = [ready_at for ready_at in waits if ready_at > now]
        next_due = min([next_due, *waits])
        if not all_loaded:
            next_due = now
        if len(waits) < len(shares):  # deliveries behind the claimed ones may be due soon: scan again
            next_due = min(next_due, self._clock() + (0.0 if started else self._rescan_seconds))
            self._rescan_seconds = RESCAN_SECONDS if started else min(2 * self._rescan_seconds, MAX_RESCAN_SECONDS)
        self._scans += 1
        return max(0.0, next_due - self._clock())

    def progress(self) -> Progress:
        """The work done so far."""
        return Progress(turns=self._scans, ended=self._worker.answered, in_flight=self.slots.in_flight)

    async def drain(self) -> None:
        """Waits until nothing is in flight (tests, shutdown)."""
        await self._tasks.drain()

    def cut_off(self) -> None:
        """Cancels all attempts in flight."""
        self._tasks.cancel()

    async def stop(self, timeout_seconds: float) -> None:
        """Stops claiming, releases unsent deliveries at once, and finishes those in flight within `timeout_seconds`.
        The rest keep their leases: they may have arrived."""
        self.slots.close()
        self.shared.signals.due.set()
        await self._tasks.finish(timeout_seconds)

    # --- 1. refresh

    async def _refresh(self) -> None:
        """Reloads the subscriptions and the relay's own secrets if one has changed."""
        version = self._subscriptions.version
        if version == self._version:
            return
        callbacks = [target.subscription.id for target in self.slots if target.subscription.callback]
        failed: dict[str, DecryptError] = {}
        found = await self._subscriptions.all(failed)
        for start in range(0, len(callbacks), LOADED_AT_ONCE):
            found += await self._subscriptions.some(callbacks[start : start + LOADED_AT_ONCE], failed)
        await self.signer.refresh()
        self.undecryptable.clear()
        self.undecryptable.update(failed)
        found = await self._subscriptions.hold_unreadable(found, self._clock())
        found = await self.handshakes.gate(found)
        parsed: dict[str, Filters] = {}
        for one in found:
            filters = filters_of(one.filters)
            if filters is not None:
                parsed[one.id] = filters
        self._filters_of = parsed
        known = {one.id: (one, kind) for one in found if (kind := self._kind_of(one)) is not None}
        self.slots.keep(known.keys())
        for start in range(0, len(found), LOADED_AT_ONCE):
            part = found[start : start + LOADED_AT_ONCE]
            for one in part:
                if one.id in known:
                    self.slots.adopt(*known[one.id])
            await _turn_of_others(len(found))
        self._gone.clear()
        self._version = version

    def _kind_of(self, subscription: Subscription) -> "Kind | None":
        """The kind of a subscription. None for an unknown kind, for example after a downgrade: its deliveries wait.
        None too for pull subscriptions."""
        if subscription.kind == PULL:
            return None
        kind = self.shared.kinds.get(subscription.kind)
        if kind is None:
            log.error("unknown_kind", subscription=subscription.id, kind=subscription.kind)
        return kind

    async def _sync_failing(self, now: float) -> None:
        """Reads sink health from other nodes: a sink is failing only if all nodes saw only failures. Reloads the
        subscriptions after decryption errors: another node may have encrypted a secret again."""
        if now < self._sync_at:
            return
        self._sync_at = now + SYNC_SECONDS
        if self.undecryptable:
            self._version = -1
        failing = await self._subscriptions.failing()
        for target in self.slots:
            target.sink.sync_failing(failing.get(target.subscription.id))

    async def _load_callbacks(self, backlog: Sequence["Backlog"], now: float) -> bool:
        """Loads callbacks with due deliveries, in pages. Returns True once all are loaded."""
        due = [entry.subscription_id for entry in backlog if _due_at(entry) <= now]
        missing = [one for one in due if self.slots.get(one) is None and one not in self._gone]
        page = missing[:CALLBACKS_PER_SCAN]
        for start in range(0, len(page), LOADED_AT_ONCE):
            part = await self._subscriptions.some(page[start : start + LOADED_AT_ONCE], self.undecryptable)
            for one in await self.handshakes.gate(part):
                if self.slots.get(one.id) is None and (kind := self._kind_of(one)) is not None:
                    self.slots.adopt(one, kind)
        self._gone.update(one for one in page if self.slots.get(one) is None)
        return len(page) == len(missing)

    # --- 2. due

    def _due(self, backlog: Sequence["Backlog"], now: float) -> tuple[list[tuple[Target, "Backlog"]], float]:
        """The subscriptions to send to now, each with its backlog, and when the next one is due. One per portal: it
        uses the portal's turn."""
        due: list[tuple[Target, Backlog]] = []
        sharing: dict[Portal, list[tuple[Target, Backlog]]] = {}
        next_due = now + IDLE_SCAN_SECONDS
        for entry in backlog:
            target = self.slots.get(entry.subscription_id)
            earliest = self._earliest(target, entry, now)
            if target is not None and earliest <= now:
                place = due if target.portal is None else sharing.setdefault(target.portal, [])
                place.append((target, entry))
            elif earliest > now:
                next_due = min(next_due, earliest)
        for waiting in sharing.values():  # with a free slot first, then the one whose turn was longest ago
            ranks = [(self.slots.free(one, now) <= 0, one.sink.turns.next_at) for one, _ in waiting]
            due.append(waiting[ranks.index(min(ranks))])
        return due, next_due

    def _earliest(self, target: Target | None, entry: "Backlog", now: float) -> float:
        """The time at which the first of a subscription's backlog may be sent; inf if another event will trigger it."""
        if target is None:  # a callback that is not loaded
            return _due_at(entry)
        portal = target.portal
        match target.subscription.state:
            case "enabled":
                self._expedite_once(target, now)
                turn_at = 0.0 if portal is None else portal.turns.opens_at(now)
                return max(_due_at(entry), target.sink.opens_at(now), target.waits_until(now), turn_at)
            case "disabled" if target.sink.probe_at is not None and not target.claimed:
                if portal is None:
                    return target.sink.probe_at
                return max(target.sink.probe_at, portal.paused_until, portal.turns.opens_at(now))
        return math.inf

    def _expedite_once(self, target: Target, now: float) -> None:
        """Makes waiting retries due, once after each resumption, drain start or recovery."""
        resumed_at = max(target.subscription.drain_since or 0.0, target.subscription.enabled_since or 0.0)
        since = target.sink.start_expediting(resumed_at)
        if since is None or now - since >= EXPEDITE_SECONDS:
            return
        # Recoveries can repeat: without limits, an event that always fails would never be dead.
        schedule_seconds = sum(self.shared.settings.schedule_of(target.subscription))
        limits = () if since == resumed_at else (now - schedule_seconds, MAX_EXTRA_ATTEMPTS)
        self._tasks.start(self._expedite(target, *limits))

    async def _expedite(self, target: Target, *limits: Any) -> None:
        subscription_id, expedite = target.subscription.id, self._deliveries.expedite
        try:
            while await expedite(subscription_id, self._clock(), *limits) and not self.slots.closed:
                pass
        except StoreError as error:
            target.sink.expediting_failed()
            log.error("forward_failed", subscription=subscription_id, error=str(error))
        self.shared.signals.due.set()

    # --- 3. share

    def _share(self, due: Sequence[tuple[Target, "Backlog"]], now: float) -> list[Share]:
        """Takes slots for the due subscriptions, at most an equal share of the free slots for each."""
        shares: list[Share] = []
        self.slots.starved = False
        most = max(1, (self.slots.concurrency - self.slots.in_flight) // max(1, len(due)))
        for target, entry in due:
            if self.slots.in_flight >= self.slots.concurrency:
                self.slots.starved = True
                break
            count = min(most, self.slots.free(target, now))
            priorities: tuple[int, ...] = ()
            if count <= 0:
                self.slots.starve(target)
                continue
            if target.subscription.state == "disabled":
                count = 1
            else:
                priorities = tuple(priority for priority, at in enumerate(entry.due_at) if at is not None and at <= now)
                limit = self.slots.backlogged_limit(target, now)
                if limit < math.inf:  # fresh deliveries first, and a bounded backlog
                    if target.bundle is not None and target.backlogged < limit:
                        pass  # one request for all, and fresh deliveries may have to wait for others
                    elif 0 in priorities:
                        priorities = (0,)
                    else:
                        count = min(count, int(limit) - target.backlogged)
            if count > 0 and target.portal is not None and not target.portal.take_turn(now):
                self.shared.signals.due.set()  # a fresh event has taken the turn: the next scan finds the next one
                continue
            for _ in range(count):  # occupied before the next subscription computes its share
                self.slots.occupy(target)
            if count > 0:
                shares.append(Share(target, count, priorities))
        return shares

    # --- 4. claim

    async def _claim(self, share: Share, now: float) -> int:
        """Claims deliveries for the slots of a share, starts them and frees the other slots. Returns the number of
        requests started: 0 while bundles wait for more events, or another node probes."""
        target, started = share.target, 0
        sink, bundle, probe = target.sink, target.bundle, not share.priorities
        try:
            if 0 in share.priorities and bundle is None and (sink.down or sink.recovered):
                # the backlog of a sink that was down ranks behind new events; a bundle takes the oldest anyway
                for _ in range(DEMOTE_CHUNKS):
                    if not await self._deliveries.demote(target.subscription.id, now - FRESH_WAIT_SECONDS):
                        break
            if not probe:
                sink.recovered = False  # demoted, or gone
            claim = await self._deliveries.claim(
                ClaimRequest(
                    subscription_id=target.subscription.id,
                    now=now,
                    lease=self.shared.lease(self.shared.settings.timeout_of(target.subscription)),
                    priorities=share.priorities,
                    requests=share.slots,
                    bundle=bundle.of_failing_sink() if bundle is not None and sink.failures else bundle,
                    room=target.room(now),
                    probe=probe,
                )
            )
            if probe:
                sink.probe_at = claim.next_at
            else:
                sink.paced(len(claim.requests), now)
                target.checked_at, target.ready_at = now, 0.0 if claim.requests else claim.next_at or 0.0
            for claimed in claim.requests:
                target.count_request(now)
                self._worker.start(target, *claimed)
                started += 1
        finally:
            for _ in range(share.slots - started):
                self.slots.vacate(target)
        return started


async def _turn_of_others(count: int) -> None:
    """Lets other tasks run during a scan of more than LOADED_AT_ONCE subscriptions."""
    if count > LOADED_AT_ONCE:
        await asyncio.sleep(0)


def _due_at(entry: "Backlog") -> float:
    return min(at for at in entry.due_at if at is not None)
