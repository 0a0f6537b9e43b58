"""A definition against its recorded answers: what each answer proves, and what no answer proves. Pure.

Each stage of each fate is read as a poll would read it. `Coverage.gaps` has a line for what is wrong or missing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pydantic import BaseModel

from relay.cli.definitions.drafting import ERRORS
from relay.cli.definitions.recorded import Recorded
from relay.core.access.forwarding import escapes_segment
from relay.core.jobs.job import NO_CODE, TERMINAL, Observation
from relay.core.jsontext import dumps
from relay.sandbox.recorded import RecordedWorld, Recording, Reply, pattern_of
from relay.sources.definition import Resource, SourceDefinition
from relay.sources.mapping import Document, Malformed, observe, read_answer, read_credits, read_error, registered
from relay.sources.pointers import at, document_of, written
from relay.sources.sections import Rule, TimePlace

NOW = 1_779_271_300.0
BASE = "https://upstream.example"
_ELSEWHERE = "on no host that the definition lists in `origins`"
_OF_A_BODY = re.compile(r"\{body((?:/[^/{}\"]+)+)\}")
_NO_PLACES = frozenset({"item", "states", "creates", "follows", "request", "status_paths"})


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a fate. `word`: the upstream's for its state; `state`: what a poll of it proves; "" if nothing."""

    word: str
    state: str


@dataclass(frozen=True, slots=True)
class Fate:
    """A fate of a resource, stage by stage."""

    resource: str
    fate: str
    stages: Sequence[Stage]


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the recorded answers prove. `gaps`: what is wrong, or not covered, in one line each, which begins with file
    and line."""

    fates: list[Fate] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)

    def add(self, recorded: Recorded, problems: Iterable[str]) -> None:
        """Adds problems that begin with their place in the definition, or below `errors`."""
        for problem in problems:
            place = problem.partition(": ")[0].split(".")
            where = recorded.where(*(int(one) if one.isdecimal() else one for one in place))
            self.gaps.append(f"{where}: {problem}")


def coverage_of(recorded: Recorded) -> Coverage:
    """Reads every recorded answer by the definition."""
    found = Coverage()
    shown: list[Any] = []
    for name in recorded.definition.resources:
        shown += _of_resource(recorded, name, found)
    found.add(recorded, _error_problems(recorded))
    recording = recorded.recording
    bodies = [*shown, *(one.body for one in (*recording.calls, *recording.errors.values()))]
    answer = recorded.definition.answer
    found.add(recorded, _unshown(answer, "answer", bodies))
    probe, credits = recorded.definition.probe, recorded.definition.credits
    if probe is not None and not _answers(recording, probe):
        found.add(recorded, [f"probe: GET {probe.partition('?')[0]} is not among the recorded calls"])
    if credits is not None:
        read = [read_credits(recorded.definition, dumps(body)) for body in _answers(recording, credits.path)]
        if not any(isinstance(one, Document) for one in read):
            places = " or ".join(map(written, credits.available))
            found.add(recorded, [f"credits: no recorded GET {credits.path} has a number at {places}"])
    return found


def _answers(recording: Recording, path: str) -> list[Any]:
    """The bodies of the recorded calls that a GET of this path is, whatever its query."""
    path = path.partition("?")[0]
    calls = ((one.body, *one.call.partition(" ")[::2]) for one in recording.calls)
    return [body for body, method, pattern in calls if method == "GET" and pattern_of(pattern).fullmatch(path)]


def _of_resource(recorded: Recorded, name: str, found: Coverage) -> list[Any]:
    """Checks a resource. Returns the bodies of its answers."""
    definition = recorded.definition
    resource, proven = definition.resources[name], set[Rule]()
    shadowed: dict[int, int] = {}
    bodies, items, sent = [], [], _sent_to(recorded.recording)
    observed: list[tuple[Any, Observation]] = []
    for fate in recorded.recording.resources[name].fates:
        world = RecordedWorld(recording=recorded.recording)
        job = world.create(name, NOW, body=sent, fate=fate)
        replies = [world.reply(job, begins, BASE) for begins in job.begins]
        items.append(at(world.created(job, BASE).body, resource.item))
        seen = [_observed(definition, name, reply, str(job.id)) for reply in replies]
        stages = []
        for reply, one in zip(replies, seen, strict=True):
            item = at(reply.body, resource.item)
            bodies.append(reply.body)
            items.append(item)
            rule = resource.rule_of(item, reply.status)
            if rule is not None:
                proven.add(rule)
                later = (number for number, one in enumerate(resource.states) if one.holds(item, reply.status))
                shadowed |= {number: resource.states.index(rule) for number in later if number not in shadowed}
            word = at(item, resource.status)
            text = str(reply.status) if word is None else str(word)
            observed += [] if isinstance(one, Malformed) else [(item, one)]
            stages.append(Stage(text, one.status if isinstance(one, Observation) and one.known else ""))
        found.fates.append(Fate(name, fate, stages))
        place = ("answers", "resources", name, "fates", fate, "stages")
        for number, problem in _problems(resource, seen, stages):
            found.gaps.append(f"{recorded.where(*place, number)}: {name}, {fate}: {problem}")
    for number, rule in enumerate(resource.states):
        if rule not in proven:
            words = f"resources.{name}.states.{number}: no answer proves this rule ({_rule(rule)})"
            if (first := shadowed.get(number)) is not None:
                line = recorded.document.line(("resources", name, "states", first))
                words = f"{words}: states.{first}, line {line}, matches first. Move this rule up"
            found.add(recorded, [words])
    found.add(recorded, _unshown(resource, f"resources.{name}", items))
    found.add(recorded, (f"resources.{name}.fields.{problem}" for problem in _unread_times(resource, observed)))
    results = {str(url) for item in items if resource.result_url and (url := at(item, resource.result_url))}
    for url in sorted(url for url in results if definition.address(BASE, url) is None):
        found.add(recorded, [f"resources.{name}.result_url: {url!r:.200} is {_ELSEWHERE}"])
    found.add(recorded, _create_problems(recorded, name))
    found.add(recorded, _path_problems(recorded, name))
    return bodies


def _sent_to(recording: Recording) -> Any:
    """The body of a create that has every value which the recorded answers show of it."""
    shown = dumps(recording.model_dump()).decode()
    places = {tuple(found[1].split("/")[1:]) for found in _OF_A_BODY.finditer(shown)}
    return document_of((names, "x") for names in sorted(places, key=len, reverse=True))


def _observed(definition: SourceDefinition, name: str, reply: Reply, id: str) -> Observation | Malformed:
    if not (200 <= reply.status < 300 or reply.status in definition.resources[name].statuses):
        return Malformed(reason=f"no rule knows the status {reply.status}")
    body = b"" if reply.body is None else dumps(reply.body)
    return observe(definition, body, now=NOW, resource=name, external_id=id, status_code=reply.status)


def _problems(
    resource: Resource, seen: Sequence[Observation | Malformed], stages: Sequence[Stage]
) -> Iterator[tuple[int, str]]:
    """(stage, problem) of a fate; stages are counted from 0."""
    for place, (one, stage) in enumerate(zip(seen, stages, strict=True)):
        number, is_last = place + 1, place + 1 == len(seen)
        if isinstance(one, Malformed):
            yield place, f"stage {number} cannot be read: {one.detail or one.reason}"
        elif not one.known:
            yield place, f"stage {number}: no rule knows {stage.word!r:.70}"
        elif one.status in TERMINAL and not is_last:
            yield place, f"stage {number} of {len(seen)}: {stage.word!r:.70} already ends the job as {one.status}"
        elif is_last and one.status not in TERMINAL:
            yield place, f"its last stage does not end the job: {stage.word!r:.70} is {one.status}"
        elif one.problem is not None and one.status not in TERMINAL:
            yield place, f"stage {number}: an open job shows an error ({one.problem.message:.70})"
        elif one.status == "failed" and (one.problem is None or not one.problem.message):
            yield place, "the job fails, and no error is found at `problem`"
        elif one.status == "failed" and one.problem is not None and one.problem.code == NO_CODE:
            yield place, "the job fails without a code, which hints are found by: add `code` to its rule, and a hint"


def _create_problems(recorded: Recorded, name: str) -> Iterator[str]:
    """Problems of the answer to each create: it names the job where the definition says."""
    definition = recorded.definition
    for number, create in enumerate(definition.resources[name].creates):
        world = RecordedWorld(recording=recorded.recording)
        job = world.create(name, NOW, body=_sent_to(recorded.recording))
        answer, place = world.created(job, BASE), f"resources.{name}.creates.{number}"
        headers = {header.lower(): value for header, value in answer.headers.items()}
        body = answer.body if isinstance(answer.body, dict) else {}
        location = definition.resources[name].address_with_id(create, body, headers)
        shown = registered(definition, body, now=NOW, resource=name, create=create, location=location)
        if shown is None:
            yield f"{place}: the answer to the create names no job"
        elif shown.external_id != str(job.id):
            yield f"{place}: the answer to the create names {shown.external_id!r:.70}, not the job {job.id}"
        elif create.location is not None and location is None:
            yield f"{place}.location: the answer to the create has no header {create.location}"
        elif create.id is not None and shown.observation is not None:
            yield f"{place}.id: no id is at {written(create.id)} of the answer to the create"
        if create.status_url is not None and not isinstance(at(answer.body, create.status_url), str):
            yield f"{place}.status_url: {written(create.status_url)} is not in the answer to the create"
        address = definition.resources[name].address_of(create, answer.body, headers)
        if address is not None and definition.address(BASE, address) is None:
            yield f"{place}: the answer to the create names {address!r:.200}, {_ELSEWHERE}"


def _path_problems(recorded: Recorded, name: str) -> Iterator[str]:
    """A job that cannot be registered by its id, and a read that another resource's path takes first."""
    world, definition = RecordedWorld(recording=recorded.recording), recorded.definition
    id = str(world.create(name, NOW).id)
    path = definition.job_url("", id, name)
    if escapes_segment(id):
        yield f"resources.{name}.path: the id {id!r:.70} of a job has a segment . or .., which leads elsewhere"
    elif definition.resources[name].has_paths_as_ids and not definition.may_name(BASE, BASE + path, name):
        yield f"resources.{name}.path: no pattern of `status_paths` matches {path:.200}: add one that does"
    method = recorded.definition.resources[name].method
    for other, verb, pattern in recorded.calls.reads:
        if other == name:
            return
        if verb == method and pattern.fullmatch(path):
            yield f"resources.{name}.path: resources.{other}.path matches {path} first"
            return


def _error_problems(recorded: Recorded) -> Iterator[str]:
    answers = {name: recorded.recording.errors.get(name) for name in ERRORS}
    for name, reply in answers.items():
        if reply is None:
            yield f"errors.{name}: is not recorded"
            continue
        error = read_error(recorded.definition, b"" if reply.body is None else dumps(reply.body))
        if not (error.code or error.message):
            yield f"errors.{name}: neither code nor message is found at `error`"
        elif 200 <= reply.status < 300 and not isinstance(
            read_answer(recorded.definition, dumps(reply.body)), Malformed
        ):
            yield f"errors.{name}: its status is {reply.status}, and `answer.ok` does not make it an error"


def _unread_times(resource: Resource, observed: Sequence[tuple[Any, Observation]]) -> Iterator[str]:
    """The places of times that have values, and never a time."""
    for name, place in resource.fields:
        if isinstance(place, TimePlace) and all(getattr(one, name) is None for _, one in observed):
            values = (value for item, _ in observed if (value := at(item, place.at)) is not None)
            yield from (f"{name}: {value!r:.70} is no time as {place.as_}: set `as`" for value in islice(values, 1))


def _unshown(part: BaseModel, place: str, documents: Sequence[Any]) -> Iterator[str]:
    """The pointers of a part of a definition at which no document has a value."""
    for key, names in _pointers(part, place):
        if all(at(one, names) is None for one in documents):
            yield f"{key}: {written(names) or 'the whole'} is in no answer"


def _pointers(part: BaseModel, place: str, base: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(key, pointer) of each pointer that is written in a part of a definition, but for those of calls. Those of a part
    with an `at` begin there."""
    base = (*base, *getattr(part, "at", ()))
    for name in sorted(part.model_fields_set - _NO_PLACES):
        value, key = getattr(part, name), f"{place}.{name}"
        if isinstance(value, BaseModel):
            yield from _pointers(value, key, base)
        elif name in ("shown", "addresses"):
            places = value.items() if isinstance(value, Mapping) else enumerate(value)
            yield from ((f"{key}.{one}", (*base, *names)) for one, names in places)
        elif isinstance(value, tuple):
            yield key, base if name == "at" else (*base, *value)


def _rule(rule: Rule) -> str:
    if rule.at is None:
        return f"http {', '.join(map(str, sorted(rule.http or ())))}"
    if rule.there is not None:
        return f"{written(rule.at)} is {'' if rule.there else 'not '}there"
    values = (
        f"{dumps(one).decode()}, no text: quote words" if isinstance(one, bool) else str(one) for one in rule.values
    )
    return f"{written(rule.at)} is {' or '.join(values)}"
