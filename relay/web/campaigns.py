"""What the pages of campaigns say, from the API's answers: values in, values out. A campaign is a group of the API."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from relay.clock import from_rfc3339
from relay.core.turns import ADMINISTRATOR, OWNER, turn_of_failure
from relay.web.concerns import Concern
from relay.web.rendering import query, rough
from relay.web.senders import name_of, needs_someone, waiting_of
from relay.web.texts import english

Group = Mapping[str, Any]
texts = english()
Kind: TypeAlias = Literal["bad", "warn", "quiet"]

SOON_SECONDS = 120.0
"""A finish within this time is not told more exactly: it changes from one look to the next."""
RATE_SECONDS = 600.0
"""Minimum age of a campaign whose pace is shown."""
_STEPS = ((600.0, 60.0), (3_600.0, 300.0), (172_800.0, 3_600.0), (math.inf, 86_400.0))
"""Seconds to which a time until a finish is rounded, if it is below the first of a pair."""

ENDED = ("succeeded", "failed", "cancelled", "not_found", "untracked")
OPEN = ("running", "retrying", "scheduled", "queued")
_PARTS: Mapping[str, tuple[str, ...]] = {
    "succeeded": ("succeeded",),
    "failed": ("failed", "not_found"),
    "cancelled": ("cancelled", "untracked"),
    "running": ("running", "retrying"),
    "waiting": ("scheduled", "queued"),
}
"""Parts of the bar of progress, and the states that each counts."""
_FILTERS: Mapping[str, Mapping[str, str]] = {
    "succeeded": {"status": "succeeded"},
    "failed": {"status": "failed"},
    "cancelled": {"status": "cancelled"},
    "running": {"status": "running"},
    "waiting": {"open": "true"},
}
"""The filters of the jobs list that show a part, or a little more than it."""


class Part(NamedTuple):
    """A part of the bar of progress: a key of _PARTS, or `missing`. `path`: its jobs; None: they do not exist."""

    name: str
    number: int
    path: str | None


class Cause(NamedTuple):
    """Why jobs of a campaign failed.

    words      what went wrong
    turn       whose turn it is; None: it is not known
    step       what to do
    incidents  open or past ones with this cause: their paths and what they are about
    passed     True if it was a trouble of the source that passes by itself; `latest`: when it last happened
    """

    words: str
    number: int
    turn: str | None = None
    step: str | None = None
    incidents: tuple[tuple[str, str], ...] = ()
    passed: bool = False
    latest: str | None = None


class Worst(NamedTuple):
    """The worst trouble of a campaign, in words. `turn`: whose turn it is; None: nobody's, or it is not known.
    `latest`: when it last happened, of one that has passed."""

    words: str
    kind: Kind
    turn: str | None = None
    latest: str | None = None


class Latest(NamedTuple):
    """The failed jobs of a campaign with one error that were read. `at`: when the last one ended; `is_safe`: True if
    none of them was carried out."""

    at: str | None
    is_safe: bool


Lately: TypeAlias = Mapping[str, Latest]
"""The newest failed jobs that were read, by their errors."""


def lately_in(jobs: Sequence[Mapping[str, Any]]) -> Lately:
    """Summarizes failed jobs of a campaign, as `GET /v1/jobs` lists them."""
    found: dict[str, Latest] = {}
    for job in jobs:
        if (problem := job["problem"]) is None:
            continue
        known = found.get(problem["code"], Latest(None, is_safe=True))
        at = max((one for one in (known.at, job["closed_at"]) if one is not None), default=None)
        found[problem["code"]] = Latest(at, known.is_safe and problem["repeat"] != "may_send_twice")
    return found


def progress(group: Group) -> dict[str, Any]:
    """Its ended and open jobs, and all of them, with those that are still expected."""
    counts = group["counts"]
    ended, still_open = sum(counts[state] for state in ENDED), sum(counts[state] for state in OPEN)
    return {"ended": ended, "open": still_open, "all": max(group["expected"] or 0, ended + still_open, 1)}


def parts(group: Group) -> list[Part]:
    """The parts of its bar of progress that have jobs."""
    counts, far = group["counts"], progress(group)
    found = [(name, sum(counts[state] for state in states)) for name, states in _PARTS.items()]
    shown = [Part(name, count, jobs_path(group, **_FILTERS[name])) for name, count in found if count]
    not_made = max((group["expected"] or 0) - far["ended"] - far["open"], 0)
    return [*shown, Part("missing", not_made, None)] if not_made else shown


def bar(group: Group) -> list[tuple[str, int]]:
    """The bar of progress, for `charts.stack`."""
    return [(one.name, one.number) for one in parts(group)]


def failed(group: Group) -> int:
    """Its jobs that failed, or were not found."""
    count: int = group["counts"]["failed"] + group["counts"]["not_found"]
    return count


def jobs_path(group: Group, **filters: str | None) -> str:
    """The list of its jobs."""
    return query("/ui/jobs", group=group["name"], source=group["source"], account=group["account"], **filters)


def causes(
    group: Group,
    incidents: Sequence[Mapping[str, Any]],
    upstream: str,
    lately: Lately | None = None,
) -> list[Cause]:
    """Why its jobs failed, the commonest cause first. `incidents`: of its account, the newest first; `upstream`: the
    title of its source."""
    found = [_cause(one, incidents, upstream, lately or {}) for one in group["failures"]]
    counts = group["counts"]
    if lost := counts["not_found"]:
        words = texts("groups.cause_not_found", upstream=upstream)
        found.append(Cause(words, lost, ADMINISTRATOR, texts("groups.step_not_found")))
    if group["missing"]:
        found.append(
            Cause(texts("groups.cause_missing"), group["missing"], ADMINISTRATOR, texts("groups.step_missing"))
        )
    return found


def has_passed(failure: Mapping[str, Any]) -> bool:
    """True of a failure whose cause is the source's own, and passes by itself."""
    return failure["who"] is not None and turn_of_failure(failure["who"]) not in (OWNER, ADMINISTRATOR)


def has_only_passed(group: Group) -> bool:
    """True if its jobs failed, and all for causes that pass by themselves."""
    return bool(group["failures"]) and all(map(has_passed, group["failures"]))


def _cause(
    failure: Mapping[str, Any],
    incidents: Sequence[Mapping[str, Any]],
    upstream: str,
    lately: Lately,
) -> Cause:
    of_code = [one for one in incidents if one["kind"] == "jobs" and one["code"] == failure["code"]]
    links = {f"/ui/incidents/{one['id']}": _about(one) for one in of_code}
    if failure["meaning"] is None:
        return Cause(texts("groups.cause_other"), failure["count"], incidents=tuple(links.items()))
    if has_passed(failure):
        latest = lately.get(failure["code"], Latest(None, is_safe=failure["repeat"] != "may_send_twice"))
        step = texts("groups.step_again" if latest.is_safe else "groups.step_check", upstream=upstream)
        links_of = tuple(links.items())
        return Cause(failure["meaning"], failure["count"], None, step, links_of, passed=True, latest=latest.at)
    is_safe = failure["repeat"] == "safe" and failure["fix"] is not None
    return Cause(
        words=failure["meaning"],
        number=failure["count"],
        turn=turn_of_failure(failure["who"]),
        step=texts("groups.step_then", fix=failure["fix"]) if is_safe else failure["fix"],
        incidents=tuple(links.items()),
    )


def _about(incident: Mapping[str, Any]) -> str:
    if incident["connect_account_id"] is None:
        return texts("groups.incident")
    sender = {**incident, "name": incident["connect_account_name"], "id": incident["connect_account_id"]}
    return texts("groups.incident_of", sender=name_of(sender))


def troubles(group: Group, concerns: Sequence[Concern]) -> list[Concern]:
    """The concerns that hold up its jobs, made them fail, or keep its events from arriving; the worst first. None of a
    campaign that has finished."""
    return [one for one in concerns if _touches(one, group)] if group["state"] == "open" else []


def held_by(group: Group, concerns: Sequence[Concern]) -> str | None:
    """Why it does not finish, in two words; None if nothing holds it up."""
    words = (one.word for one in troubles(group, concerns) if one.reach.sender is None or waiting_for(one, group))
    return next((word for word in words if word is not None), None)


def waiting_for(concern: Concern, group: Group) -> int:
    """How many of its open jobs, as far as they were read, are sent from the sending account of a concern. They are
    known of a group with its forecast only."""
    used = (one for one in group.get("connect_accounts", ()) if one["id"] == concern.reach.sender)
    return sum(waiting_of(one) for one in used)


def _touches(concern: Concern, group: Group) -> bool:
    reach = concern.reach
    if concern.every:
        return concern.since is None or last_activity(group) >= concern.since
    if (group["source"], group["account"]) not in reach.accounts:
        return False
    if reach.groups is not None:
        return group["name"] in reach.groups
    if reach.sender is None and reach.code is None:
        return True
    has_failed = any(one["code"] == reach.code for one in group["failures"])
    if reach.sender is None or "connect_accounts" not in group:
        return has_failed
    used = any(one["id"] == reach.sender for one in group["connect_accounts"])
    return used and (has_failed or waiting_for(concern, group) > 0)


def worst(group: Group, upstream: str, concerns: Sequence[Concern] = (), lately: Lately | None = None) -> Worst | None:
    """Its worst trouble: the first that needs someone, else its commonest failure; a failure that passes by itself
    comes last. None: it has none."""
    if found := troubles(group, concerns):
        return Worst(found[0].sentence, found[0].level, found[0].turn)
    failures = sorted(causes(group, (), upstream, lately), key=lambda one: (one.passed, -one.number))
    if not failures:
        return None
    first = failures[0]
    kind: Kind = "quiet" if first.passed else "bad" if group["state"] == "open" else "warn"
    return Worst(texts("groups.worst_failed", n=first.number, cause=first.words), kind, first.turn, first.latest)


def finish_of(group: Group, concerns: Sequence[Concern], now: float) -> str:
    """When an open campaign is expected to finish, in words; else what holds it up."""
    if (word := held_by(group, concerns)) is not None:
        return texts("groups.held_by", word=word)
    if (expected := group.get("expected_finish")) is None:
        return texts("groups.held_up" if _is_held(group) else "groups.finish_unknown")
    left = from_rfc3339(expected["p50"]) - now
    if left <= SOON_SECONDS:
        is_sure = from_rfc3339(expected["p90"]) - now <= SOON_SECONDS
        return texts("groups.finish_soon" if is_sure else "groups.finish_minutes")
    step = next(step for limit, step in _STEPS if left < limit)
    return texts("groups.finish_in", time=rough(max(round(left / step), 1) * step))


def pace_of(group: Group, concerns: Sequence[Concern], now: float) -> float | None:
    """Its ended jobs per hour. None if it is young, and where the pace contradicts the expected finish: the campaign is
    held up, or is expected to finish sooner than at this pace."""
    rate, expected = group["rate_per_hour"], group["expected_finish"]
    is_young = now - from_rfc3339(group["first_at"]) < RATE_SECONDS
    if not rate or is_young or held_by(group, concerns) is not None:
        return None
    far = progress(group)
    left_seconds = (far["all"] - far["ended"]) / rate * 3_600
    return None if expected and now + left_seconds > from_rfc3339(expected["p90"]) else rate


def finish_note(group: Group, concerns: Sequence[Concern], now: float) -> str:
    """Between which times it probably finishes, and why that is not known better; "" if there is nothing to say."""
    note = group["expected_finish_note"] or ""
    if (expected := group["expected_finish"]) is None:
        return str(note)
    if held_by(group, concerns) is not None:
        return ""
    return f"{_range_of(expected, now)} {note}".strip()


def _range_of(expected: Mapping[str, str], now: float) -> str:
    """Between which times it probably finishes; "" if that is all soon."""
    first, last = (from_rfc3339(expected[name]) - now for name in ("p10", "p90"))
    if last <= SOON_SECONDS:
        return ""
    low, high = rough(max(first, 0.0)), rough(last)
    if first <= 0 or low == high:
        return texts("groups.finish_until", last=high)
    return texts("groups.finish_between", first=low, last=high)


def _is_held(group: Group) -> bool:
    return any(needs_someone(one) and waiting_of(one) for one in group.get("connect_accounts", ()))


def last_activity(group: Group) -> str:
    """When something last happened to it: its finish, the last end or the last registration that is known."""
    times = (group["finished_at"], group.get("last_ended_at"), group["last_at"])
    latest: str = max(one for one in times if one is not None)
    return latest


WORDS: Mapping[str, Callable[..., object]] = {
    one.__name__: one for one in (progress, bar, failed, jobs_path, finish_of, waiting_for, worst, last_activity)
}
"""Functions for templates."""
