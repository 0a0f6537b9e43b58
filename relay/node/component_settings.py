"""Translates the settings for each component, at the start and after each reload."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relay import __version__
from relay.api.http.dependencies import ApiSettings, Token
from relay.config.loader import read_secret_file
from relay.config.settings import AccountSettings as AccountConfig
from relay.config.settings import Settings, SourceSettings
from relay.core import relay_events
from relay.core.access.netguard import GuardPolicy
from relay.core.events.event import Hint, Origin
from relay.core.jobs.job import PARTS
from relay.core.planner import PlannerConfig
from relay.core.planner.config import RateLimitHeaders
from relay.core.polling.tracking import CallbackLimits
from relay.core.subscriptions.subscription import SigningSecret
from relay.delivery.shared import DeliverySettings
from relay.http.egress_proxy import EgressProxy
from relay.polling.account import AccountSettings
from relay.sources.definition import SourceDefinition

if TYPE_CHECKING:
    from relay.web.sessions import WebSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSettings:
    """The settings of one node. `base_url` is its public URL; `seed` spreads its polls."""

    settings: Settings
    base_url: str
    definitions: Mapping[str, SourceDefinition]
    seed: int = 0

    def of_account(self, source: SourceSettings, account: AccountConfig) -> AccountSettings:
        """For the account's poller."""
        definition = self.definitions[source.name]
        origins = self._origins(source)
        return AccountSettings(
            source=source.name,
            account=account.name,
            definition=definition,
            origin=origins[""],
            more_origins=origins,
            dataschema_base=self.base_url,
            deadline_seconds=source.polling.deadline_seconds,
            read_key=_key_reader(account),
            listing_interval_seconds=source.polling.connect_accounts_interval_seconds,
            credits_low=source.credits_low if definition.credits is not None else None,
        )

    def _origins(self, source: SourceSettings) -> dict[str, Origin]:
        definition = self.definitions[source.name]
        schema = relay_events.dataschema_for(f"{definition.resource.type_prefix}.queued", self.base_url)
        return definition.event_origins(source.base_url, schema)

    def of_planner(self, source: SourceSettings) -> PlannerConfig:
        """For the planner of each account of the source."""
        definition, polling = self.definitions[source.name], source.polling
        limit = definition.limit
        return PlannerConfig(
            max_requests_per_second=polling.max_requests_per_second,
            reserve=polling.reserve,
            min_interval_seconds=polling.min_interval_seconds,
            max_interval_seconds=polling.max_interval_seconds,
            seed=self.seed,
            headers=RateLimitHeaders(**definition.headers.model_dump(exclude={"request_id"})),
            static_limit=None if limit is None else (limit.requests, limit.per_seconds),
        )

    def of_dispatcher(self) -> DeliverySettings:
        """For the dispatcher."""
        delivery = self.settings.delivery
        return DeliverySettings(
            concurrency=delivery.concurrency,
            per_host=delivery.per_host,
            timeout_seconds=delivery.timeout_seconds,
            retry_schedule_seconds=delivery.retry_schedule,
            jitter=delivery.jitter,
            disable_after_seconds=delivery.disable_after_seconds,
            dataschema_base=self.base_url,
            handshake=self.settings.security.handshake,
            base_url=self.base_url,
            public_url=self.base_url if self.settings.server.public_url and self.settings.web.enabled else None,
            titles={name: definition.title for name, definition in self.definitions.items()},
            search_keys=self.settings.web.search_keys,
            explain=self.explained,
            callback_secrets=tuple(SigningSecret(value=secret) for secret in delivery.callback_secret or ()),
        )

    def explained(self, source: str, code: str) -> Hint | None:
        """The hint for failed jobs with this code."""
        definition = self.definitions.get(source)
        return None if definition is None else definition.explained(code)

    def of_tracking(self) -> CallbackLimits:
        """For the registration of jobs."""
        return CallbackLimits(
            per_job=self.settings.delivery.max_callbacks_per_job,
            hosts_per_caller=self.settings.auth.max_callback_hosts_per_token,
        )

    def of_capture(self) -> tuple[str, ...]:
        """For the proxy's creates: the parts of a recipient to keep."""
        return tuple(part for part in PARTS if f"recipient.{part}" in self.settings.proxy.capture)

    def of_api(self, node_id: str) -> ApiSettings:
        """For the API."""
        settings = self.settings
        return ApiSettings(
            host=settings.server.host,
            port=settings.server.port,
            public_url=settings.server.public_url,
            tokens=tuple(
                Token(name=token.name, value=token.token, scopes=frozenset(token.scopes))
                for token in settings.auth.tokens
            ),
            accounts={name: tuple(source.accounts) for name, source in settings.sources.items()},
            origins={
                (name, key): origin
                for name, source in settings.sources.items()
                for key, origin in self._origins(source).items()
            },
            resources={name: tuple(self.definitions[name].resources) for name in settings.sources},
            guard=guard_policy(settings),
            handshake=settings.security.handshake,
            default_timeout_seconds=settings.delivery.timeout_seconds,
            default_retry_schedule_seconds=settings.delivery.retry_schedule,
            max_subscriptions_of_caller=settings.auth.max_subscriptions_per_token,
            version=__version__,
            node_id=node_id,
            passed_paths=self._passed_paths(),
            search_keys=settings.web.search_keys,
            recipients_shown=settings.proxy.capture_shown,
            dev=settings.dev,
            callback_secret_given=settings.delivery.callback_secret is not None,
            dashboard=settings.web.enabled,
        )

    def of_web(self) -> "WebSettings":
        """For the dashboard."""
        from relay.web.sessions import WebSettings

        web = self.settings.web
        return WebSettings(user_header=web.user_header, user_scopes=frozenset(web.user_scopes))

    def _passed_paths(self) -> tuple[str, ...]:
        if not self.settings.proxy.enabled:
            return ()
        at_root = {path for definition in self.definitions.values() for path in definition.passed}
        return tuple(sorted({*at_root, *(f"/sources/{name}/" for name in self.definitions)}))


def guard_policy(settings: Settings) -> GuardPolicy:
    """The egress rules of these settings."""
    security = settings.security
    return GuardPolicy(
        allow_http=security.allow_http,
        allow_networks=tuple(security.allow_networks),
        allow_ports=frozenset(security.allow_ports),
        allow_hosts=security.allow_hosts,
        deny_hosts=security.deny_hosts,
        own_address=(settings.server.host, settings.server.port),
        own_url=settings.server.public_url,
        by_proxy=security.egress_proxy is not None,
    )


def egress_proxy(settings: Settings) -> EgressProxy | None:
    """The proxy that requests to sinks go through, if there is one."""
    url = settings.security.egress_proxy
    return None if url is None else EgressProxy.at(url)


def _key_reader(account: AccountConfig) -> Callable[[], str | None]:
    if account.api_key_file is None:
        return lambda: account.api_key
    path = account.api_key_file

    def read() -> str | None:
        with contextlib.suppress(ValueError, OSError):
            return read_secret_file(path)
        return account.api_key

    return read
