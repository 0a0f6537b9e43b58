"""A job as one line of a list: whom it is for, from where it is sent, and what became of it in words. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay.clock import from_rfc3339
from relay.core.events.sentences import titled
from relay.web.concerns import Concern
from relay.web.job_history import document_of, state_of, tone
from relay.web.texts import english
from subscribers.wording.jobs import about_of, activity

Answer = Mapping[str, Any]
texts = english()
_SHORT = re.compile("credit|reconnect")
"""Errors that have a name of two words on every page, by a part of their code."""


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


def with_names(columns: Mapping[str, str], search_keys: Sequence[str]) -> dict[str, str | Callable[[Answer], object]]:
    """The columns of a list of jobs after one that has the person or thing that each is for."""
    return {"for": lambda job: about_of(document_of(job), search_keys), **columns}


def line_of(
    job: Answer, now: float, *, search_keys: Sequence[str], upstream: str, concerns: Sequence[Concern] = ()
) -> Line:
    """The line of a job. `upstream`: the title of its source; `concerns`: what needs someone."""
    state = state_of(job, now)
    about = about_of(document_of(job), search_keys)
    outcome, at = _outcome(job, state, now, upstream, troubles(job, concerns))
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


def troubles(job: Answer, concerns: Sequence[Concern]) -> list[Concern]:
    """The concerns that hold an open job up; the worst first."""
    place = (job["source"], job["account"])
    return [
        one
        for one in concerns
        if job["open"]
        and one.word is not None
        and place in one.reach.accounts
        and one.reach.sender in (None, job["connect_account_id"])
    ]


def _outcome(job: Answer, state: str, now: float, upstream: str, concerns: Sequence[Concern]) -> tuple[str, str | None]:
    """The words, and the time that follows them."""
    values = {"upstream": upstream, "channel": titled(job["channel"] or "") or upstream, "status": job["status"] or ""}
    started = state in ("running", "retrying")
    for one in concerns:
        word = one.word or ""
        if one.reach.sender is None and one.state != "credits":
            return texts(
                "jobs.out_unseen" if started else "jobs.out_unpolled_for", word=word[:1].upper() + word[1:]
            ), None
        if not started:  # what runs has passed its start
            ahead = job["scheduled_at"] is not None and from_rfc3339(job["scheduled_at"]) > now
            return texts("jobs.out_would_fail", word=word), job["scheduled_at"] if ahead else None
    if job["problem"] is not None and state in ("failed", "cancelled", "retrying"):
        at = job["next_attempt_at"] if state == "retrying" else None
        if (known := _SHORT.search(job["problem"]["code"])) is not None:
            return texts(f"jobs.out_of_{known[0]}"), at
        meaning = str(job["problem"]["meaning"] or job["problem"]["message"]).rstrip(". ")
        meaning = meaning.removeprefix("The ").removeprefix(f"{titled(job['channel'] or '')} ")  # another column has it
        return meaning[:1].upper() + meaning[1:], at
    if job["open"] and job["last_error"] is not None:
        return texts("jobs.out_poll_failed", **values), None
    if state == "succeeded" and job["result_status"] == "skipped":
        return texts("jobs.out_skipped", **values), None
    for of_state, name in (("scheduled", "scheduled_at"), ("running", "started_at")):
        if state == of_state and job[name] is not None and (state == "running" or from_rfc3339(job[name]) > now):
            return texts(f"jobs.out_{state}_at", **values), job[name]
    return texts(f"jobs.out_{state}", **values), None
