"""Source definition, version 2: everything the relay knows about one upstream API, as data.

A preset is a folder beside this module: `definition.yaml`, and `hints.yaml` if it explains errors of its own. A user's
file has its hints in the section `hints`.
"""

import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from relay.core.access.forwarding import KeyPlace, path_refusal, without_parameter
from relay.core.access.netguard import is_within
from relay.core.events.event import JOB_PREFIX, Hint, Origin
from relay.core.jobs.connect_accounts import LISTED_STATES
from relay.core.jobs.job import TERMINAL, Problem
from relay.core.jsontext import dumps
from relay.errors import SettingsError
from relay.redaction import redact_text
from relay.sources.documents import Document, Faults, Loc, read_document, refused
from relay.sources.hints import Hints, Part
from relay.sources.pointers import Pointer, at, document_of

ANSWERS = "answers"
"""The section of a user's file with its recorded answers. Those of a preset are in `answers.yaml` beside it."""

_PRESET = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
MAX_ADDRESS_CHARACTERS = 2_000
_ADDRESS = re.compile(r"(?:https?://[a-z0-9.-]+(?::[0-9]{1,5})?/|/(?!/))[!\"$-\[\]-~]*", re.IGNORECASE)
"""An absolute URL with a path and without user, password and fragment, or a path."""

_KEY_HERE = "has a secret: leave it out, `credential` says how the key is sent"
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_ESCAPED_NAME = re.compile(r"\\\{(\\\+)?([a-z_]+)\\\}")
_SEGMENTS = re.compile(r"\{(?!key\})\+?[a-z_]+\}")
_CROWDED = re.compile(r"\}[^/]*\{")


def _path(text: str) -> str:
    """A path that goes to the base URL as it is written, and names what it says on every server."""
    if redact_text(text) != text or "{key}" in text:
        raise ValueError(_KEY_HERE)
    if "#" in text or "{" in (left := _PLACEHOLDER.sub("x", text)) or "}" in left:
        raise ValueError("has a # or a brace too many: neither can be sent")
    refusal = path_refusal(left.partition("?")[0].encode(), ("/",))
    if refusal is not None:
        raise ValueError(f"names another place: {refusal}")
    return text


def _fixed(text: str) -> str:
    if "{" in _path(text):
        raise ValueError("has a placeholder: this path is sent as it is")
    return text


def _of_segments(text: str) -> str:
    if "{" in _SEGMENTS.sub("", _path(text)):
        raise ValueError("has a placeholder that is no name such as {owner}")
    names = [name.strip("{+}") for name in _SEGMENTS.findall(text)]
    if text.count("{+") > 1 or len(set(names)) < len(names):
        raise ValueError("has two placeholders of one kind: {+name} and each name may be there once")
    if _CROWDED.search(text):
        raise ValueError("has two placeholders in one segment: one of them stands for all of it")
    return text


def _with_id(text: str) -> str:
    if len(_PLACEHOLDER.findall(_path(text))) != 1:
        raise ValueError("has another placeholder than {id}, which the id is put at: write the others out")
    return text


def _address(text: str) -> str:
    parts = urlsplit(text)
    if "@" in parts.netloc or redact_text(text) != text:
        raise ValueError(_KEY_HERE)
    return text


def _headers(values: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in values.items():
        if redact_text(f"{name}: {value}") != f"{name}: {value}":
            raise ValueError(f"{name} {_KEY_HERE}")
    return values


_RawPath = Annotated[str, Field(pattern=r"^/[!-~]*$")]
_Path = Annotated[_RawPath, AfterValidator(_fixed)]
_Pattern = Annotated[_RawPath, AfterValidator(_of_segments)]
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
_Url = Annotated[str, Field(pattern=r"^https?://[!-~]+$"), AfterValidator(_address)]
_WithKey = Annotated[str, Field(pattern=r"^[ -~]*\{key\}[ -~]*$")]
_HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]
_Header = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$", to_lower=True)]
_Scalar = StrictStr | StrictBool | StrictInt
State = Literal["queued", "scheduled", "running", "succeeded", "failed", "cancelled"]


class OAuth(Part):
    """OAuth 2.0 client credentials (RFC 6749, 4.4). The account's key is `CLIENT_ID:CLIENT_SECRET`.

    token_url  where a token is got
    scope      that is asked for
    """

    token_url: _Url
    scope: str = ""


class Credential(Part):
    """How the API key is sent, in one way: in a header, in the query, or as HTTP Basic authentication.

    header  the header's name; also for the token of `oauth`
    format  the header's value, as `Bearer {key}`
    query   the parameter's name
    basic   the text that HTTP Basic encodes, as `{key}:`
    oauth   trades the key for a token, which is sent in its place
    """

    header: _HeaderName | None = None
    format: _WithKey = "{key}"
    query: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    basic: _WithKey | None = None
    oauth: OAuth | None = None

    @model_validator(mode="after")
    def _check(self) -> "Credential":
        if sum(one is not None for one in (self.header, self.query, self.basic)) != 1:
            raise ValueError("a credential has one of `header`, `query` and `basic`")
        if self.oauth is not None and self.header is None:
            raise ValueError("the token of `oauth` goes into a `header`")
        return self

    @cached_property
    def place(self) -> KeyPlace:
        """Where a request has the key."""
        if self.query is not None:
            return KeyPlace(parameter=self.query)
        before, _, after = (self.basic or self.format).partition("{key}")
        header = (self.header or "authorization").lower().encode()
        return KeyPlace(header=header, before=before, after=after, is_basic=self.basic is not None)


class Expected(Part):
    """A value that an answer has at a place, if it has one there.

    at  the place
    is  the value
    """

    at: Pointer
    is_: _Scalar = Field(alias="is")


class Answer(Part):
    """What every answer has in common.

    ok          another value there makes a 2xx answer an error
    request_id  the upstream's id of the request
    """

    ok: Expected | None = None
    request_id: Pointer | None = None


class Meanings(Part):
    """The upstream's error codes by meaning, whatever the 4xx status. Without them the status decides.

    key_trouble   the key is missing, wrong, expired or revoked: polling stops until there is another
    forbidden     the key may not see this job
    not_found     there is no such job
    rate_limited  too many requests
    unavailable   it passes by itself
    """

    key_trouble: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()
    not_found: frozenset[str] = frozenset()
    rate_limited: frozenset[str] = frozenset()
    unavailable: frozenset[str] = frozenset()


class ErrorFields(Part):
    """Where an error answer says why.

    at          the error; the other places begin there. A text there is the code, or the message if it has spaces
    code        a word for programs
    message     a sentence for people
    request_id  the upstream's id of the request
    meanings    codes that mean more than their status
    """

    at: Pointer = ()
    code: Pointer = ("code",)
    message: Pointer = ("message",)
    request_id: Pointer | None = None
    meanings: Meanings = Meanings()


class HeaderNames(Part):
    """Response headers, by name. Each may be absent from any answer.

    limit              requests that the key may send in a window
    remaining          what is left of them
    window_ms          length of the window, in milliseconds
    reset              when the window ends: in seconds, as an epoch second or as a date
    account_limit      the same for all keys of the account
    account_remaining  what is left of these
    retry_after        a pause, in seconds or until a date
    retry_after_ms     a pause, in milliseconds
    request_id         the upstream's id of the request
    """

    limit: _Header | None = None
    remaining: _Header | None = None
    window_ms: _Header | None = None
    reset: _Header | None = None
    account_limit: _Header | None = None
    account_remaining: _Header | None = None
    retry_after: _Header = "retry-after"
    retry_after_ms: _Header | None = None
    request_id: _Header | None = None

    @cached_property
    def limits(self) -> frozenset[str | None]:
        """The headers that tell of an account's or a key's budget."""
        own = (self.limit, self.remaining, self.window_ms, self.reset)
        return frozenset((*own, self.account_limit, self.account_remaining))


class Limit(Part):
    """A documented limit on requests, for an API whose headers do not tell it.

    requests     so many requests
    per_seconds  in so many seconds
    """

    requests: Annotated[int, Field(ge=1)]
    per_seconds: Annotated[float, Field(gt=0, le=86_400)]


class LongPoll(Part):
    """How a read asks the upstream to answer only after a change, or after some seconds: a header or a parameter.

    header, query  the header's or the parameter's name: one of the two
    value          of the header or parameter; `{seconds}` is the time
    max_seconds    the longest time that the upstream takes
    """

    header: _HeaderName | None = None
    query: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    value: Annotated[str, Field(pattern=r"^[ -~]*\{seconds\}[ -~]*$")] = "{seconds}"
    max_seconds: Annotated[float, Field(gt=0, le=120)]

    @model_validator(mode="after")
    def _check(self) -> "LongPoll":
        if (self.header is None) is (self.query is None):
            raise ValueError("a wait has one of `header` and `query`")
        return self

    def asked(self, url: str, seconds: float) -> tuple[str, dict[str, str]]:
        """The URL and the headers of a request that the upstream may hold for so long."""
        value = self.value.replace("{seconds}", f"{seconds:g}")
        if self.query is None:
            return url, {} if self.header is None else {self.header: value}
        return _with_parameter(url, self.query, value), {}


class Rule(Part):
    """A condition on the answer to a read, and the state that it proves.

    at      the place in the job of a value
    is      the value is this one
    in      the value is one of these
    there   true: there is a value that is not null; false: there is none
    http    the status of the answer is one of these, whatever its body
    state   that the job then has
    code    the error code of such a job, if its answer has none
    result  the result status of such a job, if its answer has none
    """

    at: Pointer | None = None
    is_: _Scalar | None = Field(None, alias="is")
    in_: tuple[_Scalar, ...] | None = Field(None, alias="in", min_length=1)
    there: bool | None = None
    http: frozenset[Annotated[int, Field(ge=200, le=599)]] | None = Field(None, min_length=1)
    state: State
    code: Annotated[str, Field(pattern=r"^[!-~]{1,64}$")] | None = None
    result: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")] | None = None

    @model_validator(mode="after")
    def _check(self) -> "Rule":
        if sum(one is not None for one in (self.is_, self.in_, self.there, self.http)) != 1:
            raise ValueError("a rule has one of `is`, `in`, `there` and `http`")
        if (self.at is None) is (self.http is None):
            raise ValueError("a rule has `at` with `is`, `in` or `there`, or else `http`")
        return self

    @cached_property
    def values(self) -> tuple[_Scalar, ...]:
        """The values that match; none: `there` or `http` decides."""
        return self.in_ or (() if self.is_ is None else (self.is_,))

    def holds(self, item: Any, status_code: int) -> bool:
        """True if the answer matches."""
        if self.at is None:
            return self.http is not None and status_code in self.http
        found = at(item, self.at)
        if self.there is not None:
            return (found is not None) is self.there
        for value in self.values:  # noqa: SIM110 (any() costs twice as much)
            if type(found) is type(value) and found == value:
                return True
        return False

    @property
    def matches(self) -> Collection[object]:
        """What it matches, each as one value that a rule of the same has too."""
        if self.at is None:
            return self.http or ()
        if self.there is not None:
            return ((self.at, self.there),)
        return [(self.at, type(value), value) for value in self.values]

    @property
    def within(self) -> Collection[object]:
        """What matches all that this rule does, among the `matches` of others."""
        return ((self.at, True),) if self.values else ()


def is_exactly(found: object, value: object) -> bool:
    """True if both are the same JSON value. In Python, true is 1."""
    return type(found) is type(value) and found == value


class TimePlace(Part):
    """A time in an item: RFC 3339, or seconds or milliseconds since 1970."""

    at: Pointer
    as_: Literal["rfc3339", "seconds", "milliseconds"] = Field("rfc3339", alias="as")


def _time_place(value: object) -> object:
    return {"at": value} if isinstance(value, str) else value


_Time = Annotated[TimePlace, BeforeValidator(_time_place, json_schema_input_type=Pointer | TimePlace)]


class Fields(Part):
    """The places in a job of what the relay reads.

    id               its id
    action, channel  what it does, and where: jobs of one action and channel take about equally long, which decides
                     when to poll
    attempt_count    how often it was tried
    scheduled_at     when it is to start
    started_at       when it started
    finished_at      when it ended; the event's time
    next_attempt_at  when it is tried again
    """

    id: Pointer | None = None
    action: Pointer | None = None
    channel: Pointer | None = None
    attempt_count: Pointer | None = None
    scheduled_at: _Time | None = None
    started_at: _Time | None = None
    finished_at: _Time | None = None
    next_attempt_at: _Time | None = None


class ProgressFields(Part):
    """How far a job says that it is.

    percent      from 0 to 100
    fraction     from 0 to 1
    done, total  so many parts of so many
    stage        a word for what it does now
    position     its place in a queue
    events       true: its changes are events `….progress`, at once for another stage and else at most one a minute
    """

    percent: Pointer | None = None
    fraction: Pointer | None = None
    done: Pointer | None = None
    total: Pointer | None = None
    stage: Pointer | None = None
    position: Pointer | None = None
    events: StrictBool = False

    @model_validator(mode="after")
    def _check(self) -> "ProgressFields":
        if self.events and all(one is None for one in (self.percent, self.fraction, self.done, self.stage)):
            raise ValueError("events: nothing to tell: name `percent`, `fraction`, `done` or `stage`")
        return self

    @property
    def places(self) -> tuple[tuple[str, ...] | None, ...]:
        """Every place; None for one that is not given."""
        return (self.percent, self.fraction, self.done, self.total, self.stage, self.position)


class ProblemFields(Part):
    """Where a job says why it failed.

    at         the problem; the other places begin there. A text there is the message
    code       a word for programs, which hints are found by
    message    a sentence for people
    retryable  whether the upstream says that trying again can help
    """

    at: Pointer
    code: Pointer = ("code",)
    message: Pointer = ("message",)
    retryable: Pointer | None = None


class ResultFields(Part):
    """Where a job holds its result, once it has succeeded.

    at                  the result; the other places begin there
    status              how it succeeded, such as accepted or skipped
    connect_account_id  the account that it was sent from
    shown               the places that an event keeps if the job is too large for it
    """

    at: Pointer
    status: Pointer | None = None
    connect_account_id: Pointer | None = None
    shown: tuple[Pointer, ...] = ()


class RecipientPlaces(Part):
    """The places of each part of the recipient: the first one with a text counts. Read for `proxy.capture` only.

    address      an e-mail address
    profile_url  the address of a profile
    phone        a telephone number
    """

    address: tuple[Pointer, ...] = ()
    profile_url: tuple[Pointer, ...] = ()
    phone: tuple[Pointer, ...] = ()


class RequestFields(Part):
    """The places in a create's body of what the relay reads.

    spacing_seconds     shortest time to the job before it in its channel
    channel             of the job
    metadata            the caller's own data, which every event of the job then has
    connect_account_id  the account to send from
    recipient           whom the job is for
    """

    spacing_seconds: Pointer | None = None
    channel: Pointer | None = None
    metadata: Pointer | None = None
    connect_account_id: Pointer | None = None
    recipient: RecipientPlaces = RecipientPlaces()


class Create(Part):
    """A request that makes a job.

    path        may have names in braces: `{name}` stands for one segment, `{+name}` for several
    methods     of such requests. Default: POST
    id          where its answer has the job's id; default: where the job has it, else in its address
    location    the header with the job's address, which ends with the id
    status_url  where its answer has the address at which the job is read
    optional    an answer that names no job means that there is none. Default: the outcome is unknown
    """

    path: _Pattern
    methods: Annotated[frozenset[Literal["POST", "PUT", "PATCH", "DELETE"]], Field(min_length=1)] = frozenset({"POST"})
    id: Pointer | None = None
    location: _Header | None = None
    status_url: Pointer | None = None
    optional: bool = False


def _create(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


def _distinct(states: tuple[Rule, ...]) -> tuple[Rule, ...]:
    faults: list[tuple[Loc, str]] = []
    first: dict[object, int] = {}
    for place, rule in enumerate(states):
        before = min((first[one] for one in (*rule.matches, *rule.within) if one in first), default=None)
        for one in rule.matches:
            first.setdefault(one, place)
        if before is not None:
            faults.append(((place,), f"can never match, or not all of it: states.{before} matches first"))
    if TERMINAL.isdisjoint(rule.state for rule in states):
        faults.append(((), "no rule ends a job (succeeded, failed or cancelled)"))
    if faults:
        raise Faults(faults)
    return states


class Resource(Part):
    """Jobs of one kind.

    type_prefix  of their events, as a reversed domain name
    succeeded_as  the last word of the type of a success
    source_path  the CloudEvents source of their events is the base URL with this path
    method      of a read
    path        a read of it shows one job; the id stays one segment at `{id}`, and may have slashes at `{+id}`
    status_paths  paths that a registration may name, by a `status_url` or by an id with slashes, which needs some;
                without one, only answers of the upstream give addresses. `{name}` stands for one segment, `{+name}` for
                several
    follows     headers of an answer that name the address at which the job is read from then on, the first one first;
                the last of several only if the status of the answer tells the state, else it names the result
    wait        how a read waits for a change
    min_interval_seconds  the documented shortest time between two reads of one job
    etag        a read with the last answer's ETag costs nothing while nothing changed
    creates     requests that make a job, by their paths
    item        where an answer holds the job; the places below begin there
    status      where it names its state; shown while no rule matches
    states      the first rule that matches gives the state; without one the job is open
    result_url  where a finished job has the address of its result, which becomes the event's data
    addresses   where the job has addresses of the upstream, which clients follow: the drop-in gives these, and those of
                headers such as `Location`, as its own
    fields      what the relay reads of a job
    problem     why it failed
    result      what came of it
    progress    how far it is
    request     what the relay reads of a create's body
    """

    type_prefix: Annotated[str, Field(pattern=re.compile(rf"^{JOB_PREFIX}$(?!\n)"))]
    succeeded_as: Literal["succeeded", "completed"] = "succeeded"
    source_path: _Path
    path: Annotated[str, Field(pattern=r"^/[!-~]*\{\+?id\}[!-~]*$"), AfterValidator(_with_id)]
    method: Literal["GET", "POST"] = "GET"
    status_paths: tuple[_Pattern, ...] = ()
    follows: tuple[_Header, ...] = ()
    wait: LongPoll | None = None
    min_interval_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None
    etag: bool = False
    creates: tuple[Annotated[Create, BeforeValidator(_create, json_schema_input_type=_RawPath | Create)], ...] = ()
    item: Pointer = ()
    status: Pointer
    states: Annotated[tuple[Rule, ...], Field(min_length=1), AfterValidator(_distinct)]
    fields: Fields
    problem: ProblemFields | None = None
    result: ResultFields | None = None
    progress: ProgressFields | None = None
    result_url: Pointer | None = None
    addresses: tuple[Pointer, ...] | None = None
    request: RequestFields = RequestFields()

    @model_validator(mode="after")
    def _check(self) -> "Resource":
        faults: list[tuple[Loc, str]] = []
        places = (self.fields.id, self.follows)
        if not any(places) and not all(one.id or one.location or one.status_url for one in self.creates):
            words = "nothing says where the job's id is: `fields.id`, or `id`, `location` or `status_url` of each"
            faults.append((("creates",), words))
        if self.has_paths_as_ids and not self.status_paths:
            faults.append((("path",), "with {+id} an id can name any path: list those of jobs in `status_paths`"))
        if self.etag and self.statuses:
            faults.append((("etag",), "an answer 304 does not tell the status that a rule with `http` needs"))
        if faults:
            raise Faults(faults)
        return self

    @cached_property
    def read_fields(self) -> tuple[tuple[str, ...], ...]:
        """The places in an item that the relay reads."""
        fields, problem = self.fields, self.problem
        times = (fields.scheduled_at, fields.started_at, fields.finished_at, fields.next_attempt_at)
        places: Iterable[tuple[str, ...] | None] = (
            *(fields.id, self.status, fields.action, fields.channel, fields.attempt_count),
            *(None if time is None else time.at for time in times),
            *(() if self.progress is None else self.progress.places),
        )
        result = self.result
        shown = () if result is None else tuple((*result.at, *names) for names in result.shown)
        of_problem: tuple[tuple[str, ...], ...] = ()
        if problem is not None:
            inner = ((), problem.code, problem.message, problem.retryable)
            of_problem = tuple((*problem.at, *names) for names in inner if names is not None)
        return (*(place for place in (*places, *of_problem) if place), *shown)

    def address_of(self, create: Create, answer: Any, headers: Mapping[str, str]) -> str | None:
        """The address at which a job is read, in the answer to its create; None if it names none. It may be one that is
        on no listed origin. `headers`: names lower-cased."""
        found = None if create.status_url is None else at(answer, create.status_url)
        if isinstance(found, str) and found:
            return found
        names = (*self.follows, *(() if create.location is None else (create.location,)))
        return next((headers[name] for name in names if headers.get(name)), None)

    def address_with_id(self, create: Create, answer: Any, headers: Mapping[str, str]) -> str | None:
        """The address that has the job's id, in the answer to its create; None if the id is elsewhere, or there is no
        address. Arguments as for `address_of`."""
        if create.location is not None:
            return headers.get(create.location)
        return self.address_of(create, answer, headers) if create.id is None and self.fields.id is None else None

    @cached_property
    def has_addresses(self) -> bool:
        """True if its jobs can have addresses of their own, at which they are read."""
        given = self.follows or self.status_paths
        return bool(given) or any(one.status_url or one.location for one in self.creates)

    @property
    def has_paths_as_ids(self) -> bool:
        """True if an id may have slashes, and so name another path."""
        return "{+id}" in self.path

    def may_be_at(self, path: str) -> bool:
        """True if a registration may name this path, however often a server decodes it."""
        while any(_pattern(one).fullmatch(path) for one in self.status_paths):
            decoded = unquote(path)
            if decoded == path:
                return True
            path = decoded
        return False

    @cached_property
    def statuses(self) -> frozenset[int]:
        """The statuses of answers that prove a state by themselves."""
        return frozenset(status for rule in self.states for status in rule.http or ())

    def rule_of(self, item: Any, status_code: int = 200) -> Rule | None:
        """The rule that the answer to a read matches first; None: the job is open."""
        for rule in self.states:
            if rule.holds(item, status_code):
                return rule
        return None

    def needs_status(self, item: Any) -> bool:
        """True if the item does not tell the job's state without the status of the answer that had it."""
        return next((rule.at is None for rule in self.states if rule.at is None or rule.holds(item, 0)), False)

    def read_at(self, path: str, query: str) -> tuple[str, str] | None:
        """The percent-encoded id of the job that this address shows, and what the query has beside; None if it shows
        none."""
        before, _, own = self.path.partition("?")
        id = self.job_id_of(path)
        if not own:
            return None if id is None else (id, query)
        if id is None and path != before:
            return None
        left = query.split("&")
        for part in own.split("&"):
            start, is_id, _ = part.partition("{id}")
            given = next((one for one in left if (one.startswith(start) if is_id else one == part)), None)
            if given is None or (is_id and given == start):
                return None
            left.remove(given)
            id = given[len(start) :] if is_id else id
        return None if id is None else (id, "&".join(left))

    def create_at(self, path: str, method: str | None = None) -> Create | None:
        """The create that a request to this path is; None if it makes no job. `method`: of the request; None: any."""
        found = (one for one in self.creates if method is None or method in one.methods)
        return next((one for one in found if _pattern(one.path).fullmatch(path)), None)

    def id_at(self, address: str) -> str | None:
        """The id of the job at an address: where the path of a read has it, below whatever base; else the last segment;
        None if the address has neither."""
        try:
            path = urlsplit(address).path
        except ValueError:
            return None
        if len(address) > MAX_ADDRESS_CHARACTERS:
            return None
        ends = (path[place:] for place, character in enumerate(path) if character == "/")
        found = next(filter(None, map(self.job_id_of, ends)), None)
        return unquote(found or path.rstrip("/").rpartition("/")[2]) or None

    def job_id_of(self, path: str) -> str | None:
        """The percent-encoded job id in this path; None for any other path."""
        found = _pattern(self.path).fullmatch(path)
        return None if found is None else found.groupdict().get("id")


@lru_cache(maxsize=256)
def _pattern(path: str) -> re.Pattern[str]:
    """The pattern of the path, whose `{id}` is the group `id`, if the query does not have it. `{name}` stands for one
    segment, `{+name}` for several."""
    return re.compile(_ESCAPED_NAME.sub(_stands_for, re.escape(path.partition("?")[0])))


def _stands_for(name: re.Match[str]) -> str:
    text = r"[^\\?#]+" if name[1] else r"[^/\\?#]+"
    return f"(?P<id>{text})" if name[2] == "id" else text


class ConnectAccounts(Part):
    """The listing of the accounts that jobs are sent from.

    source_path  the CloudEvents source of their events is the base URL with this path
    path         a GET lists them
    items        where the answer has the list; the places below begin at each of them
    id           its id, as jobs name it
    channel      such as email
    name         for people
    status       a word for its state
    can_send     false: it cannot, whatever its status
    states       what each status means: ok, needs_reconnect or cannot_send
    """

    source_path: _Path
    path: _Path
    items: Pointer
    id: Pointer
    channel: Pointer
    name: Pointer
    status: Pointer
    can_send: Pointer
    states: Mapping[str, str]

    @model_validator(mode="after")
    def _check(self) -> "ConnectAccounts":
        if not set(self.states.values()) <= set(LISTED_STATES):
            raise ValueError(f"states must map to {', '.join(LISTED_STATES)}")
        return self


class Credits(Part):
    """The call that tells what an account has left to spend.

    path       a GET of it
    available  the places of the number: the first one with a value counts
    """

    path: _Path
    available: Annotated[tuple[Pointer, ...], Field(min_length=1)]


_OWN_PATHS = ("/v1/", "/ui/", "/sources/", "/schemas/", "/.well-known/")
"""The relay's own at the root, where its API asks for a token."""


def _not_own(prefix: str) -> str:
    if not prefix.endswith("/"):
        raise ValueError(f"{prefix} is no prefix of whole segments: end it with a slash")
    if any(prefix.startswith(own) or own.startswith(prefix) for own in _OWN_PATHS):
        raise ValueError(f"{prefix} has paths of the relay itself: leave it out, all paths are below /sources/NAME/")
    return prefix


class SourceDefinition(Part):
    """One upstream API.

    version           of this format
    title             the upstream's name, in texts for people
    documentation     where the upstream documents it
    seen              false: written from the documentation alone
    base_url          default of the setting; without it that has to be set
    origins           where requests may go besides the base URL: addresses that answers give
    base_path         optional suffix of a base URL; `root` removes it
    credential        how the API key is sent
    send_headers      fixed headers of every request
    answer            what every answer has
    error             what an error answer has
    headers           response headers with limits and pauses
    limit             applies where no header tells one
    probe             path of a cheap GET that answers 2xx if the key works; without one, polls of jobs show it
    passed            path prefixes that the drop-in forwards at the root; all paths are below /sources/NAME
    resources         by name; a registration that names none means the first
    connect_accounts  without it they are not watched
    credits           without it the setting `credits_low` is refused
    """

    version: Literal[2]
    name: str
    title: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,100}$")]
    documentation: str = ""
    seen: bool = True
    base_url: _Url | None = None
    origins: tuple[_Url, ...] = ()
    base_path: _Path = "/"
    credential: Credential
    send_headers: Annotated[
        Mapping[_HeaderName, Annotated[str, Field(pattern=r"^[ -~]+$")]], AfterValidator(_headers)
    ] = Field(default_factory=dict)
    answer: Answer = Answer()
    error: ErrorFields = ErrorFields()
    headers: HeaderNames = HeaderNames()
    limit: Limit | None = None
    probe: _Path | None = None
    passed: frozenset[Annotated[_Path, AfterValidator(_not_own)]] = frozenset()
    resources: Annotated[Mapping[_Name, Resource], Field(min_length=1)]
    connect_accounts: ConnectAccounts | None = None
    credits: Credits | None = None
    hints: Hints

    @model_validator(mode="after")
    def _check(self) -> "SourceDefinition":
        owner: dict[str, str] = {}
        faults: list[tuple[Loc, str]] = []
        for name, resource in self.resources.items():
            paths = (resource.path, *(one.path for one in resource.creates))
            taken = [path for path in paths if owner.setdefault(path, name) != name]
            faults += [(("resources", name), f"the path {path} belongs to resources.{owner[path]}") for path in taken]
            if self._has_key(resource.path):
                faults.append((("resources", name, "path"), _KEY_HERE))
        if self.probe is not None and self._has_key(self.probe):
            faults.append((("probe",), _KEY_HERE))
        if faults:
            raise Faults(faults)
        return self

    def _has_key(self, path: str) -> bool:
        """True if the path has the parameter that the key is sent in."""
        query, name = path.partition("?")[2], self.credential.query
        return name is not None and without_parameter(query, name) != query

    @property
    def resource(self) -> Resource:
        """The first one."""
        return next(iter(self.resources.values()))

    def resource_of(self, key: str) -> Resource:
        """The resource with this key, which jobs store. The first one for "", and for one that the definition no longer
        has: such jobs are shown, but not polled."""
        return self.resources.get(key) or self.resource

    def lacks(self, key: str) -> bool:
        """True if a job that stores this key is of a resource that the definition no longer has."""
        return key != "" and key not in self.resources

    def key_of(self, name: str) -> str:
        """The key of a resource by its name: "" for the first one."""
        return "" if name == next(iter(self.resources)) else name

    @cached_property
    def keyed(self) -> tuple[tuple[str, Resource], ...]:
        """Each resource with its key."""
        return tuple((self.key_of(name), resource) for name, resource in self.resources.items())

    def created_by(self, path: str, method: str = "POST") -> str | None:
        """The key of the resource of which a request to this path makes a job; None if it makes none."""
        for key, resource in self.keyed:
            if resource.create_at(path, method) is not None:
                return key
        return None

    def read_by(self, path: str, query: str = "") -> tuple[str, str, str] | None:
        """The key of a resource, the percent-encoded id of its job that a GET of this path reads, and what the query
        has beside; None if it reads none."""
        for key, resource in self.keyed:
            if (found := resource.read_at(path, query)) is not None:
                return key, *found
        return None

    def root(self, base_url: str) -> str:
        """The base URL to append this definition's paths to."""
        return base_url.rstrip("/").removesuffix(self.base_path.rstrip("/")).rstrip("/")

    def event_origins(self, base_url: str, dataschema: str) -> dict[str, Origin]:
        """The attributes shared by all events of a resource, by its key. `dataschema`: of job events."""
        root, listed = self.root(base_url), self.connect_accounts
        return {
            key: Origin(
                source=root + resource.source_path,
                type_prefix=resource.type_prefix,
                succeeded_as=resource.succeeded_as,
                tells_progress=resource.progress is not None and resource.progress.events,
                dataschema=dataschema,
                account_source=None if listed is None else root + listed.source_path,
                title=self.title,
            )
            for key, resource in self.keyed
        }

    def job_url(self, base_url: str, external_id: str, resource: str = "") -> str:
        """The URL of one job. Any id stays a single path segment."""
        path = self.resource_of(resource).path
        if "{+id}" in path:
            return self.root(base_url) + path.replace("{+id}", "/".join(map(_segment, external_id.split("/"))))
        return self.root(base_url) + path.replace("{id}", _segment(external_id))

    def address(self, base_url: str, text: object) -> tuple[str, bool] | None:
        """The URL of an address that an answer gives, and True if it is below the base URL. None: it is no address, or
        on no listed origin."""
        root = self.root(base_url)
        if not isinstance(text, str) or len(text) > MAX_ADDRESS_CHARACTERS or not _ADDRESS.fullmatch(text):
            return None
        url = f"{root}{text}" if text.startswith("/") else text
        base = self._base_of(url, root)
        if base is None or path_refusal(urlsplit(url).path.encode(), ("/",)) is not None:
            return None
        return url, base == root

    def may_name(self, base_url: str, url: str, resource: str) -> bool:
        """True if a registration of a resource may name this URL, of an address or of an id."""
        base = self._base_of(url, self.root(base_url))
        below = "" if base is None else urlsplit(url).path[len(urlsplit(base).path.rstrip("/")) :]
        return self.resource_of(resource).may_be_at(below)

    def _base_of(self, url: str, root: str) -> str | None:
        """The base URL or the listed origin that the URL is below."""
        for base in (root, *self.origins):
            if _scheme(url) == _scheme(base) and _is_below(url, base):
                return base
        return None

    def auth_headers(self, api_key: str) -> dict[str, str]:
        """The header that carries the key."""
        way = self.credential
        if way.basic is not None:
            return {"Authorization": f"Basic {self.secrets_of(api_key)[0]}"}
        return {} if way.header is None else {way.header: way.format.replace("{key}", api_key)}

    def secrets_of(self, api_key: str) -> Sequence[str]:
        """The key in each form in which a request has it, the longest first."""
        basic = self.credential.basic
        if basic is None:
            return (api_key,)
        return b64encode(basic.replace("{key}", api_key).encode()).decode(), api_key

    def with_key(self, url: str, api_key: str) -> str:
        """The URL with the key, if it is sent there: in place of one that an address of the upstream has."""
        name = self.credential.query
        if name is None:
            return url
        before, mark, query = url.partition("?")
        left = without_parameter(query, name)
        return _with_parameter(f"{before}{mark}{left}" if left else before, name, api_key)

    def answer_body(self, item: Mapping[str, Any], request_id: str, resource: str = "") -> bytes:
        """The answer to a job read in the upstream's shape."""
        return dumps(document_of([*self._common(request_id, is_ok=True), (self.resource_of(resource).item, item)]))

    def error_body(self, code: str, message: str, request_id: str) -> bytes:
        """An error in the upstream's shape."""
        names = self.error
        found = [((*names.at, *names.code), code), ((*names.at, *names.message), message)]
        if names.request_id is not None:
            found.append(((*names.at, *names.request_id), request_id))
        return dumps(document_of([*self._common(None, is_ok=False), *found]))

    def _common(self, request_id: str | None, *, is_ok: bool) -> list[tuple[Sequence[str], Any]]:
        """What an answer of the upstream has beside the item or the error."""
        found: list[tuple[Sequence[str], Any]] = []
        ok = self.answer.ok
        if ok is not None and (is_ok or isinstance(ok.is_, bool)):
            found.append((ok.at, ok.is_ if is_ok else not ok.is_))
        if request_id is not None and self.answer.request_id is not None:
            found.append((self.answer.request_id, request_id))
        return found

    def hint_for(self, problem: Problem | None, kind: str, channel: str | None = None) -> Hint | None:
        """The hint for an event of `kind` (a JOB_EVENTS member) or a failed poll (POLL); None if nothing is wrong.

        `problem` is the Observation's, `channel` the job's.
        """
        return self.hints.find(problem, kind, channel, title=self.title, source=self.name)


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _is_below(url: str, base: str) -> bool:
    try:
        return is_within(url, base)
    except ValueError:  # its port is none
        return False


def _with_parameter(url: str, name: str, value: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{name}={quote(value, safe='')}"


def _segment(text: str) -> str:
    segment = quote(text, safe="", errors="replace")
    return segment if segment.strip(".") else segment.replace(".", "%2E")  # URL libraries resolve a bare dot segment


def presets(directory: Path | None = None) -> tuple[str, ...]:
    """The names of the available definitions."""
    folders = (file.parent.name for file in (directory or Path(__file__).parent).glob("*/definition.yaml"))
    return tuple(sorted(name for name in folders if _PRESET.fullmatch(name)))


def load_definition(preset: str, *, name: str = "", directory: Path | None = None) -> SourceDefinition:
    """The definition in a preset, with its hints. `name`: of the source in the settings; default: the preset's.
    `directory` defaults to the shipped presets.

    Raises SettingsError that names the file, the line and the key.
    """
    directory = directory or Path(__file__).parent
    known = presets(directory)
    if preset not in known:
        raise SettingsError(f"there is no preset {preset!r:.70}: {', '.join(known) or 'none is there'}")
    document = read_document(directory / preset / "definition.yaml", f"{preset}/definition.yaml")
    own_hints = directory / preset / "hints.yaml"
    hints = read_document(own_hints, f"{preset}/hints.yaml") if own_hints.exists() else None
    return definition_in(document, name or preset, hints)


def definition_in(document: Document, name: str, hints: Document | None = None) -> SourceDefinition:
    """The definition in a file. `name`: of the source in the settings. `hints`: of a file beside it; else those of its
    section `hints`. Its section ANSWERS is for the sandbox.

    Raises SettingsError with a line for each fault, which names the file, the line and the key.
    """
    values = {key: value for key, value in document.values.items() if key != ANSWERS}
    own = values.get("hints", {}) if hints is None else hints.values
    merged = _with_general(own) if isinstance(own, dict) else own
    try:
        found = SourceDefinition.model_validate({**values, "name": name, "hints": merged})
        errors = []
    except ValidationError as error:
        errors = error.errors(include_url=False)
    if "name" in values:  # the settings give it
        errors.append({"type": "extra_forbidden", "loc": ("name",), "msg": "", "input": None})
    of_hints = [] if hints is None else [one for one in errors if one["loc"][:1] == ("hints",)]
    faults = document.faults((one for one in errors if one not in of_hints), _names())
    if hints is not None:
        faults += hints.faults(({**one, "loc": one["loc"][1:]} for one in of_hints), _names())
    if faults:
        raise refused(faults)
    return found


def _with_general(hints: Mapping[str, Any]) -> dict[str, Any]:
    """A source's hints, over those of every source."""
    found = dict(_general())
    for name, value in hints.items():
        both = isinstance(value, dict) and isinstance(found.get(name), dict) and name in _SECTIONS
        found[name] = {**found[name], **value} if both else value
    return found


@cache
def _general() -> Mapping[str, Any]:
    return read_document(Path(__file__).parent / "hints.yaml", "hints.yaml").values


_SECTIONS = frozenset({"channels", "codes", "patterns", "polls", "kinds"})


@cache
def _names() -> frozenset[str]:
    """Every key of a definition."""
    parts, names = [Part], set()
    while parts:
        part = parts.pop()
        parts += part.__subclasses__()
        names |= {field.alias or name for name, field in part.model_fields.items()}
    return frozenset(names - {"name"})
