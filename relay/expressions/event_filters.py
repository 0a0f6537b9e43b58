"""Filters of subscriptions as the store and the dispatcher evaluate them: each distinct one once for an event.

Threads share it: what two of them do at once is done twice, with the same result.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog

from relay.core.events import Event
from relay.core.filters import (
    MAX_EVALUATION_SECONDS,
    EventView,
    ExpressionFailed,
    FailureReason,
    Filters,
    FiltersRefused,
    filters_key,
    parse_filters,
    unavailable,
)
from relay.core.subscription import Subscription
from relay.errors import SettingsError
from relay.expressions.cel import compile_cel, missing_extra

MAX_PARSED = 10_000
MAX_REMEMBERED = 2_000
"""Events whose results are kept, from when slots are reserved for them until they are recorded."""
MAX_EVENT_SECONDS = 0.2
"""Estimated time for one event and the expressions of the subscriptions of one owner. It is divided among the distinct
filters of that owner: an owner with many expensive ones makes only these fail."""
MAX_SLICE_SECONDS = 0.1
"""Time for the filters of a slice of past events. Meanwhile the writer may wait."""
_CEL = b'"cel":'
"""In the key of filters with expressions."""

log = structlog.get_logger("relay.filters")


def check_extras(subscriptions: Iterable[Subscription]) -> None:
    """Raises SettingsError if filters need an extra that this installation lacks: events would be lost in silence."""
    for one in subscriptions:
        why = missing_extra() if _CEL in filters_key(one.filters) else None
        if why is not None:
            raise SettingsError(f"the filters of subscription {one.id} cannot be evaluated. {why}")


class Evaluation:
    """The filters of one event. Its body is parsed only if a result is not known yet."""

    def __init__(
        self,
        event: Event,
        results: dict[tuple[Filters, float], bool],
        failed: Callable[[ExpressionFailed], object],
        limit_seconds: Callable[[str | None], float],
    ) -> None:
        self._event = event
        self._results = results
        self._failed = failed
        self._limit_seconds = limit_seconds
        self._view: EventView | None = None

    def passes(self, filters: Filters, owner: str | None) -> bool:
        """True if these filters, of a subscription of this owner, let the event through."""
        limit = self._limit_seconds(owner) if filters.expressions else 0.0
        known = self._results.get((filters, limit))
        if known is None:
            if self._view is None:
                self._view = EventView(self._event.body)
            known = self._results[filters, limit] = filters.passes(self._view, self._failed, limit)
        return known


class EventFilters:
    """Parses filters, and evaluates them.

    on_failure  called for each expression that fails
    steady      a clock that nobody sets
    """

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self.steady = steady
        self.on_failure: Callable[[FailureReason], object] = lambda reason: None
        self._parsed: dict[bytes, Filters] = {}
        self._results: dict[str, dict[tuple[Filters, float], bool]] = {}
        self._limits: dict[str | None, float] = {}

    def divide(self, subscriptions: Iterable[Subscription]) -> None:
        """Divides the time for an event among the filters of each owner. `subscriptions`: all that there are."""
        found: dict[str | None, set[bytes]] = {}
        for one in subscriptions:
            key = filters_key(one.filters) if one.filters else b""
            if _CEL in key:
                found.setdefault(one.owner, set()).add(key)
        self._limits = {owner: min(MAX_EVENT_SECONDS / len(of), MAX_EVALUATION_SECONDS) for owner, of in found.items()}

    def _limit_seconds(self, owner: str | None) -> float:
        return self._limits.get(owner, MAX_EVALUATION_SECONDS)

    def parsed(self, documents: Sequence[Mapping[str, Any]]) -> Filters | None:
        """The filters of a subscription, the same object for the same filters; None: it has none. Those that this node
        cannot read, for example without the extra, let nothing through."""
        if not documents:
            return None
        key = filters_key(documents)
        found = self._parsed.get(key)
        if found is None:
            try:
                found = parse_filters(documents, compile_cel)
            except FiltersRefused as refused:
                log.error("filters_unavailable", error=str(refused))
                found = unavailable(str(refused))
            if len(self._parsed) >= MAX_PARSED:
                self._parsed.clear()
            found = self._parsed.setdefault(key, found)
        return found

    def of(self, event: Event) -> Evaluation:
        """The evaluation of an event. Results that are known are kept for the next one."""
        results = self._results.get(event.id)
        if results is None:
            if len(self._results) >= MAX_REMEMBERED:
                self._results.clear()
            results = self._results.setdefault(event.id, {})
        return Evaluation(event, results, self._count, self._limit_seconds)

    def passing(self, filters: Filters | None, bodies: Iterable[bytes]) -> list[bool]:
        """Whether each event passes: of the first ones, at least one, until they have taken MAX_SLICE_SECONDS. The
        results are not kept: for events that are looked at once."""
        if filters is None:
            return [True for _ in bodies]
        found: list[bool] = []
        ends_at = self.steady() + MAX_SLICE_SECONDS
        for body in bodies:
            found.append(filters.passes(EventView(body), self._count))
            if self.steady() >= ends_at:
                break
        return found

    def _count(self, failure: ExpressionFailed) -> None:
        self.on_failure(failure.reason)
