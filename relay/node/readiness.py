"""The state of a node for /readyz and /metrics."""

from collections.abc import Collection, Mapping

from prometheus_client import Gauge

from relay.api.http.dependencies import Readiness
from relay.clock import optional_rfc3339
from relay.config.settings import DEFAULT_ACCOUNT, KEY_VARIABLE
from relay.core.jobs.connect_accounts import SHOWN_STATES
from relay.core.jobs.job import DEFAULT_SOURCE
from relay.core.polling.tracking import CreditsReading
from relay.delivery.slots import Slots
from relay.errors import DecryptError
from relay.metrics import Metrics
from relay.polling.poller import Poller
from relay.store.databases.probe import WriteProbe
from relay.store.store import Store

Pollers = Mapping[tuple[str, str], Poller]


async def readiness(
    store: Store,
    probe: WriteProbe,
    pollers: Pollers,
    roles: Mapping[str, bool],
    now: float,
    *,
    undecryptable: Collection[DecryptError] = (),
) -> Readiness:
    """Readiness of the node. `roles`: its roles, and True for each that is running; `undecryptable`: the errors of
    deliveries that wait because their secrets cannot be decrypted."""
    missing = {error.key: f"deliveries wait: {error}" for error in undecryptable}  # one for each key
    problems = [("encryption", sentence) for sentence in missing.values()]
    """Component and sentence of each problem."""
    notes: list[str] = []
    checks: dict[str, str] = {}
    trouble = await database_problem(store, probe, now)
    if trouble is None:
        try:
            unknown = await store.intents.count_unknown(now)
            if unknown:
                creates = f"{unknown} create{'s' if unknown > 1 else ''}"
                notes.append(f"what came of {creates} is unknown: see GET /v1/intents")
            uncertain = await store.deliveries.uncertain()
            if uncertain:
                them = "1 delivery is" if uncertain == 1 else f"{uncertain:,} deliveries are"
                notes.append(f"{them} uncertain: see GET /v1/deliveries?state=uncertain")
        except Exception as error:
            trouble = _first_line(error)
    checks["database"] = "ok" if trouble is None else "failing"
    if trouble is not None:
        problems.append(("database", f"database: {trouble}"))
    for role, running in roles.items():
        checks[role] = "running" if running else "stopped"
        if not running:
            problems.append((role, f"the role {role} is not running: restart the node"))
    for (source, account), poller in pollers.items():
        name = f"{source}/{account}"
        checks[f"source:{name}"] = poller.state.state if poller.key is not None else "no_key"
        if not poller.account.holds:
            checks[f"source:{name}"] = "polled by another node"
        if poller.key is None:
            problems.append(("sources", f"{name} has no API key: set {setting_of_key(source, account)}"))
        elif poller.state.state != "ok":
            since = optional_rfc3339(poller.state.since)
            notes.append(f"{name} is {poller.state.state} since {since}: see GET /v1/sources")
        if (note := _note_of(name, poller.credits)) is not None:
            notes.append(note)
        if poller.agenda.loading:
            notes.append(f"{name}: its open jobs are still being read from the database")
        if "scheduler" in roles and poller.stalled(now):
            notes.append(f"{name}: polls are due but none has completed for a minute")
    return Readiness(
        problems=tuple(sentence for _, sentence in problems),
        components=tuple(dict.fromkeys(component for component, _ in problems)),
        notes=tuple(notes),
        checks=checks,
    )


def _note_of(name: str, credits: CreditsReading | None) -> str | None:
    if credits is None:
        return None
    if credits.problem is not None:
        return f"{name}: its credits cannot be read: {credits.problem}"
    if credits.low_since is None or credits.available is None:
        return None
    since = optional_rfc3339(credits.low_since)
    return f"{name} has {credits.available:,.15g} credits left, below {credits.threshold:,} since {since}"


async def database_problem(store: Store, probe: WriteProbe, now: float) -> str | None:
    """The fault of the database; None if it can be read and written."""
    try:
        await store.events.newest_position()
        await probe.check(now)
    except Exception as error:
        return _first_line(error)
    trouble = store.database.trouble
    return None if trouble is None else f"nothing can be written: {trouble}"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def setting_of_key(source: str, account: str) -> str:
    """The name of the setting with an account's key."""
    is_default = (source, account) == (DEFAULT_SOURCE, DEFAULT_ACCOUNT)
    return KEY_VARIABLE if is_default else f"sources.{source}.accounts.{account}.api_key"


def _set(gauge: Gauge, value: float | None, *labels: str) -> None:
    """Sets the gauge of these labels. None removes it."""
    if value is None:
        gauge.remove(*labels)
    else:
        gauge.labels(*labels).set(value)


def measured(metrics: Metrics, store: Store, pollers: Pollers, slots: Slots, now: float) -> bytes:
    """All metrics in Prometheus' text format, after setting the gauges that are measured on demand."""
    metrics.portal_paused_seconds.clear()
    for kind, seconds in slots.paused_portals(now).items():
        metrics.portal_paused_seconds.labels(kind).set(seconds)
    for (source, account), poller in pollers.items():
        stats = poller.planner.stats(now)
        metrics.open_jobs.labels(source, account).set(stats.open_jobs)
        metrics.due_jobs.labels(source, account).set(stats.due_jobs)
        holds = poller.account.holds
        _set(metrics.price_seconds, stats.price_seconds if holds else None, source, account)
        states = {} if poller.account.watch is None else poller.account.watch.states
        for state in SHOWN_STATES:
            number = states.get(state, 0) if holds and states else None
            _set(metrics.connect_accounts, number, source, account, state)
        credits = poller.credits
        available = None if credits is None else credits.available
        low = None if credits is None or available is None else float(credits.low_since is not None)
        _set(metrics.credits_available, available, source, account)
        _set(metrics.credits_low, low, source, account)
        _set(metrics.expected_detection_delay_seconds, stats.expected_delay_seconds, source, account)
        metrics.source_up.labels(source, account).set(float(poller.state.state == "ok" and poller.key is not None))
        metrics.polling_stalled.labels(source, account).set(float(poller.stalled(now)))
    metrics.deliveries_in_flight.set(slots.in_flight)
    metrics.commits.set(store.database.commit_count)
    metrics.writes.set(store.database.item_count)
    return metrics.render()
