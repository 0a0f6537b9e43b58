"""Watches of an account: of its connect accounts, which it sends from, and of its credits. Each reads now and then, and
records what changed.

All that a listing decides, and when each is due, is in `relay/core/jobs/connect_accounts.py`. Until the upstream has
answered a request since this node polls the account, a listing also tries the key (`AccountHealth.key_tried`). After
that, polls find out about keys and outages, and a failed listing says nothing; nor does a failed reading of credits.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import structlog

from relay.core import relay_events
from relay.core.events.event import CREDITS_LOW, Event, account_event, account_type_prefix, owner_of, relay_event
from relay.core.jobs.connect_accounts import ConnectAccount, ListingTimes, compare, confirm_at
from relay.core.polling.tracking import CreditsReading
from relay.core.records import ListingRecord
from relay.errors import StoreError
from relay.ids import new_id
from relay.polling.account import PolledAccount
from relay.polling.agenda import Agenda
from relay.redaction import redact_text

if TYPE_CHECKING:
    from relay.sources.client import PollResult

log = structlog.get_logger("relay.polling")


class Watch(ABC):
    """Reads something of one upstream account now and then, while this node polls it.

    The first run loads what is known, by whichever node. Each later one is one request.
    """

    what: ClassVar[str]
    """In the log."""

    def __init__(self, account: PolledAccount, agenda: Agenda) -> None:
        self._account = account
        self._agenda = agenda
        self._working = False
        self.reset()

    def reset(self) -> None:
        """Forgets what was read: the node that polls the account, or the settings, have changed."""
        self._times = ListingTimes(self._account.settings.listing_interval_seconds)
        self._is_loaded = False

    def next_at(self) -> float | None:
        """The time of the next call of `run_once`, in epoch seconds; None while it runs."""
        if self._working:
            return None
        now, planner = self._account.clock(), self._agenda.planner
        at = self._times.next_at(now, planner.requests_per_second)
        return at if at > now or not self._is_loaded else planner.other_opens_at(now)

    async def run_once(self, key: str) -> "PollResult | None":
        """Makes one request of the planner's budget, and records what changed. Returns the answer, or None if nothing
        was asked, or if this node polls the account no more."""
        if self._working:
            return None
        self._working = True
        times = self._times
        result: PollResult | None = None
        try:
            if self._is_loaded:
                result = await self._read(key)
            else:
                await self._load()
                self._is_loaded = times is self._times  # else it was reset meanwhile
        except Exception as error:
            times.failed(self._account.clock())
            unknown = None if isinstance(error, StoreError) else error
            log.error(f"{self.what}_not_read", **self._account.place, error=str(error), exc_info=unknown)
        finally:
            self._working = False
        return result

    async def _read(self, key: str) -> "PollResult | None":
        account, agenda, times, term = self._account, self._agenda, self._times, self._account.term
        async with account.listings:
            now = account.clock()
            if not account.polls_since(term) or not agenda.planner.take_other(now):
                return None
            times.began(now, agenda.planner.requests_per_second)
            result = await self._ask(key)
        if not account.polls_since(term):
            return None
        agenda.planner.other_answered(result.status_code, result.headers, result.sent_at, account.clock())
        log.debug(
            f"{self.what}_read",
            **account.place,
            result=result.kind,
            status_code=result.status_code,
            request_id=result.request_id,
        )
        if result.kind != "observed":
            times.failed(account.clock())
        await self._record(result)
        return result

    def _tell(self, event: Event, **fields: object) -> None:
        log.warning(event.type, **self._account.place, **fields, event_id=event.id)
        self._account.metrics.count_event(event)
        self._account.signals.event_recorded()
        self._account.signals.deliveries_due()

    @abstractmethod
    async def _load(self) -> None:
        """Loads what is known."""

    @abstractmethod
    async def _ask(self, key: str) -> "PollResult":
        """Makes the request."""

    @abstractmethod
    async def _record(self, result: "PollResult") -> None:
        """Records an answer, which may be a failed one."""


class AccountWatch(Watch):
    """Watches the connect accounts."""

    what = "accounts"

    def __init__(self, account: PolledAccount, agenda: Agenda) -> None:
        self._rows = account.store.connect_accounts
        super().__init__(account, agenda)

    def reset(self) -> None:
        """As of each watch."""
        super().reset()
        self.listed_at: float | None = None
        """Time of the last listing; None: there was none since this node polls the account."""
        self.states: Mapping[str, int] = {}
        """Number of accounts by state, at the last listing by this node."""

    def ask(self) -> None:
        """Asks for a listing soon: a job has failed in a way that points at its account, or a key is to be tried."""
        self._times.ask()

    async def _load(self) -> None:
        times = self._times
        known = await self._rows.known(**self._account.place)
        if times is self._times:
            self._listed(known.listed_at, known.accounts)

    async def _ask(self, key: str) -> "PollResult":
        return await self._account.upstream.list_accounts(key)

    async def _record(self, result: "PollResult") -> None:
        place, listing = self._account.place, result.listing
        self._account.metrics.account_listings.labels(*place.values(), result.kind).inc()
        if listing is None:
            return
        known = await self._rows.known(**place)
        now = self._account.clock()
        found = compare(known, listing, now, confirm_seconds=self._times.confirm_seconds)
        ids = tuple({account.id for account, _ in found.news})
        open_jobs = await self._rows.open_jobs(known.source, known.account, ids)
        news = tuple((one, self._event(one, kind, open_jobs[one.id], now)) for one, kind in found.news)
        record = ListingRecord(known=known, now=now, changed=found.changed, forgotten=found.forgotten, news=news)
        if not await self._rows.record(record):
            await self._load()  # another listing was recorded meanwhile
            return
        if not listing.is_complete:
            log.warning("accounts_unreadable", **place, read=len(listing.accounts))
        self._listed(now, found.accounts)
        for one, event in news:
            self._tell(event, connect_account_id=one.id, channel=one.channel, state=one.state)

    def _listed(self, listed_at: float | None, accounts: Mapping[str, ConnectAccount]) -> None:
        self.listed_at = listed_at
        self.states = Counter(account.state for account in accounts.values())
        self._times.listed(listed_at, confirm_at(accounts.values(), self._times.confirm_seconds))

    def _event(self, account: ConnectAccount, kind: str, open_jobs: int, now: float) -> Event:
        settings = self._account.settings
        hint = settings.definition.hint_for(None, kind, channel=account.channel)
        data = relay_events.account_data(account, open_jobs=open_jobs, hint=hint)
        type = f"{account_type_prefix(settings.origin.type_prefix)}.{kind}"
        schema = relay_events.dataschema_for(type, settings.dataschema_base)
        return account_event(new_id("evt", now), kind, now, data, settings.origin, dataschema=schema)


class CreditsWatch(Watch):
    """Watches the credits, and tells once when they fall below a threshold."""

    what = "credits"

    def __init__(self, account: PolledAccount, agenda: Agenda, threshold: int) -> None:
        super().__init__(account, agenda)
        self.reading = CreditsReading(threshold=threshold)

    async def _load(self) -> None:
        since = await self._account.store.accounts.credits_low_since(*self._account.place.values())
        self.reading = replace(self.reading, low_since=since)

    async def _ask(self, key: str) -> "PollResult":
        return await self._account.upstream.read_credits(key)

    async def _record(self, result: "PollResult") -> None:
        account, before, now = self._account, self.reading, self._account.clock()
        if result.kind != "observed":
            problem = redact_text(result.detail) or result.kind
            if before.problem is None:  # said once
                log.warning("credits_unreadable", **account.place, result=result.kind, detail=problem)
            self.reading = replace(before, problem=problem)
            return
        available: float = result.document
        since = (before.low_since or now) if available < before.threshold else None
        if since != before.low_since:
            event = None if since is None else self._event(available, since)
            if not await account.store.accounts.mark_credits(
                *account.place.values(), expected=before.low_since, since=since, event=event
            ):
                await self._load()  # another reading was recorded meanwhile
                return
            if event is not None:
                self._tell(event, available=available)
        self.reading = replace(before, available=available, read_at=now, low_since=since, problem=None)
        self._times.listed(now, None)

    def _event(self, available: float, since: float) -> Event:
        settings = self._account.settings
        data = relay_events.credits_low_data(
            **self._account.place,
            available=available,
            threshold=self.reading.threshold,
            since=since,
            hint=settings.definition.hint_for(None, "credits_low"),
        )
        schema = relay_events.dataschema_for(CREDITS_LOW, settings.dataschema_base)
        subject = owner_of(settings.source, settings.account)
        id = new_id("evt", since)
        return relay_event(id, CREDITS_LOW, since, data, dataschema=schema, subject=subject, owner=subject)
