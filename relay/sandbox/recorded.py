"""A world made from a source's definition and the answers recorded beside it. Pure: time is passed in, randomness comes
from the seed.

Of the definition only the calls are read: its paths, creates, and where an answer holds a job. What the answers say is
in `answers.yaml`. A job of a resource draws one of its fates: stages, each with how long it lasts and what it shows
from then on. Texts may have placeholders: `{id}`, `{base}` (this sandbox's URL), `{at}` (when the stage began) and
`{created}`, as RFC 3339, or as seconds or milliseconds with `:s` and `:ms`, `{created+60}` for seconds later, and
`{body/NAME}`, a value of the create's body; `{id:n}` is the number at the end of the id. A text that is one placeholder
becomes its value, of whatever type.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from random import Random
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from relay.clock import to_rfc3339
from relay.sandbox.requests import Body

_SIGMA = 0.5
"""Of the lognormal distribution of a stage's length, whose median the stage gives."""
_PLACEHOLDER = re.compile(r"\{(id|base|at|created|job|body)((?:/[^/{}]+)*)(?:\+([0-9]{1,9}))?(?::(s|ms|n))?\}")
_RANDOM = re.compile(r"\{(random|number):([1-9][0-9]?)\}")
_TOO_LONG = re.compile(r"\{number:(19|[2-9][0-9])\}")
_LIKE_ONE = re.compile(r"\{[A-Za-z][A-Za-z0-9_]*(?:[/+:][^{}]*)?\}")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


Headers = dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")], Annotated[str, Field(pattern=r"^[ -~]*$")]]


class Reply(Body):
    """An answer. `call`: its method and path, for answers that are no job's."""

    status: int = Field(200, ge=200, le=599)
    headers: Headers = Field(default_factory=dict)
    body: Any = None


class Stage(Body):
    """A part of a job's life. `seconds`: its median length, None for the last one; `show`: what changes in the job;
    `status` and `headers`: of the answers meanwhile."""

    seconds: float | None = Field(None, ge=0, le=86_400)
    show: dict[str, Any] = Field(default_factory=dict)
    status: int = Field(200, ge=200, le=599)
    headers: Headers = Field(default_factory=dict)


class RecordedFate(Body):
    """How a job can end. `share`: a weight; 0: only by a call, or when it is asked for."""

    share: float = Field(1.0, ge=0, le=1_000_000)
    stages: Annotated[list[Stage], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> "RecordedFate":
        if any(stage.seconds is None for stage in self.stages[:-1]):
            raise ValueError("every stage but the last has `seconds`")
        return self


class RecordedResource(Body):
    """Jobs of one kind. `job`: what each shows from the start; `created`: the answer to a create, if it is not the
    job."""

    id: str = Field("{random:24}", min_length=1, max_length=200)
    job: dict[str, Any] = Field(default_factory=dict)
    created: Reply | None = None
    fates: Annotated[dict[str, RecordedFate], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> "RecordedResource":
        if not any(fate.share for fate in self.fates.values()):
            raise ValueError("no fate has a `share`, so none can be drawn")
        if _TOO_LONG.fullmatch(self.id):
            raise ValueError("its `id` is a number of more than 18 digits: put it in a text")
        return self


def _call(text: str) -> str:
    names = re.findall(r"\{\+?([a-z_]+)\}", text)
    if len(set(names)) < len(names) or text.count("{+") > 1:
        raise ValueError("has two placeholders of one kind: {+name} and each name may be there once")
    return text


class Call(Reply):
    """Another call: what it answers, or with `fate`, how it ends the job that its path names by `{id}`."""

    call: Annotated[str, Field(pattern=r"^[A-Z]+ /[!-~]*$"), AfterValidator(_call)]
    fate: str | None = None


class Recording(Body):
    """`answers.yaml`. `errors`: by unauthorized, not_found, rate_limited, unavailable and unknown_call; `answer`: the
    whole of an answer, of which `{job}` is the job."""

    headers: Headers = Field(default_factory=dict)
    answer: Any = "{job}"
    errors: dict[str, Reply] = Field(default_factory=dict)
    resources: Annotated[dict[str, RecordedResource], Field(min_length=1)]
    calls: list[Call] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check(self) -> "Recording":
        known = {fate for resource in self.resources.values() for fate in resource.fates}
        for place, call in enumerate(self.calls):
            if call.fate is not None and call.fate not in known:
                raise ValueError(f"calls.{place}: no resource has the fate {call.fate!r:.70}")
            if call.fate is not None and not re.search(r"\{\+?id\}", call.call):
                raise ValueError(f"calls.{place}: a call that ends a job names it by {{id}}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedJob:
    """One job. `begins`: when each of its stages begins, in epoch seconds; `body`: of its create."""

    id: str | int
    resource: str
    fate: str
    created_at: float
    stages: tuple[Stage, ...]
    begins: tuple[float, ...]
    body: Any = field(default=None, repr=False)

    def stage_at(self, now: float) -> int:
        """The number of the stage at `now`."""
        return max(place for place, at in enumerate(self.begins) if place == 0 or at <= now)


@dataclass(kw_only=True)
class RecordedWorld:
    """The jobs of a source."""

    recording: Recording
    seed: int = 0
    speed: float = 1.0
    max_jobs: int = 100_000
    created_count: int = field(default=0, init=False)
    _jobs: OrderedDict[tuple[str, str], RecordedJob] = field(default_factory=OrderedDict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.speed) and self.speed > 0):
            raise ValueError(f"speed must be above 0, not {self.speed}")

    def create(self, resource: str, now: float, body: Any = None, fate: str | None = None) -> RecordedJob:
        """A new job with a fate of its own. Raises KeyError for a resource or fate that is not recorded."""
        recorded = self.recording.resources[resource]
        rng = Random(f"{self.seed}:{self.created_count}")  # noqa: S311  (reproducible, not a secret)
        names = list(recorded.fates)
        drawn = rng.choices(names, weights=[one.share for one in recorded.fates.values()])[0]
        name = fate or drawn
        stages = tuple(recorded.fates[name].stages)
        begins, at = [], round(now, 3)
        for stage in stages:
            begins.append(at)
            if stage.seconds is not None:
                at = round(at + stage.seconds * rng.lognormvariate(0, _SIGMA) / self.speed, 3)
        job = RecordedJob(
            id=_made_id(recorded.id, rng),
            resource=resource,
            fate=name,
            created_at=begins[0],
            stages=stages,
            begins=tuple(begins),
            body=body,
        )
        self.created_count += 1
        self._put(job)
        if len(self._jobs) > self.max_jobs:
            self._jobs.popitem(last=False)
        return job

    def job(self, resource: str, id: str) -> RecordedJob | None:
        """The job of this resource with this id."""
        return self._jobs.get((resource, id))

    def named(self, id: str) -> RecordedJob | None:
        """The newest job of any resource with this id."""
        return next((job for (_, one), job in reversed(self._jobs.items()) if one == id), None)

    def jobs(self) -> list[RecordedJob]:
        """Every job, in order of creation."""
        return list(self._jobs.values())

    def step(self, job: RecordedJob, now: float) -> RecordedJob:
        """Moves a job to its next stage, now."""
        place = min(job.stage_at(now) + 1, len(job.stages) - 1)
        shift = now - job.begins[place]
        moved = tuple(round(at + shift, 3) if number >= place else at for number, at in enumerate(job.begins))
        return self._put(replace(job, begins=moved) if shift < 0 else job)

    def end(self, job: RecordedJob, fate: str, now: float) -> RecordedJob:
        """Ends a job now, as this fate ends. One that has ended stays as it is."""
        place = job.stage_at(now)
        if job.stages[place].seconds is None:
            return job
        last = self.recording.resources[job.resource].fates[fate].stages[-1]
        kept = slice(0, place + 1)
        return self._put(
            replace(job, fate=fate, stages=(*job.stages[kept], last), begins=(*job.begins[kept], round(now, 3)))
        )

    def _put(self, job: RecordedJob) -> RecordedJob:
        self._jobs[job.resource, str(job.id)] = job
        return job

    def reply(self, job: RecordedJob, now: float, base: str) -> Reply:
        """The answer to a read of the job."""
        recorded = self.recording.resources[job.resource]
        place = job.stage_at(now)
        shown: dict[str, Any] = _filled(recorded.job, _Words(job, base, job.created_at))
        for stage, at in zip(job.stages[: place + 1], job.begins, strict=False):
            shown |= _filled(stage.show, _Words(job, base, at))
        stage = job.stages[place]
        body = _filled(self.recording.answer, _Words(job, base, job.begins[place], shown))
        return Reply(status=stage.status, headers={**self.recording.headers, **stage.headers}, body=body)

    def created(self, job: RecordedJob, base: str) -> Reply:
        """The answer to the create of the job."""
        reply = self.recording.resources[job.resource].created
        if reply is None:
            return self.reply(job, job.created_at, base)
        words, first = _Words(job, base, job.created_at), self.reply(job, job.created_at, base)
        headers = {name: str(_filled(value, words)) for name, value in reply.headers.items()}
        body = first.body if reply.body is None else _filled(reply.body, words)
        return Reply(status=reply.status, headers={**first.headers, **headers}, body=body)


@dataclass(frozen=True)
class _Words:
    """What stands for the placeholders in an answer about a job."""

    job: RecordedJob
    base: str
    at: float
    shown: Any = None

    def value(self, name: str, pointer: str, later: str | None, form: str | None) -> Any:
        """What a placeholder stands for."""
        if name == "body":
            found = self.job.body
            for part in pointer.split("/")[1:]:
                found = found.get(part) if isinstance(found, dict) else None
            return found
        if name in ("at", "created"):
            time = (self.at if name == "at" else self.job.created_at) + int(later or 0)
            return int(time) if form == "s" else round(time * 1000) if form == "ms" else to_rfc3339(time)
        if name == "id" and form == "n":
            return int(re.findall(r"[0-9]*$", str(self.job.id))[0] or 0)
        return {"id": self.job.id, "base": self.base, "job": self.shown}[name]


def _filled(value: Any, words: _Words) -> Any:
    """A recorded value with its placeholders filled."""
    if isinstance(value, dict):
        return {name: _filled(each, words) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, words) for each in value]
    if not isinstance(value, str) or "{" not in value:
        return value
    whole = _PLACEHOLDER.fullmatch(value)
    if whole is not None:
        return words.value(*whole.groups())
    return _PLACEHOLDER.sub(lambda match: str(words.value(*match.groups())), value)


Place = tuple[str | int, ...]


def unfilled(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """The place of each text below `place`, a place in a Recording, with a placeholder that nothing fills, and what is
    wrong with it."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from unfilled(each, (*place, key))
    elif isinstance(value, str) and not (place[0] == "calls" and place[2:] == ("call",)):
        known, names = _filled_at(place)
        for found in _LIKE_ONE.findall(value):
            if known is None and (_PLACEHOLDER.fullmatch(found) or _RANDOM.fullmatch(found)):
                yield place, f"has {found:.70}, and only answers about a job have placeholders: write a value"
            elif known is not None and not known.fullmatch(found):
                yield place, f"has {found:.70}, which is no placeholder here: {names} are"


def _filled_at(place: Place) -> tuple[re.Pattern[str] | None, str]:
    """The placeholders that are filled at a place of a Recording, and their names."""
    if place[0] not in ("answer", "resources") or (place[4:5] == ("stages",) and place[6:7] == ("headers",)):
        return None, ""
    if place[0] == "resources" and place[2:] == ("id",):
        return _RANDOM, "{random:N} and {number:N}"
    return _PLACEHOLDER, "{id}, {base}, {at}, {created}, {body/NAME} and {job}"


def _made_id(pattern: str, rng: Random) -> str | int:
    def part(match: re.Match[str]) -> str:
        count = int(match[2])
        if match[1] == "number":
            return str(rng.randrange(10 ** (count - 1), 10**count))
        return "".join(rng.choices(_LETTERS, k=count))

    made = _RANDOM.sub(part, pattern)
    whole = _RANDOM.fullmatch(pattern)
    return int(made) if whole is not None and whole[1] == "number" else made


def pattern_of(path: str) -> re.Pattern[str]:
    """The pattern of a path whose names in braces stand for one segment each, `{+id}` for several. A name that comes
    in the query, as in `?run_id={id}`, is found there."""
    text = re.escape(path)
    text = re.sub(r"\\\{\\\+([a-z_]+)\\\}", r"(?P<\1>.+)", text)
    return re.compile(re.sub(r"\\\{([a-z_]+)\\\}", r"(?P<\1>[^/&?]+)", text))


@dataclass(frozen=True)
class Calls:
    """The calls of a definition, read as plain data."""

    definition: Mapping[str, Any]

    @cached_property
    def reads(self) -> list[tuple[str, str, re.Pattern[str]]]:
        """(resource, method, pattern) of the reads."""
        return [
            (name, one.get("method", "GET"), pattern_of(one["path"]))
            for name, one in self.definition["resources"].items()
        ]

    @cached_property
    def creates(self) -> list[tuple[str, Sequence[str], re.Pattern[str]]]:
        """(resource, methods, pattern) of the creates."""
        every = [(name, one) for name, of in self.definition["resources"].items() for one in of.get("creates", ())]
        return [
            (name, ("POST",), pattern_of(one))
            if isinstance(one, str)
            else (name, one.get("methods", ("POST",)), pattern_of(one["path"]))
            for name, one in every
        ]

    def key_of(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        """What a request sends as its API key; empty if it sends none."""
        way = self.definition["credential"]
        if "query" in way:
            return query.get(way["query"], "")
        given = headers.get(str(way.get("header", "")).lower()) or headers.get("authorization", "")
        scheme, _, rest = given.partition(" ")
        return rest if rest and scheme.lower() in ("bearer", "token", "basic") else given
