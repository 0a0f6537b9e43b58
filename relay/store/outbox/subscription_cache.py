"""Subscriptions as the outbox matches them: cached in memory, invalidated when one changes."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import select, text
from sqlalchemy.engine import Connection
from sqlmodel import col

from relay.core.events.event import Event
from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import Filters, filters_of, matches
from relay.core.subscriptions.subscription import Subscription
from relay.store.databases.locks import CHANGE, MATCH, TransactionLock, hold
from relay.store.databases.notices import raise_version, version_of
from relay.store.databases.statements import SQLITE, run
from relay.store.schema.tables import SubscriptionRow

# The fields that events are matched by.
MATCHED_BY = select(
    *(col(SubscriptionRow.id), col(SubscriptionRow.types), col(SubscriptionRow.source), col(SubscriptionRow.state)),
    *(col(SubscriptionRow.callback), col(SubscriptionRow.config), col(SubscriptionRow.owner)),
    col(SubscriptionRow.created_at),
)

# True if a callback exists or has existed. Never reset: a node that knows of callbacks need not be notified again.
ANY_CALLBACK = """
SELECT EXISTS (SELECT 1 FROM versions WHERE name = 'callbacks')
  OR EXISTS (SELECT 1 FROM subscriptions WHERE callback = 1)
"""
NOTE_CALLBACK = "INSERT INTO versions (name, number) VALUES ('callbacks', 1) ON CONFLICT (name) DO NOTHING"
READ_AT_ONCE = 1_000
"""Ids per query: the number of parameters of a statement is limited."""
TOLD_SINCE = "told_since"
"""In a subscription's `config`: time of the last change of its types, filters, sink or `incidents`. It got no event of
incidents that opened before."""
FILLING = "filling"
"""In a subscription's `config`: how far its past events are queued. Until the end it matches no event: see
`past_events`."""
MAX_CACHED = 1_000
"""Event kinds whose matches are cached, and cached callbacks."""


class _Matching(NamedTuple):
    """The subscriptions that get events of a kind: those without filters, and the others by their filters.
    `comparisons`: how many distinct ones these have."""

    plain: tuple[Subscription, ...]
    filtered: tuple[tuple[Filters, tuple[Subscription, ...]], ...]
    comparisons: int


class SubscriptionCache:
    """The subscriptions, without their sinks, as the outbox matches them. Loaded once and kept until one changes.

    Callback subscriptions match no event by themselves, and there may be as many as jobs. Only their existence is
    cached; each is loaded when a job that names it has an event.

    Other nodes change subscriptions too. On PostgreSQL each transaction that matches events first takes a shared lock
    and checks the version, and a change waits for such transactions. Only the writer may use the cache, except
    `version`.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._checked = False
        self._all: dict[str, Subscription] | None = None
        self._by_kind: dict[tuple[str, str, bool], dict[str | None, _Matching]] = {}
        self._filling: set[str] = set()
        self._callbacks: dict[str, Subscription] = {}
        self._has_callbacks = False
        self._knows_callbacks = False
        """True once `_has_callbacks` was committed as true, which it then stays."""
        self._changing = False
        self.version = 0
        """Rises with every committed change; caches elsewhere then reload."""

    def changed(self, connection: Connection) -> None:
        """The open transaction changes a subscription: invalidates the cache here and on other nodes."""
        if connection.dialect.name != SQLITE:
            hold(connection, [CHANGE])
            raise_version(connection, "subscriptions")
            self._number = None
        self._forget()
        self._changing = True

    def committed(self) -> None:
        """The open transaction was committed."""
        self._checked = False
        self._knows_callbacks = self._knows_callbacks or (self._all is not None and self._has_callbacks)
        if self._changing:
            self._changing = False
            self.version += 1

    def rolled_back(self) -> None:
        """The open transaction was undone, and perhaps what was read in it."""
        self._checked = self._changing = False
        self._number = None  # otherwise another node's change found in it would be missed
        self._forget()

    def _forget(self) -> None:
        self._all = None
        self._by_kind.clear()
        self._callbacks.clear()

    def get(self, connection: Connection, subscription_id: str) -> Subscription | None:
        """One subscription by id."""
        return self.several(connection, (subscription_id,)).get(subscription_id)

    def several(self, connection: Connection, ids: Iterable[str]) -> dict[str, Subscription]:
        """The existing subscriptions of these ids, callbacks included."""
        known = self._load(connection)
        found = {one: known.get(one) or self._callbacks.get(one) for one in ids}
        unknown = sorted(one for one, subscription in found.items() if subscription is None)
        if unknown and self._has_callbacks:
            read: dict[str, Subscription] = {}
            for start in range(0, len(unknown), READ_AT_ONCE):
                chosen = col(SubscriptionRow.id).in_(unknown[start : start + READ_AT_ONCE])
                read |= {row.id: matching_fields(row) for row in connection.execute(MATCHED_BY.where(chosen))}
            if len(self._callbacks) + len(read) > MAX_CACHED:
                self._callbacks.clear()
            self._callbacks.update(read)
            found.update(read)
        return {one: subscription for one, subscription in found.items() if subscription is not None}

    def callback_made(self, connection: Connection) -> None:
        """The open transaction makes a callback. Other nodes are notified only of the first one."""
        if not self._knows_callbacks:
            self.changed(connection)
            run(connection, NOTE_CALLBACK)

    def callback_locks(self) -> Sequence[TransactionLock]:
        """The locks that `callback_made` needs."""
        return [] if self._knows_callbacks else [CHANGE]

    def has_callbacks(self, connection: Connection) -> bool:
        """True if any callback exists."""
        self._load(connection)
        return self._has_callbacks

    def matching(self, connection: Connection, event: Event) -> tuple[Subscription, ...]:
        """The subscriptions whose types, source, owner and filters match, without callbacks."""
        every = self._of_kind(connection, event)
        if not every.filtered:
            return every.plain
        view = EventView(event.body, event.compared)
        passing = (several for filters, several in every.filtered if filters.passes(view))
        return every.plain + tuple(chain.from_iterable(passing))

    def comparisons_of(self, connection: Connection, event: Event) -> int:
        """Maximum number of comparisons that `matching` makes for an event."""
        return self._of_kind(connection, event).comparisons

    def _of_kind(self, connection: Connection, event: Event) -> _Matching:
        """The subscriptions whose types, source and owner match."""
        known = self._load(connection)
        key = (event.type, event.source, event.job_uid is not None)
        found = self._by_kind.get(key)
        if found is None:
            matching: dict[str | None, list[Subscription]] = {None: []}
            for one in known.values():
                is_there = one.id not in self._filling
                if is_there and matches(one, event.type, event.source, job_event=key[2], owner=one.owner):
                    matching.setdefault(one.owner, []).append(one)
            found = {owner: _by_filters(of_owner) for owner, of_owner in matching.items()}
            if len(self._by_kind) >= MAX_CACHED:
                self._by_kind.clear()
            self._by_kind[key] = found
        every = found[None]
        owned = found.get(event.owner) if event.owner is not None and len(found) > 1 else None
        if owned is not None:
            every = _Matching(
                every.plain + owned.plain, every.filtered + owned.filtered, every.comparisons + owned.comparisons
            )
        return every

    def _check(self, connection: Connection) -> None:
        if self._checked or connection.dialect.name == SQLITE:
            return
        hold(connection, [MATCH])
        number = version_of(connection, "subscriptions")
        if number != self._number:
            self._number = number
            self._forget()
            self._changing = True  # caches elsewhere are stale as well
        self._checked = True

    def _load(self, connection: Connection) -> dict[str, Subscription]:
        self._check(connection)
        if self._all is None:
            listed = connection.execute(MATCHED_BY.where(text("callback = 0")))
            rows = listed.all()
            self._all = {row.id: matching_fields(row) for row in rows}
            self._filling = {row.id for row in rows if FILLING in row.config}
            self._by_kind.clear()
            self._callbacks.clear()
            self._has_callbacks = bool(run(connection, ANY_CALLBACK).scalar_one())
            if self._has_callbacks:
                run(connection, NOTE_CALLBACK)
        return self._all


def _by_filters(subscriptions: Iterable[Subscription]) -> _Matching:
    plain: list[Subscription] = []
    filtered: dict[Filters, list[Subscription]] = {}
    for one in subscriptions:
        filters = filters_of(one.filters)
        (plain if filters is None else filtered.setdefault(filters, [])).append(one)
    comparisons = frozenset[str]().union(*(filters.keys for filters in filtered))
    every = tuple((filters, tuple(several)) for filters, several in filtered.items())
    return _Matching(tuple(plain), every, len(comparisons))


def matching_fields(row: Any) -> Subscription:
    """A subscription without its sink, from a row of `MATCHED_BY`. `created_at`: or when it changed, see TOLD_SINCE."""
    return Subscription(
        id=row.id,
        sink="",
        types=None if row.types is None else tuple(row.types),
        source=row.source,
        filters=tuple(row.config.get("filters") or ()),
        state=row.state,
        callback=bool(row.callback),
        ordering=row.config.get("ordering", "job"),
        incidents=row.config.get("incidents", "off"),
        owner=row.owner,
        created_at=max(row.created_at, row.config.get(TOLD_SINCE) or 0.0),
    )
