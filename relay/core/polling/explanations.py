"""Explains in sentences what a job waits for, when its next poll is, and why not earlier."""

import math

from relay.clock import in_words, short_time
from relay.core.jobs.job import KNOWN_STATUSES, Job
from relay.core.planner.outlook import PollExplanation

NEARLY_SECONDS = 1.0
OTHERS_NEED_THEM = "polling earlier would take requests from jobs that need them more"


def sentence(job: Job, plan: PollExplanation, now: float, meaning: str | None = None) -> str:
    """The planner's explanation of an open job, for people. `meaning`: meaning of its last error."""
    sentences = [_waiting(job, plan, now, meaning)]
    planned, possible = plan.next_poll_at, plan.not_before
    if planned is not None and possible is not None and now < planned < possible - NEARLY_SECONDS:
        until = short_time(possible, now)
        sentences.append(f"Nothing is sent before {until}, though: the budget is spent, or the upstream wants a pause.")
    delay = plan.expected_delay_seconds
    if delay is not None and math.isfinite(delay):
        sentences.append(f"Its end is known about {in_words(delay)} after it happens.")
    return " ".join(sentences)


def _waiting(job: Job, plan: PollExplanation, now: float, meaning: str | None) -> str:
    when = _when(plan.next_poll_at, now)
    match plan.reason:
        case "in_flight":
            return "A request for it is under way: the answer decides when the next poll comes."
        case "due":
            return "Its poll is due and goes out now."
        case "budget":
            if plan.not_before is None or plan.not_before <= now:
                return "Its poll is due, and goes out as soon as those are out that were due before it."
            earliest = _when(plan.not_before, now)
            return f"Its poll is due, but the request budget is spent for the moment: it goes out {earliest}, or later."
        case "paused_until":
            earliest = _when(plan.not_before, now)
            return f"Its poll is due, but the upstream asked us to send nothing for a while: it goes out {earliest}."
        case "lane_parked":
            return _parked(job, plan, when)
        case "before_anchor":
            return _anchored(plan, when, now)
        case "backing_off":
            polls = "The last poll of it" if plan.failures <= 1 else f"The last {plan.failures} polls of it"
            because = "" if meaning is None else f" ({meaning})"
            return f"{polls} failed{because}; the next one comes {when}: an earlier one would likely fail too."
    return f"{_last_poll(job, now)}; the next poll comes {when}: {OTHERS_NEED_THEM}."


def _parked(job: Job, plan: PollExplanation, when: str) -> str:
    ahead = plan.waiting_for_job_id
    lane = "its lane" if job.channel is None else f"the lane {job.channel}"
    before = f"the job ahead of it in {lane}" if ahead is None else f"{ahead}, the job ahead of it in {lane},"
    return f"It cannot start before {before} has; the next poll comes {when}, in case it was moved or cancelled."


def _anchored(plan: PollExplanation, when: str, now: float) -> str:
    anchor, next_at = plan.anchor_at, plan.next_poll_at
    if anchor is None or next_at is None:
        return f"Nothing can happen to it yet; the next poll comes {when}."
    nothing = f"Nothing can happen to it before {short_time(anchor, now)}"
    if next_at < anchor - NEARLY_SECONDS:
        return f"{nothing}, unless it is moved or cancelled; the next poll comes {when}, in case it was."
    if next_at > anchor + NEARLY_SECONDS:
        return f"{nothing}; the next poll comes {when}, when it is likely to have ended: {OTHERS_NEED_THEM}."
    return f"{nothing}; the next poll comes {when}: an earlier one would find nothing."


def _last_poll(job: Job, now: float) -> str:
    known = job.progress.status
    if job.last_polled_at is None:
        return "It has not been polled yet"
    at = short_time(job.last_polled_at, now)
    if job.last_error is not None or known is None:
        return f"The poll at {at} failed"
    return f"At {at} it was {known if known in KNOWN_STATUSES else 'in a status that the relay does not know'}"


def _when(at: float | None, now: float) -> str:
    return "now" if at is None or at <= now else f"in {in_words(at - now)}, at {short_time(at, now)}"
