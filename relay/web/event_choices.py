"""The event types of a subscription as a person chooses them: in groups, with the usual ones of a kind. Pure.

The words are in texts/en/subscriptions.yaml; a type without words has its short name.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from relay.core.events.event import GROUP_FINISHED, INCIDENT_EVENTS, Origin, account_type_prefix
from relay.core.jobs.job import kind_of_type
from relay.core.subscriptions.filters import RELAY_PREFIX
from relay.web.texts import english
from subscribers.base import Kind

_PARTS = {
    **dict.fromkeys(("failed", "overdue", "not_found", "status_unknown"), "trouble"),
    **dict.fromkeys(("succeeded", "cancelled"), "ends"),
}
"""Groups of the types of jobs; the others are of a job on its way."""
GROUPS = ("trouble", "ends", "way", "campaigns", "incidents", "accounts", "relay")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """One group. `choices`: each type and its words."""

    name: str
    choices: Sequence[tuple[str, str]]


def type_words(type: str, origins: Iterable[Origin]) -> str:
    """A type in words, with the upstream's name if there are several, and with what it is about if that is no job. A
    type that is not known stays as it is."""
    texts, all_origins = english(), list(origins)
    if type.startswith(RELAY_PREFIX):
        short = type.removeprefix(RELAY_PREFIX)
        return texts.get(f"subscriptions.type_{short.replace('.', '_')}", short)
    for one in all_origins:
        for prefix, before in ((one.type_prefix, ""), (account_type_prefix(one.type_prefix), "account_")):
            if type.startswith(f"{prefix}."):
                words = texts.get(f"subscriptions.type_{before}{kind_of_type(type)}", kind_of_type(type))
                noun = "" if before else one.type_prefix.rpartition(".")[2].removeprefix("job")
                title = one.title if len({other.title for other in all_origins}) > 1 else ""
                return " · ".join(filter(None, (words, title, noun)))
    return type


def event_words(type: str, origins: Iterable[Origin]) -> str:
    """A type beside the state of its delivery: of a job it says so, such as `Job succeeded`."""
    all_origins = list(origins)
    words = type_words(type, all_origins)
    of_job = type.startswith(tuple(f"{one.type_prefix}." for one in all_origins))
    return english()("deliveries.event_of_job", words=f"{words[:1].lower()}{words[1:]}") if of_job else words


def grouped(known: Iterable[str], origins: Iterable[Origin]) -> list[Choices]:
    """The known types by group, each in words."""
    all_origins = list(origins)
    jobs = tuple(f"{one.type_prefix}." for one in all_origins)
    found: dict[str, list[tuple[str, str]]] = {name: [] for name in GROUPS}
    for type in known:
        found[_group(type, jobs)].append((type, type_words(type, all_origins)))
    return [Choices(name=name, choices=choices) for name, choices in found.items() if choices]


def usual_types(
    kind: Kind, known: Collection[str], origins: Iterable[Origin], all_origins: Iterable[Origin]
) -> frozenset[str]:
    """The known types that a subscription of this kind gets without a choice: its own default, else every job event.
    `all_origins`: also those that the caller may not see."""
    default = kind.default_types(tuple(all_origins))
    if default is not None:
        return frozenset(default) & frozenset(known)
    jobs = tuple(f"{one.type_prefix}." for one in origins)
    return frozenset(one for one in known if one.startswith(jobs))


def _group(type: str, jobs: tuple[str, ...]) -> str:
    if type.startswith(jobs):
        return _PARTS.get(kind_of_type(type), "way")
    if type in INCIDENT_EVENTS:
        return "incidents"
    if type == GROUP_FINISHED:
        return "campaigns"
    return "relay" if type.startswith(RELAY_PREFIX) else "accounts"
