"""Matches events to subscriptions: by type, source and account, and by the filters of the subscription.

Filters: CloudEvents Subscriptions API 0.1, §3.2.4 (all of them must be true), and the dialect `cel`, whose expressions
`relay/expressions` compiles. A filter whose expression fails is false, as the specification has it for `sql`.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import orjson

from relay.core.events import (
    NOT_IN_ATTRIBUTES,
    RELAY_EVENTS,
    account_event_types,
    canonical,
    job_event_types,
)
from relay.core.jsontext import dumps, loads
from relay.core.subscription import Subscription
from relay.errors import FieldError

COMPARED: Mapping[str, Callable[[str, str], bool]] = {
    "exact": str.__eq__,
    "prefix": str.startswith,
    "suffix": str.endswith,
}
"""Dialects that compare attributes with texts."""
DIALECTS = (*COMPARED, "all", "any", "not", "cel")
ATTRIBUTES = (
    *("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"),
    *("sequence", "partitionkey", "account", "channel", "group", "action", "status", "previousstatus", "resultstatus"),
)
"""The attributes that events of the relay have."""

ATTRIBUTE_NAME = re.compile(r"[a-z0-9]{1,64}", re.ASCII)
"""Names of attributes that other programs publish. The relay's own have at most 20 characters."""
FREE_TYPE = re.compile(r"(?!\.)(?!.*\.\.)[!-~]{1,200}(?<!\.)", re.ASCII)
"""The form of a type that other programs publish."""
RELAY_PREFIX = "relay."
UPSTREAM_PREFIX = "ai.revor"
"""Reserved with or without a source of that name: nothing else may speak for it."""
_MISSPELT = 0.9
"""From this likeness on, a type is a known one misspelt."""

MAX_FILTERS = 100
"""Filters of one subscription, nested ones included."""
MAX_FILTER_LEVELS = 8
MAX_EXPRESSIONS = 10
"""Expressions of one subscription: each takes milliseconds to compile."""
MAX_COMPARED = 20
"""Attributes in one filter."""
MAX_OPERAND_CHARACTERS = 1_024
MAX_FILTER_ERRORS = 20
MAX_EVALUATION_SECONDS = 0.025
"""Estimated time for the expressions of one subscription and one event."""
_DIFFERS = {"exact": "not", "prefix": "which does not begin with", "suffix": "which does not end with"}
_MAX_TOLD = 3
"""Filters of an `any` that an explanation goes through."""
_TOLD_CHARACTERS = 60
_NO_VALUE_HAS_IT = "no attribute contains control characters, surrogates or noncharacters"

FailureReason = Literal["missing", "wrong_type", "too_costly", "unavailable", "other"]


class EventView:
    """An event as filters read it.

    attributes  its CloudEvents attributes
    data        its data; None if it has none
    body        the event in JSON
    prepared    what an expression language has made of it, for the next expression of that language
    limit_seconds  estimated time that one expression may take
    """

    __slots__ = ("attributes", "body", "data", "limit_seconds", "prepared")

    def __init__(self, body: bytes) -> None:
        attributes: dict[str, Any] = loads(body)
        self.data: Any = attributes.pop("data", None)
        attributes.pop("data_base64", None)
        self.attributes: Mapping[str, Any] = attributes
        self.body = body
        self.prepared: Any = None
        self.limit_seconds = MAX_EVALUATION_SECONDS


class ExpressionRefused(ValueError):
    """An expression is not allowed. `code` is one of `errors[]` of the HTTP API."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class ExpressionFailed(ValueError):
    """An expression has no result for an event."""

    def __init__(self, reason: FailureReason, detail: str) -> None:
        super().__init__(detail)
        self.reason: FailureReason = reason


class FiltersRefused(ValueError):
    """Filters are not allowed. `errors`: what is wrong where, with JSON pointers that begin at the list of filters."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{error.pointer}: {error.detail}" for error in errors))
        self.errors = tuple(errors)


Expression = Callable[[EventView], bool]
"""A compiled expression. Raises ExpressionFailed."""
Compile = Callable[[str], Expression]
"""Compiles an expression. Raises ExpressionRefused."""


class _Filter(NamedTuple):
    """One filter object. `operands` belong to the dialects in COMPARED, `parts` to all, any and not."""

    pointer: str
    dialect: str
    operands: tuple[tuple[str, str], ...] = ()
    parts: tuple["_Filter", ...] = ()
    expression: Expression | None = None


class Filters:
    """The filters of a subscription. Equal only to itself, so that results can be kept by it.

    expressions  the number of expressions in them
    """

    __slots__ = ("_filters", "expressions")

    def __init__(self, filters: Sequence[_Filter], expressions: int = 0) -> None:
        self._filters = tuple(filters)
        self.expressions = expressions

    def passes(
        self,
        view: EventView,
        failed: Callable[[ExpressionFailed], object] = lambda failure: None,
        limit_seconds: float = MAX_EVALUATION_SECONDS,
    ) -> bool:
        """True if they let the event through.

        failed         is told of each expression that fails
        limit_seconds  estimated time that all expressions together may take: each gets the same part of it
        """
        view.limit_seconds = limit_seconds / max(self.expressions, 1)
        return all(_is_true(one, view, failed) for one in self._filters)

    def why_not(self, view: EventView) -> str | None:
        """Which filter is false and why, such as `exact /filters/0: channel is "email", not "linkedin"`; None if none
        is."""
        view.limit_seconds = MAX_EVALUATION_SECONDS / max(self.expressions, 1)
        return next(filter(None, (_why_false(one, view) for one in self._filters)), None)


def parse_filters(documents: object, expression: Compile, pointer: str = "/filters") -> Filters:
    """Filters as a user wrote them. `expression` compiles those of the dialect `cel`. Raises FiltersRefused."""
    return _Parser(expression).read(documents, pointer)


def unavailable(reason: str) -> Filters:
    """Filters that let nothing through, because this node cannot evaluate them."""

    def fails(view: EventView) -> bool:
        raise ExpressionFailed("unavailable", reason)

    return Filters([_Filter("/filters", "cel", expression=fails)])


def explain_filters(filters: Filters | None, body: bytes) -> str | None:
    """Why filters do not let an event through; None if they do. `body`: the event's."""
    return None if filters is None else filters.why_not(EventView(body))


def filters_key(documents: Sequence[Mapping[str, Any]]) -> bytes:
    """The same for filters that are the same JSON."""
    return dumps(documents, orjson.OPT_SORT_KEYS)


def attribute_problem(name: str) -> tuple[str, str] | None:
    """What is wrong with an attribute's name, as the code and the detail of an error; None: nothing.

    An attribute that no event has at present is allowed, unless it looks like a misspelt one: such a filter would never
    be true, and nobody would notice.
    """
    if name in ATTRIBUTES:
        return None
    near = difflib.get_close_matches(name.lower()[:100], ATTRIBUTES, n=1, cutoff=0.85)
    if ATTRIBUTE_NAME.fullmatch(name) and name != "data" and not near:
        return None
    hint = f": did you mean {near[0]!r}?" if near else ""
    if name == "data" or "." in name:
        hint = ": use the dialect cel for what is in the event's data"
    return "unknown_attribute", f"{name[:100]!r} is not an attribute{hint}"


class _Parser:
    """Reads filters and collects what is wrong with them."""

    def __init__(self, expression: Compile) -> None:
        self._compile = expression
        self._errors: list[FieldError] = []
        self._count = 0
        self._expressions = 0

    def read(self, documents: object, pointer: str) -> Filters:
        if not isinstance(documents, list | tuple):
            raise FiltersRefused([FieldError(pointer=pointer, code="wrong_type", detail="a list is expected")])
        found = self._several(documents, pointer, 1)
        if self._errors:
            raise FiltersRefused(self._errors)
        return Filters(found, self._expressions)

    def _refuse(self, pointer: str, code: str, detail: str) -> None:
        self._errors.append(FieldError(pointer=pointer, code=code, detail=detail))

    def _several(self, documents: Sequence[object], pointer: str, level: int) -> list[_Filter]:
        if len(documents) > MAX_FILTERS:
            self._refuse(pointer, "too_long", f"at most {MAX_FILTERS} filters are allowed")
            return []
        found = []
        for place, document in enumerate(documents):
            one = self._one(document, f"{pointer}/{place}", level)
            if one is not None:
                found.append(one)
            if len(self._errors) >= MAX_FILTER_ERRORS:
                break
        return found

    def _one(self, document: object, pointer: str, level: int) -> _Filter | None:
        self._count += 1
        if self._count > MAX_FILTERS:
            if self._count == MAX_FILTERS + 1:
                self._refuse(pointer, "too_long", f"at most {MAX_FILTERS} filters are allowed, nested ones included")
            return None
        if level > MAX_FILTER_LEVELS:
            self._refuse(pointer, "too_long", f"filters may be nested {MAX_FILTER_LEVELS} levels deep")
            return None
        if not isinstance(document, Mapping):
            self._refuse(pointer, "wrong_type", 'an object such as {"exact": {"channel": "linkedin"}} is expected')
            return None
        if len(document) != 1:
            self._refuse(pointer, "invalid", f"one dialect is expected, not {len(document)}: use a filter for each")
            return None
        ((dialect, operand),) = document.items()
        inner = f"{pointer}/{_escaped(dialect)}"
        if dialect in COMPARED:
            return self._comparison(pointer, inner, dialect, operand)
        if dialect in ("all", "any"):
            return self._group(pointer, inner, dialect, operand, level)
        if dialect == "not":
            part = self._one(operand, inner, level + 1)
            return None if part is None else _Filter(pointer, dialect, parts=(part,))
        if dialect == "cel":
            return self._expression(pointer, inner, operand)
        near = difflib.get_close_matches(str(dialect).lower()[:100], DIALECTS, n=1, cutoff=0.5)
        hint = f": did you mean {near[0]!r}?" if near else f": use one of {', '.join(DIALECTS)}"
        self._refuse(inner, "unknown_dialect", f"{str(dialect)[:100]!r} is not a dialect of filters{hint}")
        return None

    def _group(self, pointer: str, inner: str, dialect: str, operand: object, level: int) -> _Filter | None:
        if not isinstance(operand, list | tuple):
            self._refuse(inner, "wrong_type", "a list of filters is expected")
        elif not operand:
            self._refuse(inner, "too_short", "at least one filter is expected")
        else:
            return _Filter(pointer, dialect, parts=tuple(self._several(operand, inner, level + 1)))
        return None

    def _comparison(self, pointer: str, inner: str, dialect: str, operand: object) -> _Filter | None:
        if not isinstance(operand, Mapping):
            self._refuse(inner, "wrong_type", 'an object of attributes such as {"channel": "linkedin"} is expected')
            return None
        if not 1 <= len(operand) <= MAX_COMPARED:
            code = "too_long" if operand else "too_short"
            self._refuse(inner, code, f"1 to {MAX_COMPARED} attributes are expected")
            return None
        for name, value in operand.items():
            place = f"{inner}/{_escaped(name)}"
            problem = attribute_problem(str(name))
            if problem is not None:
                self._refuse(place, *problem)
            elif not isinstance(name, str):  # YAML has such names
                self._refuse(place, "wrong_type", "a string is expected as the attribute's name")
            elif not isinstance(value, str):
                self._refuse(place, "wrong_type", "a string is expected")
            elif not 1 <= len(value) <= MAX_OPERAND_CHARACTERS:
                code = "too_long" if value else "too_short"
                self._refuse(place, code, f"1 to {MAX_OPERAND_CHARACTERS:,} characters are expected")
            elif NOT_IN_ATTRIBUTES.search(value):
                self._refuse(place, "invalid_text", _NO_VALUE_HAS_IT)
        return _Filter(pointer, dialect, operands=tuple(operand.items()))

    def _expression(self, pointer: str, inner: str, operand: object) -> _Filter | None:
        if not isinstance(operand, str):
            self._refuse(inner, "wrong_type", "a string is expected")
            return None
        self._expressions += 1
        if self._expressions > MAX_EXPRESSIONS:
            self._refuse(inner, "too_long", f"at most {MAX_EXPRESSIONS} expressions are allowed: join them with &&")
            return None
        try:
            return _Filter(pointer, "cel", expression=self._compile(operand))
        except ExpressionRefused as refused:
            self._refuse(inner, refused.code, refused.detail)
            return None


def _escaped(name: object) -> str:
    """One segment of a JSON pointer (RFC 6901)."""
    text = NOT_IN_ATTRIBUTES.sub("\N{REPLACEMENT CHARACTER}", str(name)[:100])
    return text.replace("~", "~0").replace("/", "~1")


def _is_true(one: _Filter, view: EventView, failed: Callable[[ExpressionFailed], object]) -> bool:
    if one.operands:
        return next(_differing(one, view), None) is None
    if one.expression is not None:
        try:
            return one.expression(view)
        except ExpressionFailed as failure:
            failed(failure)
            return False
    results = (_is_true(part, view, failed) for part in one.parts)
    if one.dialect == "not":
        return not next(results)
    return all(results) if one.dialect == "all" else any(results)


def _differing(one: _Filter, view: EventView) -> Iterator[tuple[str, str | None, str]]:
    """The attributes that are not as a filter wants them: name, value and operand."""
    for name, operand in one.operands:
        found = view.attributes.get(name)
        value = None if found is None else canonical(found)
        if value is None or not COMPARED[one.dialect](value, operand):
            yield name, value, operand


def _why_false(one: _Filter, view: EventView) -> str | None:
    """Which filter is false and why; None if this one is true."""
    said = f"{one.dialect} {one.pointer}"
    for name, value, operand in _differing(one, view):
        if value is None:
            return f"{said}: the event has no {name}"
        return f"{said}: {name} is {_quoted(value)}, {_DIFFERS[one.dialect]} {_quoted(operand)}"
    if one.expression is not None:
        try:
            return None if one.expression(view) else f"{said}: the expression is false"
        except ExpressionFailed as failure:
            return f"{said}: {failure}"
    reasons = [_why_false(part, view) for part in one.parts]
    if one.dialect == "not":
        return f"{said}: the filter in it is true" if reasons == [None] else None
    if one.dialect == "any" and None not in reasons:
        told = "; ".join(str(reason) for reason in reasons[:_MAX_TOLD])
        more = f"; and {len(reasons) - _MAX_TOLD} more" if len(reasons) > _MAX_TOLD else ""
        return f"{said}: no filter in it is true ({told}{more})"
    return next(filter(None, reasons), None) if one.dialect == "all" else None


def _quoted(text: str) -> str:
    """A text in double quotes, cut, with what does not print escaped."""
    return dumps(text if len(text) <= _TOLD_CHARACTERS else f"{text[:_TOLD_CHARACTERS]}…").decode()


def matches(
    subscription: Subscription, event_type: str, event_source: str, *, job_event: bool, owner: str | None
) -> bool:
    """True if a subscription gets an event. Types and source match exactly, case included.

    One that belongs to an account gets only events about that account: `owner` is the event's.
    Without types it gets every job event and no others. Callbacks never match here: they get the events
    of the jobs registered with them, which only the store knows.
    """
    if subscription.callback or subscription.owner not in (None, owner):
        return False
    if subscription.source is not None and subscription.source != event_source:
        return False
    return subscription.wants(event_type, job_event=job_event)


def known_types(type_prefixes: Iterable[str]) -> tuple[str, ...]:
    """All event types: the job events of each prefix, those about the relay, the account events of each prefix.

    The order matters where several have the same last word: that word stands for the first of them.
    """
    prefixes = dict.fromkeys(type_prefixes)
    jobs = (name for prefix in prefixes for name in job_event_types(prefix))
    accounts = (name for prefix in prefixes for name in account_event_types(prefix))
    return (*jobs, *RELAY_EVENTS, *accounts)


def full_type(name: str, known: Sequence[str]) -> str | None:
    """The known type with this full name or ending, such as `failed` or `job.failed`; None if there is none."""
    if name in known:
        return name
    return next((one for one in known if one.endswith(f".{name}")), None)


@lru_cache(maxsize=1024)
def is_free_type(name: str, known: tuple[str, ...]) -> bool:
    """True if other programs may publish events of this type: it has a dot, is under no prefix of a known one, and is
    no known one misspelt, its ending alone included."""
    if "." not in name or FREE_TYPE.fullmatch(name) is None or reserved_prefix(name, known) is not None:
        return False
    lower, words = name.lower(), name.count(".") + 1
    endings = {".".join(one.split(".")[-words:]) for one in known}
    return not is_misspelt(lower, endings)


def is_misspelt(name: str, known: Iterable[str]) -> bool:
    """True if a name is so like a known one that it is most likely meant."""
    return bool(difflib.get_close_matches(name, list(known), n=1, cutoff=_MISSPELT))


def reserved_prefix(name: str, known: Iterable[str]) -> str | None:
    """The prefix of known types under which a type is; None if it is under none."""
    of_sources = {f"{one.rpartition('.')[0]}." for one in known if not one.startswith(RELAY_PREFIX)}
    return next(
        (one for one in sorted({RELAY_PREFIX, UPSTREAM_PREFIX, *of_sources}) if name.lower().startswith(one)), None
    )


def wanted_type(name: str, known: Sequence[str]) -> str | None:
    """The type that a name stands for: a known one, by its full name or ending, or a free one. None: it is neither."""
    found = full_type(name, known)
    return name if found is None and is_free_type(name, tuple(known)) else found


def nearest_type(text: str, known: Sequence[str]) -> str | None:
    """The known type that `text` most likely means; None if none is similar.

    An ending such as `failed` or `job.failed` is enough.
    """
    wanted = text.strip().lower().lstrip(".")
    if not wanted:
        return None
    ending = full_type(wanted, known)
    if ending is not None:
        return ending
    last_words = {name.rpartition(".")[2]: name for name in reversed(known)}
    near = difflib.get_close_matches(wanted[:200], known, n=1, cutoff=0.75)
    near_words = difflib.get_close_matches(wanted.rpartition(".")[2][:200], last_words, n=1, cutoff=0.75)
    if near:
        return near[0]
    return last_words[near_words[0]] if near_words else None
