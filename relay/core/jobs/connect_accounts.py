"""Connect accounts, the accounts that an upstream account sends from: the content of a listing, and its news. Pure.

A change counts once a second, later listing confirms it. So one wrong answer, such as an empty list, makes no event.
All state is in the values, so a restart or another node continues after the last listing.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter

MAX_ACCOUNTS = 1_000
"""Maximum connect accounts known of one upstream account."""
FREE_CHANGES = 4
"""An account that changes more often within FLAPPING_SECONDS is reported once in that time."""
FLAPPING_SECONDS = 3600.0

OK, NEEDS_RECONNECT, CANNOT_SEND = "ok", "needs_reconnect", "cannot_send"
REMOVED = "removed"
NEW = "new"
"""State of an account that was in one listing and awaits confirmation by the next. It is not shown to anyone."""
LISTED_STATES = (OK, NEEDS_RECONNECT, CANNOT_SEND)
SHOWN_STATES = (*LISTED_STATES, REMOVED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedAccount:
    """An item of a listing. `state`: a member of LISTED_STATES; None if it cannot be read. `status`: the upstream's."""

    id: str
    channel: str | None = None
    name: str | None = None
    status: str | None = None
    can_send: bool | None = None
    state: str | None = OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The accounts of one listing, by id. `is_complete`: False if an item could not be read or there were too many: a
    missing account may then still exist."""

    accounts: Mapping[str, ListedAccount]
    is_complete: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectAccount:
    """The record of a connect account. Times are epoch seconds.

    state           a member of SHOWN_STATES, or NEW; `since`: its start
    unconfirmed     the state in one listing, and when it was first listed
    changes         times of its latest changes of state
    told_state      the state in the last event, or in the first listing; `told_at`: time of that event
    """

    source: str
    account: str
    id: str
    channel: str | None = None
    name: str | None = None
    status: str | None = None
    can_send: bool | None = None
    state: str
    since: float
    unconfirmed: str | None = None
    unconfirmed_at: float | None = None
    changes: tuple[float, ...] = ()
    told_state: str
    told_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The connect accounts known of one upstream account. `listed_at`: time of the last listing; None: there was none,
    so the next one is the baseline."""

    source: str
    account: str
    listed_at: float | None = None
    accounts: Mapping[str, ConnectAccount]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The changes from a listing.

    accounts    the accounts now known, by id
    changed     the accounts of these whose record changed
    news        the events to publish, in order: the account, and a member of ACCOUNT_EVENTS
    forgotten   ids of accounts to delete
    """

    accounts: Mapping[str, ConnectAccount]
    changed: tuple[ConnectAccount, ...]
    news: tuple[tuple[ConnectAccount, str], ...]
    forgotten: tuple[str, ...]


def compare(known: Known, listing: Listing, now: float, *, confirm_seconds: float) -> Comparison:
    """The changes from a listing received at `now`. A change is confirmed `confirm_seconds` after it was first
    listed."""
    after: dict[str, ConnectAccount] = {}
    news: list[tuple[ConnectAccount, str]] = []
    forgotten: list[str] = []
    for id, account in known.accounts.items():
        listed = listing.accounts.get(id)
        shown = (REMOVED if listing.is_complete else None) if listed is None else listed.state
        if account.state == NEW and shown == REMOVED:
            forgotten.append(id)
            continue
        seen = _observed(_with_fields(account, listed), shown, now, confirm_seconds)
        after[id], kinds = _reported(seen, now, changed=seen.state != account.state)
        news += [(after[id], kind) for kind in kinds]
    gone = sorted((one for one in after.values() if one.state == REMOVED), key=attrgetter("since"), reverse=True)
    for id, listed in listing.accounts.items():
        if id in known.accounts or listed.state is None:
            continue
        if len(after) >= MAX_ACCOUNTS:
            if not gone:
                break
            oldest = gone.pop().id
            forgotten.append(oldest)
            del after[oldest]
        after[id] = _first_seen(known, listed, listed.state, now)
    return Comparison(
        accounts=after,
        changed=tuple(one for id, one in after.items() if one != known.accounts.get(id)),
        news=tuple(news),
        forgotten=tuple(forgotten),
    )


def confirm_at(accounts: Iterable[ConnectAccount], confirm_seconds: float) -> float | None:
    """The time when the next listing can confirm a change of these accounts; None if none is unconfirmed."""
    waiting = [one.unconfirmed_at for one in accounts if one.unconfirmed_at is not None]
    return min(waiting) + confirm_seconds if waiting else None


def _first_seen(known: Known, listed: ListedAccount, state: str, now: float) -> ConnectAccount:
    first = NEW if known.listed_at is not None else state
    account = ConnectAccount(
        source=known.source, account=known.account, id=listed.id, state=first, since=now, told_state=first
    )
    if first == NEW:
        account = replace(account, unconfirmed=state, unconfirmed_at=now)
    return _with_fields(account, listed)


def _with_fields(account: ConnectAccount, listed: ListedAccount | None) -> ConnectAccount:
    if listed is None:
        return account
    return replace(account, channel=listed.channel, name=listed.name, status=listed.status, can_send=listed.can_send)


def _observed(account: ConnectAccount, shown: str | None, now: float, confirm_seconds: float) -> ConnectAccount:
    """The account after a listing with this state; None: the listing says nothing about the state."""
    if shown is None:
        return account
    if shown == account.state:
        return replace(account, unconfirmed=None, unconfirmed_at=None)
    first_shown_at = account.unconfirmed_at
    if shown != account.unconfirmed or first_shown_at is None or now < first_shown_at:  # or the clock was set back
        return replace(account, unconfirmed=shown, unconfirmed_at=now)
    if now < first_shown_at + confirm_seconds:
        return account
    recent = (at for at in account.changes if now - FLAPPING_SECONDS < at <= now)
    return replace(
        account,
        state=shown,
        since=first_shown_at,
        unconfirmed=None,
        unconfirmed_at=None,
        changes=(*recent, now)[-FREE_CHANGES - 1 :],
    )


def _reported(account: ConnectAccount, now: float, *, changed: bool) -> tuple[ConnectAccount, tuple[str, ...]]:
    """The account after reporting its due events, and their kinds."""
    before, state, told_at = account.told_state, account.state, account.told_at
    if before == state:
        return account, ()
    free = changed and len(account.changes) <= FREE_CHANGES
    if not free and told_at is not None and 0 <= now - told_at < FLAPPING_SECONDS:
        return account, ()
    return replace(account, told_state=state, told_at=now), _kinds(before, state)


def _kinds(before: str, after: str) -> tuple[str, ...]:
    if after == REMOVED:
        return ("removed",)
    added = ("added",) if before in (NEW, REMOVED) else ()
    if after == OK:
        return added or ("recovered",)
    return (*added, after)


LISTING_SHARE = 0.01
"""The most of the account's request budget that listings take."""
SAVED_LISTINGS = 3.0
"""Listings that may follow each other at once, such as one after a failure and one that confirms it."""
CONFIRM_SHARE = 0.1
"""Share of the interval after which a second listing confirms a change."""
ASK_AGAIN_SECONDS = 10.0
ASK_AGAIN_SHARE = 1 / 30
"""A failure may ask for a listing this often: each ASK_AGAIN_SECONDS, or share of a short interval."""


class ListingTimes:
    """Times of listings. Between two listings there is an interval, unless one must be confirmed, failed, or is asked
    for; on average they take at most LISTING_SHARE of the budget."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._due_at = 0.0
        self._began_at = -math.inf
        self._is_asked = False
        self._failure_count = 0
        self._saved = SAVED_LISTINGS
        self._saved_at = 0.0

    @property
    def confirm_seconds(self) -> float:
        """Time after which a second listing confirms a change."""
        return self._interval_seconds * CONFIRM_SHARE

    def next_at(self, now: float, requests_per_second: float) -> float:
        """The earliest time of the next listing; a time in the past means now. `requests_per_second`: the budget."""
        if self._due_at > now + self._interval_seconds or self._began_at > now:  # the clock was set back
            self._due_at = self._began_at = now
        due_at = self._due_at
        if self._is_asked:
            again = min(ASK_AGAIN_SECONDS, self._interval_seconds * ASK_AGAIN_SHARE)
            due_at = min(due_at, max(self._began_at + again, 0.0))
        missing = 1 - self._saved_at_rate(now, requests_per_second)
        if missing <= 0:
            return due_at
        return max(due_at, now + missing / (LISTING_SHARE * max(requests_per_second, 1e-9)))

    def began(self, now: float, requests_per_second: float) -> None:
        """A listing is sent."""
        self._saved = max(self._saved_at_rate(now, requests_per_second) - 1, 0.0)
        self._saved_at = self._began_at = now
        self._is_asked = False

    def listed(self, listed_at: float | None, confirm_at: float | None) -> None:
        """The accounts were listed last at this time, None: never. A change can be confirmed at `confirm_at`."""
        self._failure_count = 0
        due_at = 0.0 if listed_at is None else listed_at + self._interval_seconds
        self._due_at = due_at if confirm_at is None else min(due_at, confirm_at)

    def failed(self, now: float) -> None:
        """A listing failed: the next one comes a little later each time, up to an interval."""
        wait = self.confirm_seconds * 2 ** min(self._failure_count, 10)
        self._failure_count += 1
        self._due_at = now + min(wait, self._interval_seconds)

    def ask(self) -> None:
        """Asks for a listing that begins from now on, as soon as the last one is old enough."""
        self._is_asked = True

    def _saved_at_rate(self, now: float, requests_per_second: float) -> float:
        elapsed = max(now - self._saved_at, 0.0)
        return min(self._saved + elapsed * requests_per_second * LISTING_SHARE, SAVED_LISTINGS)
