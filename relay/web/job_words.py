"""A job in words: its state, and its events in the sentences of chat messages."""

from collections.abc import Mapping
from typing import Any

from relay.clock import from_rfc3339
from relay.core.jobs.job import JOB_EVENTS, KNOWN_STATUSES
from relay.web.texts import Texts
from subscribers.wording.jobs import job_event_kind, job_sentence

Answer = Mapping[str, Any]
BAD = frozenset({"failed", "not_found", "overdue", "dead"})
WARN = frozenset({"retrying", "status_unknown", "uncertain", "pending"})
GOOD = frozenset({"succeeded", "delivered"})


def state_of(job: Answer, now: float) -> str:
    """The state to show: `unpolled`, one of JOB_EVENTS, or `untracked`."""
    if not job["open"]:
        return str(job["outcome"])
    if job["deadline_at"] is not None and from_rfc3339(job["deadline_at"]) <= now:
        return "overdue"
    if job["problem"] is not None:
        return "retrying"
    if job["status"] is None:
        return "unpolled"
    return job["status"] if job["status"] in KNOWN_STATUSES else "status_unknown"


def tone(state: str) -> str:
    """The class that colours a state."""
    return "bad" if state in BAD else "warn" if state in WARN else "good" if state in GOOD else f"is-{state}"


def sentence_of(job: Answer, now: float, texts: Texts) -> str:
    """A job's state in a sentence, such as `LinkedIn outreach to Ada failed: the account needs reconnecting`."""
    state = state_of(job, now)
    kind = state if state in JOB_EVENTS else "queued"
    document = {
        "type": f"{job['source']}.job.{kind}",
        "subject": job["id"],
        "channel": job["channel"],
        "action": job["action"],
        "status": job["status"],
        "resultstatus": job["result_status"],
        "data": {"metadata": job["metadata"], "request": job["request"], "hint": job["problem"]},
    }
    sentence = _with_the_state(job_sentence(kind, document), kind, texts)
    if state in JOB_EVENTS:
        return sentence
    return texts(f"jobs.is_{state}", what=sentence.removesuffix(" is queued"))


def event_kind(document: Answer) -> str:
    """The member of JOB_EVENTS that a job's event belongs to."""
    return job_event_kind(str(document["type"])) or "status_unknown"


def event_sentence(document: Answer, texts: Texts) -> str:
    """A job's event in a sentence."""
    kind = event_kind(document)
    return _with_the_state(job_sentence(kind, document), kind, texts)


def _with_the_state(sentence: str, kind: str, texts: Texts) -> str:
    """Chat messages only say that a message was accepted. Pages show the state `succeeded` beside it, so both are
    named."""
    what = sentence.removesuffix(" was accepted")
    return texts("jobs.is_succeeded", what=what) if kind == "succeeded" and what != sentence else sentence
