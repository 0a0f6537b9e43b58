"""Watch of an account's connect accounts, which it sends from: lists them now and then, and records what changed.

All that a listing decides is in `relay/core/jobs/connect_accounts.py`, and when it is due in
`relay/core/jobs/connect_accounts.py`. Until the upstream has answered a request since this node polls the account, a
listing also tries the key (`AccountHealth.key_tried`). After that, polls find out about keys and outages, and a
failed listing says nothing.
"""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from relay.core import relay_events
from relay.core.events.event import Event, account_event, account_type_prefix
from relay.core.jobs.connect_accounts import ConnectAccount, Listing, ListingTimes, compare, confirm_at
from relay.core.records import ListingRecord
from relay.errors import StoreError
from relay.ids import new_id
from relay.polling.account import PolledAccount
from relay.polling.agenda import Agenda

if TYPE_CHECKING:
    from relay.sources.client import PollResult

log = structlog.get_logger("relay.polling")


class AccountWatch:
    """Watches the connect accounts of one upstream account, while this node polls it.

    The first run reads when they were last listed, by whichever node. Each later one is one listing.
    """

    def __init__(self, account: PolledAccount, agenda: Agenda) -> None:
        self.listed_at: float | None = None
        """Time of the last listing; None: there was none since this node polls the account."""
        self.states: Mapping[str, int] = {}
        """Number of accounts by state, at the last listing by this node."""
        self._account = account
        self._agenda = agenda
        self._rows = account.store.connect_accounts
        self._working = False
        self.reset()

    def reset(self) -> None:
        """Forgets what was read: the node that polls the account, or the settings, have changed."""
        self._times = ListingTimes(self._account.settings.listing_interval_seconds)
        self._is_loaded = False
        self.listed_at, self.states = None, {}

    def ask(self) -> None:
        """Asks for a listing soon: a job has failed in a way that points at its account, or a key is to be tried."""
        self._times.ask()

    def next_at(self) -> float | None:
        """The time of the next call of `run_once`, in epoch seconds; None while it runs."""
        if self._working:
            return None
        now, planner = self._account.clock(), self._agenda.planner
        at = self._times.next_at(now, planner.requests_per_second)
        return at if at > now or not self._is_loaded else planner.other_opens_at(now)

    async def run_once(self, key: str) -> "PollResult | None":
        """Lists the accounts, with one request of the planner's budget, and records what changed. Returns the answer,
        or None if nothing was asked, or if this node polls the account no more."""
        if self._working:
            return None
        self._working = True
        times = self._times
        result: PollResult | None = None
        try:
            if self._is_loaded:
                result = await self._list(key)
            else:
                await self._load()
        except Exception as error:
            times.failed(self._account.clock())
            unknown = None if isinstance(error, StoreError) else error
            log.error("accounts_not_listed", **self._account.place, error=str(error), exc_info=unknown)
        finally:
            self._working = False
        return result

    async def _load(self) -> None:
        times = self._times
        known = await self._rows.known(**self._account.place)
        if times is self._times:  # else it was reset meanwhile
            self._listed(known.listed_at, known.accounts)
            self._is_loaded = True

    async def _list(self, key: str) -> "PollResult | None":
        account, agenda, times, term = self._account, self._agenda, self._times, self._account.term
        async with account.listings:
            now = account.clock()
            if not account.polls_since(term) or not agenda.planner.take_other(now):
                return None
            times.began(now, agenda.planner.requests_per_second)
            result = await account.upstream.list_accounts(key)
        if not account.polls_since(term):
            return None
        agenda.planner.other_answered(result.status_code, result.headers, result.sent_at, account.clock())
        account.metrics.account_listings.labels(*account.place.values(), result.kind).inc()
        log.debug(
            "accounts_listed",
            **account.place,
            result=result.kind,
            status_code=result.status_code,
            request_id=result.request_id,
        )
        if result.listing is None:
            times.failed(account.clock())
        else:
            await self._record(result.listing)
        return result

    async def _record(self, listing: Listing) -> None:
        known = await self._rows.known(**self._account.place)
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
            log.warning("accounts_unreadable", **self._account.place, read=len(listing.accounts))
        self._listed(now, found.accounts)
        for account, event in news:
            log.warning(
                event.type,
                **self._account.place,
                connect_account_id=account.id,
                channel=account.channel,
                state=account.state,
                event_id=event.id,
            )
            self._account.metrics.count_event(event)
        if news:
            self._account.signals.event_recorded()
            self._account.signals.deliveries_due()

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
