"""What the node counts and measures, for Prometheus. One registry a node, so that tests can have several."""

import re

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

DELAY_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15)
MAX_CLASSES = 50
OTHER = "other"
_CLASS = re.compile(r"[A-Za-z0-9_.:-]{1,40}(/[A-Za-z0-9_.:-]{1,40})?")


class Metrics:
    """Every metric; their names are part of the interface (docs/metrics.md)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._classes = {OTHER}
        account = ("source", "account")
        self.polls = Counter(
            "relay_polls",
            "Looks at jobs by what came of them and what they were for",
            (*account, "result", "purpose"),
            registry=self.registry,
        )
        self.polls_wasted = Counter(
            "relay_polls_wasted",
            "Looks that succeeded and found nothing new",
            (*account, "purpose"),
            registry=self.registry,
        )
        self.poll_seconds = Histogram(
            "relay_poll_seconds", "How long a look takes", account, buckets=LATENCY_BUCKETS, registry=self.registry
        )
        self.detection_delay_seconds = Histogram(
            "relay_detection_delay_seconds",
            "From a job's end upstream to the moment the relay knew, by action and channel",
            (*account, "class"),
            buckets=DELAY_BUCKETS,
            registry=self.registry,
        )
        self.expected_detection_delay_seconds = Gauge(
            "relay_expected_detection_delay_seconds",
            "The mean of that delay as the planner expects it; missing while there is nothing to judge by",
            account,
            registry=self.registry,
        )
        self.price_seconds = Gauge(
            "relay_price_seconds",
            "How many seconds of delay a request has to save to be sent; missing while another node polls",
            account,
            registry=self.registry,
        )
        self.events = Counter("relay_events", "Events recorded by type", ("type",), registry=self.registry)
        self.attempts = Counter(
            "relay_delivery_attempts", "Attempts by kind and verdict", ("kind", "verdict"), registry=self.registry
        )
        self.attempt_seconds = Histogram(
            "relay_delivery_attempt_seconds",
            "How long an attempt takes",
            ("kind",),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.deliveries_in_flight = Gauge(
            "relay_deliveries_in_flight", "Deliveries being attempted now", registry=self.registry
        )
        self.deliveries_pending = Gauge(
            "relay_deliveries_pending", "Deliveries that have not ended, at the last upkeep", registry=self.registry
        )
        self.deliveries_held = Gauge(
            "relay_deliveries_held",
            "Of them, those whose subscription is failing, paused or disabled",
            ("by",),
            registry=self.registry,
        )
        self.oldest_pending_seconds = Gauge(
            "relay_oldest_pending_seconds",
            "Age of the oldest of them that is not held by paused or disabled: alarm on it",
            registry=self.registry,
        )
        self.database_bytes = Gauge(
            "relay_database_bytes", "What the database takes on the disk, at the last upkeep", registry=self.registry
        )
        self.open_jobs = Gauge("relay_open_jobs", "Jobs that are looked at", account, registry=self.registry)
        self.due_jobs = Gauge("relay_due_jobs", "Jobs whose look is due", account, registry=self.registry)
        self.source_up = Gauge(
            "relay_source_up", "1 while looks succeed, 0 while unauthorized or down", account, registry=self.registry
        )
        self.polling_stalled = Gauge(
            "relay_polling_stalled",
            "1 while looks are due and none has completed for a minute: alarm on it",
            account,
            registry=self.registry,
        )
        self.commits = Gauge("relay_store_commits", "Commits since the start", registry=self.registry)
        self.writes = Gauge("relay_store_writes", "Writes since the start", registry=self.registry)
        self.deleted = Counter(
            "relay_retention_deleted", "Rows that retention deleted", ("what",), registry=self.registry
        )
        self.passed = Counter(
            "relay_passed_requests",
            "Requests to the upstream's own paths, by what they are and how they were answered",
            ("kind", "cache", "status"),
            registry=self.registry,
        )
        self.intents_unknown = Gauge(
            "relay_intents_unknown", "Creates whose fate is unknown, at the last upkeep", registry=self.registry
        )
        self.requests = Counter(
            "relay_http_requests", "Requests to our API by status class", ("method", "status"), registry=self.registry
        )

    def class_of(self, action: str | None, channel: str | None) -> str:
        """The label `class` of a job, `action/channel`; at most MAX_CLASSES different ones, `other` for the rest."""
        name = f"{action}/{channel}" if channel else action or ""
        if not action or not _CLASS.fullmatch(name):
            return OTHER
        if name not in self._classes:
            if len(self._classes) >= MAX_CLASSES:
                return OTHER
            self._classes.add(name)
        return name

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
