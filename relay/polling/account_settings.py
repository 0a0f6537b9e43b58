"""Settings of one upstream account, as polling needs them."""

from collections.abc import Callable
from dataclasses import dataclass

from relay.core.events.event import Origin
from relay.polling.recorder import Hints


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSettings:
    """Settings of one upstream account.

    read_key                  reads the API key again, from its file if it has one
    listing_interval_seconds  time between two listings of its connect accounts
    """

    source: str
    account: str
    origin: Origin
    dataschema_base: str
    deadline_seconds: float
    read_key: Callable[[], str | None]
    hint: Hints
    listing_interval_seconds: float = 300.0
