"""The objects of the rest of the relay that the API needs, and the values it exchanges with them.

`relay/node/node.py` passes the real objects; tests pass stand-ins (`tests/support/api_world.py`).
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from relay.api.http.limits import Admission
from relay.clock import Clock
from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.broker import Broker, Message, Published
from relay.core.events.event import RELAY_SOURCE, Origin, owner_of
from relay.core.subscriptions.subscription import Handshake

if TYPE_CHECKING:
    from relay.api.access.callers import Access
    from relay.api.jobs.group_finish import GroupForecasts
    from relay.delivery.dispatcher import Dispatcher
    from relay.delivery.pulls import Pulls
    from relay.node.audit import AuditLog
    from relay.node.node import Node
    from relay.polling.tracking import Tracking
    from relay.signals import Signals
    from relay.store.store import Store
    from relay.tracing import Tracing


Account = tuple[str, str]
"""Its source and its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token that may call the API. `scopes`: see `core/access/tokens.py`."""

    name: str
    value: str = field(repr=False)
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """The settings of the API. `accounts`: the account names of each source; `origins`: by source and key of the
    resource; `resources`: the names of each source's, the first one first; `passed_paths`: the path prefixes that are
    forwarded to an upstream; `search_keys`: the keys of metadata that jobs are searched by; `recipients_shown`: whether
    the recipients of unknown sends may be shown."""

    host: str
    port: int
    public_url: str | None
    tokens: tuple[Token, ...]
    accounts: Mapping[str, tuple[str, ...]]
    origins: Mapping[tuple[str, str], Origin]
    guard: GuardPolicy
    default_timeout_seconds: float
    default_retry_schedule_seconds: tuple[float, ...]
    resources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    max_subscriptions_of_caller: int = 1_000
    version: str
    node_id: str
    passed_paths: tuple[str, ...] = ()
    search_keys: tuple[str, ...] = ()
    recipients_shown: bool = False
    handshake: Handshake = "off"
    dev: bool = False
    callback_secret_given: bool = False
    dashboard: bool = True
    """True if the dashboard is served."""
    account: Account | None = None
    """The account that the caller is bound to; `accounts`, `origins` and `resources` then hold nothing else."""
    unrestricted: "ApiSettings | None" = None
    """The settings without limits, if these are limited to what a bound token sees; else None."""

    @property
    def event_sources(self) -> frozenset[str]:
        """Every CloudEvents `source` that an event can have."""
        of_accounts = (origin.account_source for origin in self.origins.values() if origin.account_source)
        return frozenset({RELAY_SOURCE, *(origin.source for origin in self.origins.values()), *of_accounts})

    @property
    def owner(self) -> str | None:
        """The account that the caller is bound to, as source/account."""
        return None if self.account is None else owner_of(*self.account)

    def within(self, account: Account) -> "ApiSettings":
        """The settings as a token bound to the account sees them."""
        source, name = account
        known = name in self.accounts.get(source, ())
        return replace(
            self,
            account=account,
            unrestricted=self.unrestricted or self,
            accounts={source: (name,)} if known else {},
            origins={place: origin for place, origin in self.origins.items() if place[0] == source},
            resources={source: self.resources[source]} if source in self.resources else {},
        )

    def resource_key(self, source: str, name: str | None) -> str | None:
        """The key of a source's resource, which jobs store; None if the source has none of this name. Without a name it
        is the first one."""
        names = self.resources.get(source, ())
        if name is None or names[:1] == (name,):
            return ""
        return name if name in names else None

    def resource_name(self, source: str, key: str) -> str | None:
        """The name of a job's resource; None if its source is no longer configured."""
        return key or next(iter(self.resources.get(source, ())), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """`problems` make `/readyz` answer 503; `notes` do not. Each is a sentence that says what to do. `components` are
    the names of what has problems, which is all that callers without a token learn."""

    problems: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    checks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiDependencies:
    """Everything the API needs.

    dial           looks at a broker, and for a destination there; publishes nothing
    unresolved     why hosts do not resolve; of those that do, or are unknown, nothing
    count_request  is called after each response with the method and status
    published      is called with the number of events that were published, after their commit
    access         the tokens, of the node that outlives this object. Open streams and waits ask it after each signal
                   whether it still holds their caller's, so `Signals.wake_all` after a change ends those it does not
    forecasts      of groups, which the caller has read through the store
    admission      what open requests hold, of the node that outlives this object
    tracing        makes spans of requests that create something; None: there are no spans
    """

    settings: ApiSettings
    access: "Access"
    clock: Clock
    store: "Store"
    tracking: "Tracking"
    signals: "Signals"
    dispatcher: "Dispatcher"
    pulls: "Pulls"
    node: "Node"
    audit: "AuditLog"
    forecasts: "GroupForecasts"
    dial: Callable[[Broker, Message | None], Awaitable[Published]]
    unresolved: Callable[[Iterable[str]], Awaitable[Mapping[str, str]]]
    count_request: Callable[[str, int], None]
    published: Callable[[int], None]
    admission: Admission = field(default_factory=Admission)
    tracing: "Tracing | None" = None

    def within(self, account: Account) -> "ApiDependencies":
        """Everything as a token bound to the account sees it. The node, the dispatcher, the pulls and the signals know
        no account: a handler passes them only what it has read through the others."""
        return replace(
            self,
            settings=self.settings.within(account),
            store=self.store.within(account),
            tracking=self.tracking.within(account),
        )
