"""The Prometheus metrics of a node. Each node has its own registry."""

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from relay.core.events.event import RELAY_EVENTS
from relay.core.figures import TimeSeries

if TYPE_CHECKING:
    from relay.core.events.event import Event
    from relay.core.subscriptions.subscription import Subscription

DELAY_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
MAX_CLASSES = 50
OTHER = "other"
NOT_FAILED = ("delivered", "skip")
"""The verdicts of attempts that have not failed."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
_CLASS = re.compile(r"[A-Za-z0-9_.:-]{1,40}(/[A-Za-z0-9_.:-]{1,40})?")


class Metrics:
    """Every metric. Names and labels are part of the public interface (docs/operate/metrics.md)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.figures = TimeSeries()
        """The figures over time, which are counted beside some of the metrics."""
        self._classes = {OTHER}
        account = ("source", "account")
        self.polls = Counter(
            "relay_polls",
            "Polls by result and purpose",
            (*account, "result", "purpose"),
            registry=self.registry,
        )
        self.polls_wasted = Counter(
            "relay_polls_wasted",
            "Successful polls that found no change",
            (*account, "purpose"),
            registry=self.registry,
        )
        self.poll_seconds = Histogram(
            "relay_poll_seconds", "Duration of a poll", account, buckets=LATENCY_BUCKETS, registry=self.registry
        )
        self.detection_delay_seconds = Histogram(
            "relay_detection_delay_seconds",
            "Time from a job's end upstream until the relay detected it, by action and channel",
            (*account, "class"),
            buckets=DELAY_BUCKETS,
            registry=self.registry,
        )
        self.expected_detection_delay_seconds = Gauge(
            "relay_expected_detection_delay_seconds",
            "Mean detection delay expected by the planner; absent until it can be estimated",
            account,
            registry=self.registry,
        )
        self.price_seconds = Gauge(
            "relay_price_seconds",
            "Seconds of delay a poll must save to be worth a request; absent while another node polls",
            account,
            registry=self.registry,
        )
        self.account_listings = Counter(
            "relay_account_listings",
            "Listings of connect accounts by result",
            (*account, "result"),
            registry=self.registry,
        )
        self.connect_accounts = Gauge(
            "relay_connect_accounts",
            "Connect accounts by state, at the last listing; absent while another node polls",
            (*account, "state"),
            registry=self.registry,
        )
        self.credits_available = Gauge(
            "relay_credits_available",
            "Credits left at the last reading; absent unless `credits_low` is set, and while another node polls",
            account,
            registry=self.registry,
        )
        self.credits_low = Gauge(
            "relay_credits_low",
            "1 if they are below `credits_low`, else 0; absent like the credits; alert on it",
            account,
            registry=self.registry,
        )
        self.events = Counter("relay_events", "Recorded events by type", ("type",), registry=self.registry)
        for type in RELAY_EVENTS:  # `increase` does not see the first of a series that begins at 1
            self.events.labels(type)
        self.attempts = Counter(
            "relay_delivery_attempts",
            "Attempts by kind and verdict",
            ("kind", "verdict"),
            registry=self.registry,
        )
        self.bundled_events = Counter(
            "relay_delivery_bundled_events",
            "Events sent in requests of several, or published together",
            ("kind",),
            registry=self.registry,
        )
        self.attempt_seconds = Histogram(
            "relay_delivery_attempt_seconds",
            "Duration of a delivery attempt",
            ("kind",),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.deliveries_in_flight = Gauge(
            "relay_deliveries_in_flight", "Deliveries being attempted", registry=self.registry
        )
        self.portal_paused_seconds = Gauge(
            "relay_portal_paused_seconds",
            "Seconds until a CRM's portal that asked for a pause may be sent to again, the longest of each kind",
            ("kind",),
            registry=self.registry,
        )
        self.deliveries_pending = Gauge(
            "relay_deliveries_pending", "Pending deliveries, at the last upkeep", registry=self.registry
        )
        self.pull_lag = Gauge(
            "relay_pull_lag",
            "Deliveries that the programs of a PULL subscription have not acknowledged, at the last upkeep",
            ("subscription",),
            registry=self.registry,
        )
        self.pull_oldest_seconds = Gauge(
            "relay_pull_oldest_seconds",
            "Age of the oldest delivery of a PULL subscription that is not acknowledged, at the last upkeep",
            ("subscription",),
            registry=self.registry,
        )
        self.deliveries_uncertain = Gauge(
            "relay_deliveries_uncertain",
            "Deliveries that may or may not have been written, at the last upkeep; alert on it",
            registry=self.registry,
        )
        self.deliveries_skipped = Counter(
            "relay_deliveries_skipped",
            "Deliveries that were skipped because no contact in the CRM matches, or more than one, by kind",
            ("kind",),
            registry=self.registry,
        )
        self.deliveries_held = Gauge(
            "relay_deliveries_held",
            "Pending deliveries whose subscription is failing, paused, disabled or pending, or that programs pull",
            ("by",),
            registry=self.registry,
        )
        self.oldest_pending_seconds = Gauge(
            "relay_oldest_pending_seconds",
            "Age of the oldest pending delivery of an enabled subscription that is sent to; alert on it",
            registry=self.registry,
        )
        self.database_bytes = Gauge(
            "relay_database_bytes", "Size of the database on disk, at the last upkeep", registry=self.registry
        )
        self.open_jobs = Gauge("relay_open_jobs", "Open jobs", account, registry=self.registry)
        self.due_jobs = Gauge("relay_due_jobs", "Jobs with a due poll", account, registry=self.registry)
        self.source_up = Gauge(
            "relay_source_up", "1 while polls succeed, 0 while unauthorized or down", account, registry=self.registry
        )
        self.polling_stalled = Gauge(
            "relay_polling_stalled",
            "1 if polls are due but none has completed for a minute; alert on it",
            account,
            registry=self.registry,
        )
        self.commits = Gauge("relay_store_commits", "Commits since the start", registry=self.registry)
        self.writes = Gauge("relay_store_writes", "Writes since the start", registry=self.registry)
        self.deleted = Counter(
            "relay_retention_deleted", "Rows deleted by retention", ("what",), registry=self.registry
        )
        self.passed = Counter(
            "relay_passed_requests",
            "Requests to upstream paths by kind, cache use and status",
            ("kind", "cache", "status"),
            registry=self.registry,
        )
        self.intents_unknown = Gauge(
            "relay_intents_unknown",
            "Creates with unknown outcome, at the last upkeep; alert on it",
            registry=self.registry,
        )
        self.incidents_open = Gauge(
            "relay_incidents_open", "Open incidents by kind, at the last upkeep", ("kind",), registry=self.registry
        )
        self.requests = Counter(
            "relay_http_requests",
            "API requests by method and status",
            ("method", "status"),
            registry=self.registry,
        )

        self._requests_of = lru_cache(self.requests.labels)
        self._events_of = lru_cache(maxsize=64)(self.events.labels)
        self._attempts_of = lru_cache(maxsize=64)(self.attempts.labels)
        self._seconds_of = lru_cache(maxsize=64)(self.attempt_seconds.labels)

    def count_event(self, event: "Event") -> None:
        """Counts an event that was recorded."""
        self._events_of(event.type).inc()
        self.figures.add("events", event.owner or "", event.recorded_at)

    def count_published(self, type: str, count: int, at: float) -> None:
        """Counts published events as those of one type."""
        self._events_of(type).inc(count)
        self.figures.add("events", "", at, count=count)

    def count_attempts(self, subscription: "Subscription", kind: str, verdict: str, count: int, at: float) -> None:
        """Counts attempts that have ended with a verdict."""
        self._attempts_of(kind, verdict).inc(count)
        label = figures_label(subscription)
        self.figures.add("attempts", label, at, count=count)
        if verdict not in NOT_FAILED:
            self.figures.add("attempts_failed", label, at, count=count)

    def observe_attempt(self, subscription: "Subscription", kind: str, seconds: float, at: float) -> None:
        """Notes the duration of a request to a sink."""
        self._seconds_of(kind).observe(seconds)
        self.figures.add("attempt_seconds", figures_label(subscription), at, seconds)

    def count_dead(self, subscription: "Subscription", at: float) -> None:
        """Counts a delivery that was given up."""
        self.figures.add("deliveries_dead", figures_label(subscription), at)

    def count_request(self, method: str, status: int) -> None:
        """Counts an API request. Unknown methods share one label, so that callers cannot create time series."""
        self._requests_of(method if method in METHODS else OTHER, f"{status // 100}xx").inc()

    def class_of(self, action: str | None, channel: str | None) -> str:
        """The `class` label of a job, `action/channel`; `other` once there are MAX_CLASSES different ones."""
        name = f"{action}/{channel}" if channel else action or ""
        if not action or not _CLASS.fullmatch(name):
            return OTHER
        if name not in self._classes:
            if len(self._classes) >= MAX_CLASSES:
                return OTHER
            self._classes.add(name)
        return name

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def figures_label(subscription: "Subscription") -> str:
    """The label of a subscription's figures. Callbacks have none: there may be as many as jobs."""
    return "" if subscription.callback else subscription.id
