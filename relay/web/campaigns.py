"""What the pages of campaigns say, from the API's answers: values in, values out. A campaign is a group of the API."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from relay.core.turns import ADMINISTRATOR, turn_of_failure
from relay.web.rendering import query
from relay.web.senders import name_of, needs_someone, turn_of_sender, waiting_of
from relay.web.source_words import SILENT, turn_of_source
from relay.web.texts import english

Group = Mapping[str, Any]
texts = english()

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
    """

    words: str
    number: int
    turn: str | None = None
    step: str | None = None
    incidents: tuple[tuple[str, str], ...] = ()


class Worst(NamedTuple):
    """The worst trouble of a campaign, in words. `turn`: whose turn it is; None: it is not known."""

    words: str
    kind: Literal["bad", "warn"]
    turn: str | None = None


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


def causes(group: Group, incidents: Sequence[Mapping[str, Any]], upstream: str) -> list[Cause]:
    """Why its jobs failed, the commonest cause first. `incidents`: of its account, the newest first; `upstream`: the
    title of its source."""
    found = [_cause(one, group, incidents) for one in group["failures"]]
    counts = group["counts"]
    if lost := counts["not_found"]:
        words = texts("groups.cause_not_found", upstream=upstream)
        found.append(Cause(words, lost, ADMINISTRATOR, texts("groups.step_not_found")))
    if group["missing"]:
        found.append(
            Cause(texts("groups.cause_missing"), group["missing"], ADMINISTRATOR, texts("groups.step_missing"))
        )
    return found


def _cause(failure: Mapping[str, Any], group: Group, incidents: Sequence[Mapping[str, Any]]) -> Cause:
    of_code = [one for one in incidents if one["kind"] == "jobs" and one["code"] == failure["code"]]
    links = {f"/ui/incidents/{one['id']}": _about(one) for one in of_code}
    if failure["meaning"] is None:
        return Cause(texts("groups.cause_other"), failure["count"], incidents=tuple(links.items()))
    return Cause(
        words=failure["meaning"],
        number=failure["count"],
        turn=turn_of_failure(failure["who"]),
        step=failure["fix"],
        incidents=tuple(links.items()),
    )


def _about(incident: Mapping[str, Any]) -> str:
    if incident["connect_account_id"] is None:
        return texts("groups.incident")
    sender = {**incident, "name": incident["connect_account_name"], "id": incident["connect_account_id"]}
    return texts("groups.incident_of", sender=name_of(sender))


def held_up(group: Group) -> list[Mapping[str, Any]]:
    """The sending accounts that hold up its jobs. They are known of a group with its forecast only."""
    return [one for one in group.get("connect_accounts", ()) if needs_someone(one) and waiting_of(one)]


def silent(group: Group, source: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The source of its jobs, if nothing is heard of them because of it. `source`: None if it is not known."""
    if source is None or group["state"] != "open" or source["state"] not in SILENT:
        return None
    return source


def worst(group: Group, upstream: str, source: Mapping[str, Any] | None = None) -> Worst | None:
    """Its worst trouble: a source that is silent, a sending account that holds up its jobs, else its commonest failure.
    None: it has none."""
    if (quiet := silent(group, source)) is not None:
        return Worst(texts(f"groups.source_{quiet['state']}", upstream=upstream), "bad", turn_of_source(quiet))
    if held := held_up(group):
        count = waiting_of(held[0])
        key = "groups.worst_held_least" if held[0]["is_least"] else "groups.worst_held"
        return Worst(texts(key, n=count, sender=name_of(held[0])), "bad", turn_of_sender(held[0]))
    found = sorted(causes(group, (), upstream), key=lambda one: -one.number)
    if not found:
        return None
    kind: Literal["bad", "warn"] = "bad" if group["state"] == "open" else "warn"
    return Worst(texts("groups.worst_failed", n=found[0].number, cause=found[0].words), kind, found[0].turn)


def last_activity(group: Group) -> str:
    """When something last happened to it: its finish, the last end or the last registration that is known."""
    times = (group["finished_at"], group.get("last_ended_at"), group["last_at"])
    latest: str = max(one for one in times if one is not None)
    return latest


WORDS: Mapping[str, Callable[..., object]] = {
    "progress": progress,
    "bar": bar,
    "failed": failed,
    "jobs_path": jobs_path,
    "held_up": held_up,
    "worst": worst,
    "last_activity": last_activity,
}
"""What templates ask of a campaign."""
