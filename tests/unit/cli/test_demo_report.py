"""The demo's figures: owed, received and missing events, and the cost in requests."""

from typing import Any

import pytest

from relay.cli.demo.report import Receipt, Receipts, check_job
from relay.sandbox.lifecycle import Script
from relay.sandbox.server import Sandbox

NOW = 1_779_271_200.0


def life(*, failures: int = 0, final: Any = "succeeded", speed: float = 1.0) -> dict[str, Any]:
    world = Sandbox(seed=1, speed=speed).world()
    script = Script(
        final=final, attempt_failures=failures, run_seconds=7, start_delay_seconds=1, retry_pause_seconds=30
    )
    return world.truth(world.create(account="a", channel="email", now=NOW, script=script), NOW + 10_000)


def receipts(job_id: str, *kinds: str, detected_at: float = NOW + 9) -> list[Receipt]:
    return [
        Receipt(event_id=f"evt_{index}", job_id=job_id, sequence=index, kind=kind, detected_at=detected_at)
        for index, kind in enumerate(kinds, 1)
    ]


@pytest.mark.parametrize(
    ("failures", "final", "kinds", "owed", "missing", "unobserved"),
    [
        (0, "succeeded", ("queued", "running", "succeeded"), 2, 0, 0),
        (0, "succeeded", ("running", "succeeded"), 2, 0, 1),
        (0, "succeeded", ("queued", "succeeded"), 2, 1, 0),
        (0, "succeeded", ("queued", "running"), 2, 1, 0),
        (0, "succeeded", (), 2, 2, 1),
        (0, "cancelled", ("queued", "cancelled"), 1, 0, 0),
        (0, "cancelled", ("cancelled",), 1, 0, 1),
        (2, "failed", ("queued", "running", "retrying", "running", "retrying", "running", "failed"), 4, 0, 0),
        (2, "failed", ("queued", "retrying", "retrying", "running", "failed"), 4, 0, 2),
        (2, "failed", ("queued", "running", "retrying", "running", "failed"), 4, 1, 0),
        (1, "succeeded", ("queued", "running", "retrying", "succeeded"), 3, 1, 0),
    ],
)
def test_owed_missing_and_unobserved_events(
    failures: int, final: str, kinds: tuple[str, ...], owed: int, missing: int, unobserved: int
) -> None:
    truth = life(failures=failures, final=final)
    found = check_job(truth, receipts(truth["id"], *kinds))
    assert (found.owed, found.missing, found.unobserved) == (owed, missing, unobserved)


def test_gap_in_the_sequence_is_a_missing_event() -> None:
    truth = life()
    came = receipts(truth["id"], "queued", "scheduled", "running", "succeeded")
    assert check_job(truth, came).missing == 0
    assert check_job(truth, [came[0], *came[2:]]).missing == 1


def test_duplicates_and_events_out_of_order_are_counted() -> None:
    received = Receipts()
    first, second, third = receipts("j", "queued", "running", "succeeded")
    for receipt in (first, third, second, first):
        received.add(receipt)
    assert (received.events_delivered, received.duplicates, received.out_of_order) == (3, 1, 1)
    assert received.of("j") == [first, second, third]
    assert received.of("other") == []
