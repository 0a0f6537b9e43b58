"""The figures of a demo: compares the events received with the true times of the sandbox. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from relay.clock import from_rfc3339

NAIVE_INTERVAL_SECONDS = 5.0
"""The polling interval of the plain poller that the relay is compared with."""

FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The first arrival of an event. `kind` is the last word of its type, `detected_at` is in epoch seconds."""

    event_id: str
    job_id: str
    sequence: int
    kind: str
    detected_at: float

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> "Receipt":
        """The arrival of an event of a job. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(
            event_id=event["id"],
            job_id=event["subject"],
            sequence=int(event["sequence"]),
            kind=event["type"].rpartition(".")[2],
            detected_at=from_rfc3339(event["data"]["detected_at"]),
        )


@dataclass(kw_only=True)
class Receipts:
    """The receiver's requests, in order of arrival."""

    by_job: dict[str, list[Receipt]] = field(default_factory=dict)
    events_delivered: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    signature_failures: int = 0
    _known: set[str] = field(default_factory=set, init=False, repr=False)

    def add(self, receipt: Receipt) -> None:
        """Counts one arrival with a valid signature."""
        if receipt.event_id in self._known:
            self.duplicates += 1
            return
        self._known.add(receipt.event_id)
        self.events_delivered += 1
        of_job = self.by_job.setdefault(receipt.job_id, [])
        if of_job and receipt.sequence <= max(each.sequence for each in of_job):
            self.out_of_order += 1
        of_job.append(receipt)

    def of(self, job_id: str) -> list[Receipt]:
        """The job's distinct events, ordered by sequence."""
        return sorted(self.by_job.get(job_id, ()), key=lambda receipt: receipt.sequence)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCheck:
    """The number of events expected of one job (`owed`), how many of them are missing, and how many other states
    were not observed."""

    owed: int
    missing: int
    unobserved: int


def check_job(truth: Mapping[str, Any], receipts: Sequence[Receipt]) -> JobCheck:
    """Compares a job's true lifecycle (`World.truth`) with its events, ordered by sequence.

    Owed events: its last true status, `running` if its final item has `started_at`, and one `retrying` per retried
    attempt. Other states may come and go between two polls: `unobserved` counts them. A gap in the sequence is a
    recorded event that did not arrive, so it is missing too.
    """
    transitions = truth["transitions"]
    attempts = _split("retrying" if step["failed_attempt"] is not None else step["status"] for step in transitions)
    received = _split(receipt.kind for receipt in receipts)
    retries = len(attempts) - 1
    final = transitions[-1]["status"]
    started = truth["final_item"]["started_at"] is not None
    missing = (
        max(0, retries - (len(received) - 1))
        + (final not in received[-1])
        + (started and "running" not in received[-1])
    )
    unobserved = 0
    for index, statuses in enumerate(attempts):
        seen = received[index] if index < len(received) else []
        is_last = index == retries
        optional = [status for status in statuses if not (is_last and (status == final or status == "running"))]
        unobserved += sum(status not in seen for status in optional)
    gaps = max((receipt.sequence for receipt in receipts), default=0) - len(receipts)
    return JobCheck(owed=1 + started + retries, missing=max(missing, gaps), unobserved=unobserved)


def naive_requests(truth: Mapping[str, Any], speed: float) -> int:
    """The requests that a 5 s poller (at speed 1) would have sent from the job's creation to its true end."""
    true_seconds: float = (truth["transitions"][-1]["at_epoch_seconds"] - truth["created_at_epoch_seconds"]) * speed
    return max(1, math.ceil(true_seconds / NAIVE_INTERVAL_SECONDS))


def detection_delay(truth: Mapping[str, Any], receipts: Sequence[Receipt], speed: float) -> float | None:
    """Seconds, as at speed 1, from the job's true end until the relay detected it. None if it did not."""
    final = truth["transitions"][-1]
    ended_at: float = final["at_epoch_seconds"]
    for receipt in receipts:
        if receipt.kind == final["status"]:
            return max(0.0, receipt.detected_at - ended_at) * speed
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """Seconds, as at speed 1. None if no job's end was seen."""

    mean: float | None
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Naive:
    """The figures of the plain poller.

    `unseen` ends were not seen by the time limit. They count with their delay so far: the delay is then a lower bound.
    """

    detection_delay_seconds: Delay
    upstream_requests: int
    unseen: int = 0

    def shown(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "detection_delay_seconds": asdict(self.detection_delay_seconds),
            "upstream_requests": self.upstream_requests,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures of one demo, as `--json` prints them."""

    jobs: int
    events_delivered: int
    owed: int
    lost: int
    unobserved: int
    duplicates: int
    out_of_order: int
    signature_failures: int
    upstream_requests: int
    requests_per_job: float
    naive_requests_per_job: float
    detection_delay_seconds: Delay
    elapsed_seconds: float

    @property
    def problems(self) -> tuple[str, ...]:
        """The checks that failed, in a few words each."""
        found = (
            (self.lost, "lost"),
            (self.out_of_order, "out of order"),
            (self.signature_failures, "with a bad signature"),
        )
        return tuple(f"{number} {what}" for number, what in found if number)

    @property
    def ok(self) -> bool:
        """True if nothing is lost, out of order or unverified."""
        return not self.problems

    def headline(self) -> str:
        """The result in one sentence."""
        mean = self.detection_delay_seconds.mean
        delay = "no end was seen" if mean is None else f"ends seen after {mean:.1f} s on average"
        checks = ", ".join(self.problems) or "none lost, none out of order, every signature valid"
        jobs = "1 job" if self.jobs == 1 else f"{self.jobs} jobs"
        return (
            f"{jobs}, {self.events_delivered} events delivered ({checks}); {delay}, with {self.requests_per_job:.1f} "
            f"requests per job. Polling every {NAIVE_INTERVAL_SECONDS:g} s needs {self.naive_requests_per_job:.1f}."
        )


def make_report(
    truths: Sequence[Mapping[str, Any]],
    received: Receipts,
    *,
    speed: float,
    upstream_requests: int,
    elapsed_seconds: float,
) -> Report:
    """The figures of a demo with these true lifecycles."""
    found = [check_job(truth, received.of(truth["id"])) for truth in truths]
    delays = [
        delay for truth in truths if (delay := detection_delay(truth, received.of(truth["id"]), speed)) is not None
    ]
    count = max(1, len(truths))
    return Report(
        jobs=len(truths),
        events_delivered=received.events_delivered,
        owed=sum(each.owed for each in found),
        lost=sum(each.missing for each in found),
        unobserved=sum(each.unobserved for each in found),
        duplicates=received.duplicates,
        out_of_order=received.out_of_order,
        signature_failures=received.signature_failures,
        upstream_requests=upstream_requests,
        requests_per_job=round(upstream_requests / count, 2),
        naive_requests_per_job=round(sum(naive_requests(truth, speed) for truth in truths) / count, 2),
        detection_delay_seconds=_delay(delays),
        elapsed_seconds=round(elapsed_seconds, 3),
    )


def make_naive(
    truths: Sequence[Mapping[str, Any]],
    seen_at: Mapping[str, float],
    *,
    given_up_at: float,
    speed: float,
    upstream_requests: int,
) -> Naive:
    """The figures of a poller that saw the ends at `seen_at` and stopped at `given_up_at` (epoch seconds)."""
    delays = [
        max(0.0, seen_at.get(truth["id"], given_up_at) - truth["transitions"][-1]["at_epoch_seconds"]) * speed
        for truth in truths
    ]
    unseen = sum(truth["id"] not in seen_at for truth in truths)
    return Naive(detection_delay_seconds=_delay(delays), upstream_requests=upstream_requests, unseen=unseen)


def compared(report: Report, naive: Naive) -> str:
    """The comparison in one sentence."""
    ours, theirs = report.detection_delay_seconds.mean, naive.detection_delay_seconds.mean
    requests = f"with {report.upstream_requests} requests against {naive.upstream_requests}"
    if ours is None or theirs is None:
        return f"The relay saw no end, {requests}."
    least = f"at least {theirs:.1f} s, with {naive.unseen} not yet seen" if naive.unseen else f"{theirs:.1f} s"
    factor = f" ({theirs / ours:.1f} times as long)" if ours > 0 else ""
    return f"The relay saw ends after {ours:.1f} s on average, the plain poller after {least}{factor}; {requests}."


def _delay(delays: Sequence[float]) -> Delay:
    ascending = sorted(delays)
    return Delay(
        mean=round(sum(ascending) / len(ascending), 3) if ascending else None,
        p50=_percentile(ascending, 0.5),
        p95=_percentile(ascending, 0.95),
    )


def _split(kinds: Iterable[str]) -> list[list[str]]:
    """The statuses of a job, split at each `retrying`."""
    parts: list[list[str]] = [[]]
    for kind in kinds:
        if kind == "retrying":
            parts.append([])
        else:
            parts[-1].append(kind)
    return parts


def _percentile(ascending: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile."""
    return round(ascending[max(0, math.ceil(share * len(ascending)) - 1)], 3) if ascending else None
