"""Which events a list or a stream shows: those of a type, and those that pass the filters of its caller."""

from collections.abc import Sequence
from functools import partial

from relay.api.http.params import Parameter
from relay.core.events.event import Event
from relay.core.jsontext import JSONDecodeError, loads
from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import Filters, FiltersRefused, parse_filters
from relay.errors import InvalidRequest
from relay.limiter import Limiter

MAX_CHARACTERS = 8_000


class Wanted:
    """What a caller wants to see. Filters have the bounds of those of a subscription."""

    def __init__(self, type: str | None, filters: Filters | None) -> None:
        self._type = type
        self._filters = filters

    async def of(self, events: Sequence[Event], limiter: Limiter, caller: str) -> Sequence[Event]:
        """Those of these events that are wanted. `limiter`: of all callers with filters."""
        if self._type is not None:
            events = [event for event in events if event.type == self._type]
        if self._filters is None:
            return events
        filters = self._filters

        def passes(event: Event) -> bool:
            return filters.passes(EventView(event.body))

        return [event for event in events if await limiter.step(caller, partial(passes, event))]


def _read_filters(value: str) -> Filters:
    if len(value) > MAX_CHARACTERS:
        raise ValueError(f"at most {MAX_CHARACTERS:,} characters are allowed")
    try:
        documents = loads(value.encode())
    except JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} (column {error.colno})") from None
    try:
        return parse_filters(documents if isinstance(documents, list) else [documents], "filters")
    except FiltersRefused as refused:
        detail = str(refused)
        raise InvalidRequest(detail, code="invalid_parameter", errors=refused.errors) from None


FILTERS = Parameter(
    name="filters",
    description="Only events that pass these filters, as URL-encoded JSON: a filter of a subscription, or a list of "
    "them, all of which must be true.",
    schema={"type": "string", "maxLength": MAX_CHARACTERS},
    read=_read_filters,
)
