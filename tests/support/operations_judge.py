"""Checks the promises (contract of events and delivery) against the results of random operations.

Each check returns its findings; all must be empty.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.support.group_recount import api_mismatches
from tests.support.kill_world import is_subsequence, what_is_missing
from tests.support.operations_world import SLACK_SECONDS, Arrival, Subscribed, Tracked, Window, World


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An event of a job as the relay lists it. `recorded_at`: monotonic seconds, to within a clock's reading."""

    id: str
    subject: str
    sequence: int
    type: str
    recorded_at: float


async def findings(world: World) -> list[str]:
    """Everything that breaks the promise; in words."""
    listed = await world.pages("/v1/events")
    events = [_recorded(event) for event in listed if event["type"].startswith("ai.revor.job.")]
    dead = [delivery["id"] for delivery in await world.pages("/v1/deliveries?state=dead")]
    groups = api_mismatches(await world.pages("/v1/jobs"), await world.pages("/v1/groups"))
    return [*(f"dead: {delivery}" for delivery in dead), *groups, *judge(world, events, await world.truths())]


def judge(world: World, events: Sequence[Recorded], truths: Mapping[str, Any]) -> list[str]:
    """What breaks the promise, given what the relay lists and the true lives of the jobs."""
    return [
        *(f"not signed with the secrets in force: {each}" for each in world.sinks.unread),
        *(f"streamed twice on one connection: {each}" for each in world.stream_repeats),
        *(f"never streamed: {event.id} of {event.subject}" for event in events if event.id not in world.streamed),
        *_one_event_each(world.sinks.arrivals),
        *_true_lives(world, events, truths),
        *_complete(world, events),
        *_only_what_matches(world),
        *_in_order(world, events),
        *_once(world),
        *_gone_is_gone(world),
    ]


def _recorded(event: Mapping[str, Any]) -> Recorded:
    wall = datetime.fromisoformat(event["data"]["detected_at"]).timestamp()
    return Recorded(
        id=event["id"],
        subject=event["subject"],
        sequence=int(event["sequence"]),
        type=event["type"].rpartition(".")[2],
        recorded_at=wall - time.time() + time.monotonic(),
    )


def _by_job(events: Sequence[Recorded]) -> dict[str, list[Recorded]]:
    found: dict[str, list[Recorded]] = defaultdict(list)
    for event in sorted(events, key=lambda event: event.sequence):
        found[event.subject].append(event)
    return found


def _one_event_each(arrivals: Sequence[Arrival]) -> Iterator[str]:
    """An id has the same bytes in every request."""
    bodies: dict[str, set[str]] = defaultdict(set)
    for arrival in arrivals:
        bodies[arrival.event_id].add(arrival.body_digest)
    yield from (f"two bodies for the event {event_id}" for event_id, found in bodies.items() if len(found) > 1)


def _true_lives(world: World, events: Sequence[Recorded], truths: Mapping[str, Any]) -> Iterator[str]:
    """Sequences without a gap; only what happened, in order; all that is due where the job was tracked throughout."""
    by_job = _by_job(events)
    for job in world.jobs:
        found = by_job.get(job.id, [])
        numbers = [event.sequence for event in found]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"{job.id} has the sequences {numbers}"
        kinds = [event.type for event in found]
        true = _true_kinds(truths[job.id])
        if not is_subsequence(kinds, true):
            yield f"{job.id}: recorded {kinds}, truly {true}"
        if (
            job.registered
            and not job.untracked
            and not job.purged
            and (missing := what_is_missing(truths[job.id], kinds))
        ):
            yield f"{job.id}: {missing} is missing of {true}, recorded {kinds}"


def _true_kinds(truth: Mapping[str, Any]) -> list[str]:
    return [step["status"] if step["failed_attempt"] is None else "retrying" for step in truth["transitions"]]


def _accepted(world: World) -> dict[tuple[str, str], float]:
    """By path and event, when it was first accepted."""
    found: dict[tuple[str, str], float] = {}
    for arrival in world.sinks.arrivals:
        if arrival.accepted_at is not None:
            found.setdefault((arrival.path, arrival.event_id), arrival.accepted_at)
    return found


def _surely_wanted(known: Subscribed, event: Recorded) -> bool:
    """Whether each filter that may have been in force when the event was recorded takes it."""
    at = event.recorded_at
    if not known.made.surely_before(at) or known.removed is not None:
        return False
    before = [window for window, _ in known.types if window.surely_before(at)]
    possible = [types for window, types in known.types if not (window.surely_after(at) or _replaced(window, before))]
    return all(types is None or event.type in types for types in possible)


def _replaced(window: Window, others: Sequence[Window]) -> bool:
    """Whether one of the others surely took effect later. Of two that overlap, either can be the later one."""
    return any(other.sent_at > window.answered_at for other in others)


def _complete(world: World, events: Sequence[Recorded]) -> Iterator[str]:
    """Every event has reached every subscription that surely wanted it, and every callback of its job."""
    accepted = _accepted(world)
    callbacks = {job.id: job.callbacks for job in world.jobs if not job.purged}
    for event in events:
        for known in world.subscriptions:
            if _surely_wanted(known, event) and (known.path, event.id) not in accepted:
                yield f"{known.path} never got {event.type} {event.sequence} of {event.subject} ({event.id})"
        for path in callbacks.get(event.subject, ()):
            if (path, event.id) not in accepted:
                yield f"{path} never got {event.type} {event.sequence} of its job {event.subject} ({event.id})"


def _only_what_matches(world: World) -> Iterator[str]:
    """A sink gets what some filter of its subscription takes; a callback gets its job's events."""
    by_path = {known.path: known for known in world.subscriptions}
    jobs = {path: job.id for job in world.jobs for path in job.callbacks}
    for arrival in world.sinks.arrivals:
        known = by_path.get(arrival.path)
        if known is not None:
            if not any(types is None or arrival.type in types for _, types in known.types):
                yield f"{arrival.path} got {arrival.type}, which no filter of it takes"
        elif jobs.get(arrival.path) != arrival.subject:
            yield f"{arrival.path} got an event of {arrival.subject}"


def _in_order(world: World, events: Sequence[Recorded]) -> Iterator[str]:
    """Without manual changes to deliveries, an event arrives only after those before it were accepted."""
    purged = {job.id for job in world.jobs if job.purged}
    by_job = _by_job(events)
    strict: dict[str, Subscribed | None] = {known.path: known for known in world.subscriptions if known.clean}
    strict |= {path: None for job in world.jobs for path in job.callbacks}
    accepted = _accepted(world)
    for arrival in world.sinks.arrivals:
        if arrival.path not in strict or arrival.subject in purged:
            continue
        known = strict[arrival.path]
        for event in by_job.get(arrival.subject, ()):
            if event.sequence >= arrival.sequence:
                break
            wanted = known is None or _surely_wanted(known, event)
            if wanted and not accepted.get((arrival.path, event.id), float("inf")) <= arrival.came_at:
                yield f"{arrival.path} got {arrival.sequence} of {arrival.subject} before {event.sequence}"


def _once(world: World) -> Iterator[str]:
    """Where nothing was asked for by hand, an accepted event comes again only if a node was killed in between."""
    clean = {known.path for known in world.subscriptions if known.clean} | {
        path for job in world.jobs for path in job.callbacks
    }
    last: dict[tuple[str, str], Arrival] = {}
    for arrival in world.sinks.arrivals:
        key = (arrival.path, arrival.event_id)
        before = last.get(key)
        if before is not None and arrival.path in clean and not _killed_between(world, before, arrival):
            yield f"{arrival.path} got {arrival.event_id} again after {arrival.came_at - before.came_at:.2f} s"
        if arrival.accepted_at is not None:
            last[key] = arrival


def _killed_between(world: World, before: Arrival, after: Arrival) -> bool:
    return any(
        before.came_at <= gone_at + SLACK_SECONDS and began_at <= after.came_at for began_at, gone_at in world.deaths
    )


def _gone_is_gone(world: World) -> Iterator[str]:
    """A removed subscription gets nothing more, nor does anyone hear of a purged job."""
    removed = {known.path: known.removed for known in world.subscriptions if known.removed is not None}
    purged = {job.id: job for job in world.jobs if job.purged}
    for arrival in world.sinks.arrivals:
        window = removed.get(arrival.path)
        if window is not None and window.surely_before(arrival.came_at):
            after = arrival.came_at - window.answered_at
            yield f"{arrival.path} was removed, and got {arrival.event_id} {after:.1f} s later"
        job = purged.get(arrival.subject)
        if job is not None and _purged_for_good(job, arrival):
            yield f"{arrival.subject} was purged, and {arrival.path} got {arrival.event_id} of it"


def _purged_for_good(job: Tracked, arrival: Arrival) -> bool:
    last = job.purged[-1]
    again = any(window.answered_at > last.sent_at for window in job.registered)
    return last.surely_before(arrival.came_at) and not again
