"""The first definition of an API, from one answer of it and six things that a person knows. Pure.

`guess` proposes what the answer suggests; `draft` writes the file, which `relay check` accepts.
"""

import copy
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import yaml

from relay.errors import UsageError
from relay.sources.pointers import at, parse, written

STATES = ("queued", "running", "succeeded", "failed", "cancelled")
_ENDS = STATES[2:]
WORDS: Mapping[str, re.Pattern[str]] = {
    "queued": re.compile(r"created|new|pending|queued|scheduled|submitted|wait.*"),
    "running": re.compile(r"active|creating|in[_-]progress|processing|running|started"),
    "succeeded": re.compile(r"completed?|done|ended|finished|ok|ready|succeeded|success(ful)?"),
    "failed": re.compile(r"aborted|crashed|error(ed)?|expired|fail(ed|ure)|timed[_-]out"),
    "cancelled": re.compile(r"cancell?ed|stopped"),
}
"""Usual words of APIs for a state, in lower case."""
_STATUS_NAMES = ("status", "state", "job_status", "lifecycle_state", "life_cycle_state", "phase", "stage")
_ID_NAMES = ("id", "job_id", "run_id", "task_id", "uuid", "name")
_ERROR_NAMES = ("error", "errors", "failure", "failure_reason", "error_message", "last_error")
_KEY_HEADERS = re.compile(r"authorization|key|token|auth|secret", re.IGNORECASE)
_CODE = re.compile(r"[!-~]{1,64}")
ERRORS = {"unauthorized": 401, "not_found": 404, "rate_limited": 429, "unavailable": 503}
"""Answers that every upstream has, and their statuses."""
Place = Sequence[str]
_MAX_DEPTH = 4
_MAX_PLACES = 500
_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a person said about an API, or what its answer suggests. Places are JSON pointers, "" if there is none.
    `words`: the upstream's for each of STATES."""

    title: str
    id: str
    status: str
    error: str
    create: str
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)


def guess(url: str, sample: Any) -> Answers:
    """Proposals for the answer `sample` of a job's URL."""
    places = dict(_places(sample))
    segments = [unquote(one) for one in re.split(r"[/?=&]", url)]
    in_url = [place for place, value in places.items() if value not in (None, "") and str(value) in segments[3:]]
    host = urlsplit(url).hostname or ""
    id = _named(in_url, _ID_NAMES) or next(iter(in_url), "") or _named(places, _ID_NAMES)
    path = _path_with_id(url, str(places.get(id, "")))
    return Answers(
        title=_title(host),
        id=id,
        status=_named([place for place, value in places.items() if isinstance(value, str)], _STATUS_NAMES),
        error=_named(places, _ERROR_NAMES),
        create=path.partition("{id}")[0].partition("?")[0].rstrip("/") if path.endswith("/{id}") else "",
    )


def guessed_words(state: str, word: object) -> list[str]:
    """Proposed words of a state: the sample's, if it is a usual one."""
    return [word] if isinstance(word, str) and WORDS[state].fullmatch(word.lower()) else []


def draft(url: str, sample: Any, answers: Answers, headers: Sequence[tuple[str, str]] = ()) -> str:
    """The text of a definition. Of `headers`, the first carries the key, and the others are sent as they are.

    Raises UsageError if an answer does not fit the sample.
    """
    for name, _ in headers[1:]:
        if _KEY_HEADERS.search(name):
            raise UsageError(f"--header {name}: only the first one may hold a key, since the others are written down")
    parts = urlsplit(url)
    id_at, status_at = place_of_id(sample, answers.id), place_of_status(sample, answers.id, answers.status)
    id, shown = at(sample, id_at), at(sample, status_at)
    job_at = item_at(id_at, status_at)
    check_words(answers.words)
    words = {state: [_typed(word, shown) for word in answers.words.get(state, ())] for state in STATES}
    path = _path_with_id(url, str(id))
    name = _resource_name(path)
    error_at = place_of_error(sample, answers.error, job_at) if answers.error else ()
    sample = _templated(sample, f"{parts.scheme}://{parts.netloc}", str(id))
    item = at(sample, job_at)
    depth = len(job_at)
    status, source_path = written(status_at[depth:]), path.partition("{id}")[0].partition("?")[0].rstrip("/") or "/"
    resource: dict[str, Any] = {
        "type_prefix": f"{_reversed_host(parts.hostname or '')}.job",
        "source_path": source_path,
        "path": path,
        "creates": [answers.create] if answers.create else None,
        "item": written(job_at) or None,
        "status": status,
        "states": list(_rules(words, status)),
        "fields": {"id": written(id_at[depth:])},
        "problem": {"at": written(error_at)} if error_at else None,
    }
    definition = {
        "version": 2,
        "title": answers.title,
        "base_url": f"{parts.scheme}://{parts.netloc}",
        "credential": _credential(headers),
        "error": {"at": "/error"},
        "send_headers": dict(headers[1:]) or None,
        "probe": source_path,
        "resources": {name: {key: value for key, value in resource.items() if value is not None}},
        "answers": {
            "answer": _with(sample, (job_at, "{job}")),
            "errors": {meaning: {"status": code, "body": {"error": meaning}} for meaning, code in ERRORS.items()},
            "resources": {name: _recording(item, id_at[depth:], status_at[depth:], error_at, words)},
            "calls": [{"call": f"GET {source_path}", "body": {}}],
        },
    }
    text = _HEAD.format(title=answers.title)
    kept = {key: value for key, value in definition.items() if value is not None}
    return text + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


_HEAD = """\
# {title}: written by `relay sources new` from one answer. Every key is explained in docs/guides/sources.md.
#   probe           a cheap call that shows whether a key works: check it
#   states          the first rule that matches counts; a job whose status has none stays open
#   answers         what `relay sources test` and `relay sandbox --source` play: your sample, and guesses. Remove what
#                   is personal, and replace the guesses with what you see

"""


def _recording(
    item: Mapping[str, Any], id_at: Place, status_at: Place, error_at: Place, words: Mapping[str, Sequence[str | int]]
) -> dict[str, Any]:
    """The recorded answers of a resource: a fate for each word that ends a job."""
    before = [*words["queued"], *words["running"]]
    first = next(iter((*before, *(word for state in _ENDS for word in words[state]))))
    error = at(item, error_at) if error_at else None
    job = _with(item, (id_at, "{id}"), (status_at, first), *([(error_at, None)] if error_at else []))

    def showing(*values: tuple[Place, Any]) -> dict[str, Any]:
        changed = _with(job, *values)
        return {names[0]: changed[names[0]] for names, _ in values}

    stages = [{"seconds": _SECONDS, "show": showing((status_at, word))} for word in before]
    fates = {}
    for state in _ENDS:
        failure = [(error_at, "It failed" if error is None else error)] if state == "failed" and error_at else []
        for word in words[state]:
            last = {"show": showing((status_at, word), *failure)}
            fates[re.sub(r"\W+", "_", str(word))] = {"stages": [*copy.deepcopy(stages), last]}
    id = at(item, id_at)
    return {"id": f"{{number:{len(str(id))}}}" if isinstance(id, int) else "{random:24}", "job": job, "fates": fates}


def _with(document: Any, *values: tuple[Place, Any]) -> Any:
    """A copy of the document with these values at their places."""
    changed = {"": copy.deepcopy(document)}
    for place, value in values:
        inner: Any = changed
        *path, last = ("", *place)
        for name in path:
            if isinstance(inner, dict) and not isinstance(inner.get(name), dict | list):
                inner[name] = {}
            inner = inner[int(name) if isinstance(inner, list) else name]
        inner[int(last) if isinstance(inner, list) else last] = value
    return changed[""]


def _rules(words: Mapping[str, Sequence[str | int]], status: str) -> Iterator[dict[str, Any]]:
    """The rules of the words. The word of a failure is its code where the answer has none."""
    for state in STATES:
        for word in words[state]:
            coded = state == "failed" and _CODE.fullmatch(str(word))
            code = {"code": str(word)} if coded else {}
            yield {"at": status, "is": word, "state": state, **code}


def _typed(word: str, shown: str | int) -> str | int:
    """A word as the upstream's status is: some use numbers."""
    return int(word) if isinstance(shown, int) and not isinstance(shown, bool) and word.isdecimal() else word


def _credential(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """How the key is sent, by the header that carries it."""
    if not headers:
        return {"header": "Authorization", "format": "Bearer {key}"}
    name, value = headers[0]
    scheme, space, _ = value.partition(" ")
    if name.lower() == "authorization" and scheme.lower() == "basic":
        return {"basic": "{key}"}
    return {"header": name, "format": f"{scheme} {{key}}"} if space else {"header": name}


def _places(document: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(pointer, value) of the values in a document, breadth first within each object."""
    if not isinstance(document, dict) or depth >= _MAX_DEPTH:
        return
    inner = [(f"{place}/{name.replace('~', '~0').replace('/', '~1')}", one) for name, one in document.items()]
    yield from inner[:_MAX_PLACES]
    for name, one in inner[:_MAX_PLACES]:
        yield from _places(one, name, depth + 1)


def _named(places: Collection[str], names: Sequence[str]) -> str:
    """The first place that ends with one of the names, the better name first."""
    return next((place for name in names for place in places if place.rpartition("/")[2].lower() == name), "")


def _path_with_id(url: str, id: str) -> str:
    """The path of a job's URL, with `{id}` for the id. Parameters are dropped, since they may be secrets, unless one of
    them is the id."""
    parts = urlsplit(url)
    path = re.sub("%7bid%7d", "{id}", parts.path, flags=re.IGNORECASE)
    if "{id}" in path:
        return path
    segments = path.split("/")
    places = [number for number, segment in enumerate(segments) if id and unquote(segment) == id]
    if places:
        return "/".join((*segments[: places[-1]], "{id}", *segments[places[-1] + 1 :]))
    for name, value in parse_qsl(parts.query):
        if value in (id, "{id}"):
            return f"{path}?{quote(name)}={{id}}"
    return f"{path.rstrip('/')}/{{id}}"


def _resource_name(path: str) -> str:
    words = [one for one in path.partition("{id}")[0].partition("?")[0].split("/") if one and "{" not in one]
    name = re.sub(r"[^a-z0-9]+", "_", words[-1].lower()).strip("_")[:32] if words else ""
    return name if re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name) else "jobs"


def _title(host: str) -> str:
    labels = host.split(".")
    return "My API" if labels[-1].isdigit() else labels[-2 if len(labels) > 1 else 0].capitalize()


def _reversed_host(host: str) -> str:
    """`com.example` of api.example.com."""
    labels = [re.sub(r"[^a-z0-9]", "", label) for label in reversed(host.lower().split("."))]
    known = [label for label in labels if label and label not in ("api", "www")]
    return ".".join(known) if known and not known[-1].isdigit() else "local"


def place_of_id(sample: Any, text: str) -> tuple[str, ...]:
    """The place of the id that a person names. Raises UsageError, as the functions below."""
    names = _pointer_in(sample, text, "the id")
    id = at(sample, names)
    if not isinstance(id, str | int) or isinstance(id, bool) or id == "":
        raise UsageError(f"no id is at {text} of the sample")
    return names


def place_of_status(sample: Any, id: str, text: str) -> tuple[str, ...]:
    """The place of the status. `id`: the pointer of the id."""
    names = _pointer_in(sample, text, "the status")
    item = at(sample, item_at(place_of_id(sample, id), names))
    if not isinstance(item, dict) or not isinstance(at(sample, names), str | int):
        raise UsageError(f"no status is at {text} of the sample")
    return names


def place_of_error(sample: Any, text: str, item_at: Place) -> tuple[str, ...]:
    """The place of the error below the job's, which the text may begin with or leave out."""
    names, depth = _pointer(text, "the error"), len(item_at)
    if names[:depth] == tuple(item_at) and len(names) > depth:
        return names[depth:]
    if at(sample, names) is not None:
        raise UsageError(f"the error must be below {written(item_at)}, where the job is")
    return names


def check_words(words: Mapping[str, Sequence[str]]) -> None:
    """Refuses words of which none ends a job, or one stands for two states."""
    every = [word for state in STATES for word in words.get(state, ())]
    if not any(words.get(state) for state in _ENDS):
        raise UsageError("no word ends a job: name those that mean succeeded, failed or cancelled")
    for word in sorted({word for word in every if every.count(word) > 1}):
        raise UsageError(f"{word!r:.70} stands for two states: the second rule can never match")


def item_at(id_at: Place, status_at: Place) -> tuple[str, ...]:
    """The place of the job: what the places of its id and its status begin with."""
    pairs = zip(id_at[:-1], status_at[:-1], strict=False)
    return tuple(name for name, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _templated(value: Any, base: str, id: str) -> Any:
    """The sample with placeholders for the API's address and the id in paths, and without other braces."""
    if isinstance(value, dict):
        return {name: _templated(one, base, id) for name, one in value.items()}
    if isinstance(value, list):
        return [_templated(one, base, id) for one in value]
    if not isinstance(value, str):
        return value
    text = value.replace("{", "(").replace("}", ")").replace(base, "{base}")
    return re.sub(rf"/{re.escape(id)}(?![\w-])", "/{id}", text)


def _pointer_in(sample: Any, text: str, what: str) -> tuple[str, ...]:
    """A pointer that does not lead into a list of several jobs."""
    names = _pointer(text, what)
    for depth in range(len(names)):
        found = at(sample, names[:depth])
        if isinstance(found, list) and len(found) > 1:
            raise UsageError(f"{what}: {written(names[:depth]) or 'the sample'} is a list. Use the URL of one job")
    return names


def _pointer(text: str, what: str) -> tuple[str, ...]:
    try:
        names = parse(text)
    except ValueError as error:
        raise UsageError(f"{what}: {error}") from None
    if not names:
        raise UsageError(f"{what}: a JSON pointer is expected, such as /data/status")
    return names
