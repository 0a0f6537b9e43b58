"""What the dashboard shows besides the jobs of a large database: figures, audit entries, creates and tokens of a
month. `large_database.py` loads them too."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from relay.core.figures import FIGURES, KEPT_SECONDS, LABELLED, SPAN_NAMES, SPAN_SECONDS
from relay.core.jsontext import dumps
from relay.core.planner import PlannerStatistics
from relay.core.planner.inspection import RUN
from relay.ids import new_id
from relay.store.schema.tables import AuditRow, FigureRow, HazardRow, IntentRow, TokenRow

AUDIT_ENTRIES = 200_000
INTENTS, UNKNOWN_INTENTS = 2_000, 30
TOKENS = 100
ACTION, CHANNELS = "outreach.dispatch", ("linkedin", "email", "whatsapp")
RUNS = 1_000
"""Of each channel, that polls have seen."""
DAYS = 30
DAY_SECONDS = 86_400
ACTIONS = ("jobs.create", "jobs.delete", "subscriptions.update", "tokens.create", "deliveries.retry", "login")

Row = dict[str, Any]


def learned_rows(now: float) -> Iterator[Row]:
    """What polls have taught of the jobs."""
    statistics, rng = PlannerStatistics(1.0), Random(1)
    for channel in CHANNELS:
        job_class = statistics.of_class(ACTION, channel)
        for _ in range(RUNS):
            statistics.record_event(job_class, RUN, 0.0, rng.lognormvariate(math.log(7.0), 0.5))
            statistics.record_attempts(job_class, 1)
    for name, count, values in statistics.unsaved_rows():
        yield {"source": "revor", "name": name, "event_count": count, "values_json": values, "updated_at": now}


def figure_rows(labels: Mapping[str, Sequence[str]], now: float) -> Iterator[Row]:
    """Every figure for as long as it is kept. `labels`: accounts and subscriptions, by the name of the label."""
    for name, figure in FIGURES.items():
        for label in ("", *labels.get(figure.label, ())):
            for span in LABELLED if label else SPAN_NAMES:
                seconds = SPAN_SECONDS[span]
                first = int((now - KEPT_SECONDS[span]) // seconds) + 1
                for number in range(first, int(now // seconds) + 1):
                    yield from _figures(name, figure.kind, label, span, number * seconds)


def _figures(name: str, kind: str, label: str, span: str, at: float) -> Iterator[Row]:
    count = int(SPAN_SECONDS[span] // 60) * (20 + int(at) // 60 % 7)
    total = float(count)
    if kind == "gauge":
        count, total = 4, 4 * (40_000.0 + int(at) // 60 % 500)
    buckets = range(10, 30) if kind == "values" else range(1)
    for bucket in buckets:
        yield {
            **{"name": name, "label": label, "span": span, "began_at": at, "bucket": bucket},
            **{"count": count // len(buckets), "total": total / len(buckets)},
        }


def audit_rows(count: int, now: float) -> Iterator[Row]:
    """An audit whose entries are not sealed: nothing verifies them here."""
    began = now - DAYS * DAY_SECONDS
    for number in range(1, count + 1):
        at = began + number * DAYS * DAY_SECONDS / count
        refused = number % 40 == 0
        yield {
            **{"number": number, "id": new_id("aud", at), "at": at, "times": 1},
            **{"action": ACTIONS[number % len(ACTIONS)], "actor": f"person {number % 30}", "token_id": None},
            **{"target": f"target-{number}", "address": "192.0.2.7", "result": "refused" if refused else "ok"},
            **{"status": 403 if refused else 200, "request_id": f"req-{number}", "ends": None},
            **{"detail": dumps({"fields": ["name"]}), "previous": b"\0" * 32, "mac": b"\0" * 32},
        }


def intent_rows(count: int, now: float) -> Iterator[Row]:
    """Creates of unknown fate: a few that need a person, the others resolved."""
    for number in range(count):
        at = now - DAYS * DAY_SECONDS + number * DAYS * DAY_SECONDS / count
        yield {
            **{"id": new_id("int", at), "source": "revor", "account": "default", "created_at": at, "told": 1},
            **{"path": "/api/v1/outreach/dispatches", "body_digest": f"digest {number}", "reason": "no_answer"},
            **{"channel": "email", "connect_account_id": f"acc_{number % 200}", "request": dumps({"to": "kim"})},
            "fate": None if count - number <= UNKNOWN_INTENTS else "created",
        }


def token_rows(now: float) -> Iterator[Row]:
    """Tokens that cannot be used: their secrets are unknown."""
    for number in range(TOKENS):
        at = now - number * DAY_SECONDS
        yield {
            **{"id": new_id("tok", at), "name": f"token {number}", "scopes": ["read"], "created_at": at},
            **{"digest": hashlib.sha256(f"large {number}".encode()).hexdigest(), "created_by": "ops"},
            "networks": [],
        }


def history_rows(labels: Mapping[str, Sequence[str]], share: float, now: float) -> Iterator[tuple[Any, Iterator[Row]]]:
    """All of them, by table. `share`: of the full size."""
    yield FigureRow, figure_rows(labels, now)
    yield AuditRow, audit_rows(max(100, int(AUDIT_ENTRIES * share)), now)
    yield IntentRow, intent_rows(max(2 * UNKNOWN_INTENTS, int(INTENTS * share)), now)
    yield TokenRow, token_rows(now)
    yield HazardRow, learned_rows(now)
