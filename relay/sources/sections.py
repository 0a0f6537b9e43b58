"""The sections of a definition: how an API is called, and where its answers hold what the relay reads."""

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, model_validator

from relay.core.access.forwarding import KeyPlace
from relay.core.jobs.connect_accounts import LISTED_STATES
from relay.core.jobs.job import TERMINAL
from relay.sources.documents import Faults, Loc
from relay.sources.hints import Part
from relay.sources.paths import FixedPath, HeaderName, LowerHeader, PathPattern, Scalar, Url, WithKey, with_parameter
from relay.sources.pointers import Pointer, at

State = Literal["queued", "scheduled", "running", "succeeded", "failed", "cancelled"]


class OAuth(Part):
    """OAuth 2.0 client credentials (RFC 6749, 4.4). The account's key is `CLIENT_ID:CLIENT_SECRET`.

    token_url  where a token is got
    scope      that is asked for
    """

    token_url: Url
    scope: str = ""


class Credential(Part):
    """How the API key is sent, in one way: in a header, in the query, or as HTTP Basic authentication.

    header  the header's name; also for the token of `oauth`
    format  the header's value, as `Bearer {key}`
    query   the parameter's name
    basic   the text that HTTP Basic encodes, as `{key}:`
    oauth   trades the key for a token, which is sent in its place
    """

    header: HeaderName | None = None
    format: WithKey = "{key}"
    query: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    basic: WithKey | None = None
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
    is_: Scalar = Field(alias="is")


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

    limit: LowerHeader | None = None
    remaining: LowerHeader | None = None
    window_ms: LowerHeader | None = None
    reset: LowerHeader | None = None
    account_limit: LowerHeader | None = None
    account_remaining: LowerHeader | None = None
    retry_after: LowerHeader = "retry-after"
    retry_after_ms: LowerHeader | None = None
    request_id: LowerHeader | None = None

    @cached_property
    def limits(self) -> frozenset[str | None]:
        """The headers that tell of an account's or a key's budget."""
        own = (self.limit, self.remaining, self.window_ms, self.reset)
        return frozenset((*own, self.account_limit, self.account_remaining))


class Limit(Part):
    """A documented limit on requests, for an API whose headers do not tell it.

    requests     the number of requests
    per_seconds  in which they may be sent
    """

    requests: Annotated[int, Field(ge=1)]
    per_seconds: Annotated[float, Field(gt=0, le=86_400)]


class LongPoll(Part):
    """How a read asks the upstream to answer only after a change, or after some seconds: a header or a parameter.

    header, query  the header's or the parameter's name: one of the two
    value          of the header or parameter; `{seconds}` is the time
    max_seconds    the longest time that the upstream takes
    """

    header: HeaderName | None = None
    query: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    value: Annotated[str, Field(pattern=r"^[ -~]*\{seconds\}[ -~]*$")] = "{seconds}"
    max_seconds: Annotated[float, Field(gt=0, le=120)]

    @model_validator(mode="after")
    def _check(self) -> "LongPoll":
        if (self.header is None) is (self.query is None):
            raise ValueError("a wait has one of `header` and `query`")
        return self

    def asked(self, url: str, seconds: float) -> tuple[str, dict[str, str]]:
        """The URL and the headers of a request that the upstream may hold, `seconds` at most."""
        value = self.value.replace("{seconds}", f"{seconds:g}")
        if self.query is None:
            return url, {} if self.header is None else {self.header: value}
        return with_parameter(url, self.query, value), {}


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
    is_: Scalar | None = Field(None, alias="is")
    in_: tuple[Scalar, ...] | None = Field(None, alias="in", min_length=1)
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
    def values(self) -> tuple[Scalar, ...]:
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
    done, total  the parts that are done, and all parts
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

    path: PathPattern
    methods: Annotated[frozenset[Literal["POST", "PUT", "PATCH", "DELETE"]], Field(min_length=1)] = frozenset({"POST"})
    id: Pointer | None = None
    location: LowerHeader | None = None
    status_url: Pointer | None = None
    optional: bool = False


def create_of(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


def distinct(states: tuple[Rule, ...]) -> tuple[Rule, ...]:
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

    source_path: FixedPath
    path: FixedPath
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

    path: FixedPath
    available: Annotated[tuple[Pointer, ...], Field(min_length=1)]
