"""Erasure: the rows that are about a person, a group or a job, and the number of those removed. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from relay.core.jobs.job import Job
from relay.core.jsontext import dumps


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureRequest:
    """The scope of an erasure: everything whose metadata has a field `name` with this value, a group, or one job.

    name, value      a field of the metadata, at any depth, and its exact text; a list matches with any member
    group            a group of jobs: also jobs whose metadata names it in a field `group`
    job              the upstream's id of a job, or its uid
    subject          of published events
    source, account  only rows of these; None: of all
    """

    name: str | None = None
    value: str = ""
    group: str | None = None
    job: str | None = None
    subject: str | None = None
    source: str | None = None
    account: str | None = None

    @classmethod
    def of_group(cls, group: str, source: str | None = None, account: str | None = None) -> "ErasureRequest":
        """A request to erase a group. No group has NUL in its name, and PostgreSQL refuses to search for it."""
        named = None if "\0" in group else group
        return cls(name="group", value=group, group=named, source=source, account=account)

    @property
    def needle(self) -> bytes:
        """Bytes that are in every stored JSON text that matches: `jsontext.dumps` writes a text in one way only."""
        return dumps(self.value if self.group is None else self.value.strip())[1:-1]

    def selects(self, *metadata: Any) -> bool:
        """True if one of these JSON values has the field."""
        return self.name is not None and any(
            name == self.name and _is(value, self.value) for document in metadata for name, value in _fields(document)
        )

    def selects_event(self, document: Mapping[str, Any]) -> bool:
        """True if an event's metadata has the field, or the event is about the group. Attributes have no spaces at
        their ends."""
        of_group = self.group is not None and document.get("group") == self.group.strip()
        return of_group or self.selects(*metadata_of_event(document))

    def covers(self, source: str, account: str) -> bool:
        """True if rows of this account may be erased."""
        return self.source in (None, source) and self.account in (None, account)


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """The number of removed rows. `creates`: intents; `in_flight`: creates that match and stay, because their answer is
    still awaited."""

    jobs: int = 0
    events: int = 0
    deliveries: int = 0
    attempts: int = 0
    creates: int = 0
    in_flight: int = 0

    def __add__(self, other: "Erased") -> "Erased":
        return Erased(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureStep:
    """The result of one step, its jobs among it, and the cursor of the next one; None: nothing is left to do."""

    erased: Erased
    jobs: Sequence[Job]
    next_cursor: str | None


def metadata_of_event(document: Mapping[str, Any]) -> tuple[Any, ...]:
    """The metadata in an event: the job's own, and that of its create."""
    data = document.get("data")
    return (data.get("metadata"), data.get("request")) if isinstance(data, Mapping) else ()


def _fields(document: Any) -> Iterator[tuple[str, Any]]:
    left = [document]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            yield from one.items()
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)


def _is(found: Any, value: str) -> bool:
    if isinstance(found, list):
        return any(not isinstance(one, list) and _is(one, value) for one in found)
    if isinstance(found, str | Mapping):
        return found == value
    return dumps(found).decode() == value
