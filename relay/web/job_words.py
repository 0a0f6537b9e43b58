"""A job as one line of a list: whom it is for, from where it is sent, and what became of it in words. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay.clock import from_rfc3339
from relay.core.events.sentences import titled
from relay.web.job_history import document_of, state_of, tone
from relay.web.texts import english
from subscribers.wording.jobs import about_of, activity

Answer = Mapping[str, Any]
texts = english()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One job.

    about    the person or thing that it is for, else what it does, else its id
    outcome  what became of it, or what is next; `at`: the time that follows
    sender   the sending account: its name, else its id
    """

    job: Answer
    state: str
    tone: str
    about: str
    outcome: str
    at: str | None
    channel: str
    sender: str


def line_of(job: Answer, now: float, *, search_keys: Sequence[str], upstream: str, trouble: str | None = None) -> Line:
    """The line of a job. `upstream`: the title of its source; `trouble`: the state of its account, if it is one of
    SILENT."""
    state = state_of(job, now)
    about = about_of(document_of(job), search_keys)
    outcome, at = _outcome(job, state, now, upstream, trouble)
    return Line(
        job=job,
        state=state,
        tone=tone(state),
        about=about or (activity(document_of(job))[0] if job["channel"] or job["action"] else job["id"]),
        outcome=outcome,
        at=at,
        channel=titled(job["channel"] or ""),
        sender=job.get("connect_account_name") or job["connect_account_id"] or "",
    )


def _outcome(job: Answer, state: str, now: float, upstream: str, trouble: str | None) -> tuple[str, str | None]:
    """The words, and the time that follows them."""
    values = {"upstream": upstream, "channel": titled(job["channel"] or "") or upstream, "status": job["status"] or ""}
    if trouble is not None and job["open"] and is_due(job, now):
        return texts(f"jobs.out_{trouble}", **values), None
    if job["problem"] is not None and state in ("failed", "cancelled", "retrying"):
        meaning = str(job["problem"]["meaning"] or job["problem"]["message"]).rstrip(". ")
        meaning = meaning.removeprefix("The ").removeprefix(f"{titled(job['channel'] or '')} ")  # another column has it
        meaning = meaning[:1].upper() + meaning[1:]
        return meaning, job["next_attempt_at"] if state == "retrying" else None
    if job["open"] and job["last_error"] is not None:
        return texts("jobs.out_poll_failed", **values), None
    if state == "succeeded" and job["result_status"] == "skipped":
        return texts("jobs.out_skipped", **values), None
    for of_state, name in (("scheduled", "scheduled_at"), ("running", "started_at")):
        if state == of_state and job[name] is not None and (state == "running" or from_rfc3339(job[name]) > now):
            return texts(f"jobs.out_{state}_at", **values), job[name]
    return texts(f"jobs.out_{state}", **values), None


def is_due(job: Answer, now: float) -> bool:
    """True if the time of its next poll has passed, or none is planned."""
    return job["next_poll_at"] is None or from_rfc3339(job["next_poll_at"]) <= now
