"""Matches events to subscriptions: by type, source and account, and by the filters of the subscription.

Filters follow the CloudEvents Subscriptions API 0.1, §3.2.4 (all of them must be true), with JSON pointers beside
attribute names, and the dialects `in`, `contains`, `range` and `exists`. They are values, whose comparisons are in
`relay/core/subscriptions/comparisons.py`. Filters that cannot be read let every event through: their subscription is
paused, so its events wait.
"""

import difflib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from relay.core.events.event import (
    NOT_IN_ATTRIBUTES,
    RELAY_EVENTS,
    Event,
    Origin,
    account_event_types,
    job_event_kind,
    job_event_types,
)
from relay.core.jsontext import dumps, loads
from relay.core.subscriptions.comparisons import BOUNDS, MISSING, NO_ATTRIBUTES, Comparison, EventView, Path, comparison
from relay.core.subscriptions.subscription import Subscription
from relay.errors import FieldError

COMPARING = ("exact", "prefix", "suffix", "in", "contains", "range", "exists")
"""Dialects that compare places in the event. Each takes an object of attribute names or JSON pointers, each with an
operand."""
DIALECTS = (*COMPARING, "all", "any", "not")
ATTRIBUTES = (
    *("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"),
    *("sequence", "partitionkey", "account", "channel", "group", "action", "status", "previousstatus", "resultstatus"),
)
"""The attributes of the relay's events. All of them are texts."""

ATTRIBUTE_NAME = re.compile(r"[a-z0-9]{1,64}", re.ASCII)
"""Attribute names of published events. The relay's own have at most 20 characters."""
FREE_TYPE = re.compile(r"(?!\.)(?!.*\.\.)[!-~]{1,200}(?<!\.)", re.ASCII)
"""The form of a published event's type."""
RELAY_PREFIX = "relay."
"""Reserved, with or without a source of that name: publishers may not use it."""
_MISSPELT = 0.9
"""Minimum similarity at which a type counts as a known one misspelt."""

MAX_COMPARISONS = 32
"""Maximum comparisons of one subscription."""
MAX_OWNER_COMPARISONS = 2_000
"""Maximum distinct comparisons of all subscriptions of one owner. Bounds the cost of matching one event."""
MAX_FILTER_BYTES = 16_384
"""Maximum bytes of one subscription's filters, as compact JSON."""
MAX_FILTER_LEVELS = 8
MAX_SEGMENTS = 8
"""Maximum segments of a JSON pointer."""
MAX_OPERAND_CHARACTERS = 1_024
MAX_CONTAINED_CHARACTERS = 256
"""Maximum characters of the text that `contains` searches for."""
MAX_POINTER_CHARACTERS = 1_024
MAX_FILTER_ERRORS = 20
REMOVED = "cel"
"""A removed dialect, with expressions in CEL."""
INSTEAD_OF_CEL = (
    "expressions in CEL are gone: compare places in the event, such as "
    '{"range": {"/data/metadata/deal": {"gt": 40}}}. The section "Filters instead of CEL" of docs/operate/upgrading.md '
    "has a filter for each kind of expression"
)
UNREADABLE = "its filters cannot be read"
"""Prefix of the pause reason of a subscription with such filters."""
_MAX_SHOWN = 3
"""Maximum filters of an `any` in an explanation."""
_SHOWN_CHARACTERS = 60
_NO_VALUE_HAS_IT = "no attribute contains control characters, surrogates or noncharacters"
_NOT_IN_TEXTS = re.compile(r"[\x00\ud800-\udfff]")
_ESCAPE = re.compile(r"~[01]")
_TILDE = re.compile(r"~(?![01])")
_PLACES = 'an object such as {{"channel": {0}}} or {{"/data/metadata/deal": {0}}} is expected'
_OPERANDS: Mapping[str, str] = {
    "in": '["a", "b"]',
    "range": '{"gte": 40}',
    "exists": "true",
}
"""An example operand by dialect, for errors. Dialects not listed take a text."""


class FiltersRefused(ValueError):
    """Filters are not allowed. `errors`: the problems, with JSON pointers that begin at the list of filters. Each
    detail begins with the place in a readable form: `filters[0].all[2].range./data/total`."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(error.detail for error in errors))
        self.errors = tuple(errors)


class _Part(NamedTuple):
    """One comparison of a filter. `name`: the place as the user wrote it; `operand`: the expected value."""

    name: str
    operand: Any
    comparison: Comparison


class _Filter(NamedTuple):
    """One filter object. `parts` belong to the dialects in COMPARING, `inner` to all, any and not."""

    pointer: str
    dialect: str
    parts: tuple[_Part, ...] = ()
    inner: tuple["_Filter", ...] = ()


class Filters:
    """The filters of a subscription.

    keys        of their comparisons
    unreadable  why they cannot be read; then they let every event through
    """

    __slots__ = ("_filters", "keys", "unreadable")

    def __init__(
        self, filters: Sequence[_Filter], keys: frozenset[str] = frozenset(), unreadable: str | None = None
    ) -> None:
        self._filters = tuple(filters)
        self.keys = keys
        self.unreadable = unreadable

    def passes(self, view: EventView) -> bool:
        """True if they let the event through."""
        return all(_is_true(one, view) for one in self._filters)

    def why_not(self, view: EventView) -> str | None:
        """The first false filter and why, such as `exact /filters/0: channel is "email", not "linkedin"`; None if all
        are true."""
        if self.unreadable is not None:
            return f"{UNREADABLE}: {self.unreadable}"
        return next(filter(None, (_why_false(one, view) for one in self._filters)), None)


def parse_filters(documents: object, pointer: str = "/filters") -> Filters:
    """Parses filters as a user wrote them. Raises FiltersRefused."""
    return _Parser(pointer).read(documents)


def filters_of(documents: Sequence[Mapping[str, Any]]) -> Filters | None:
    """Parses stored filters; None if there are none. Those of another version can be unreadable."""
    return _stored(filters_key(documents)) if documents else None


def unreadable(documents: Sequence[Mapping[str, Any]]) -> str | None:
    """The reason why stored filters cannot be read; None if they can."""
    filters = filters_of(documents)
    return None if filters is None else filters.unreadable


@lru_cache(maxsize=10_000)
def _stored(key: bytes) -> Filters:
    try:
        return parse_filters(loads(key))
    except FiltersRefused as refused:
        return Filters((), unreadable=refused.errors[0].detail)


def explain_filters(filters: Filters | None, body: bytes) -> str | None:
    """The reason why filters do not let an event through; None if they do. `body`: the event's."""
    return None if filters is None else filters.why_not(EventView(body))


def filters_key(documents: Sequence[Mapping[str, Any]]) -> bytes:
    """A key that is equal for filters that are the same JSON."""
    return dumps(documents, orjson.OPT_SORT_KEYS)


def attribute_problem(name: str) -> tuple[str, str] | None:
    """The code and detail of the error in an attribute's name; None if it is valid.

    An unknown attribute is allowed unless it looks misspelt: then the filter would never be true.
    """
    if name in ATTRIBUTES:
        return None
    near = difflib.get_close_matches(name.lower()[:100], ATTRIBUTES, n=1, cutoff=0.85)
    if ATTRIBUTE_NAME.fullmatch(name) and name not in NO_ATTRIBUTES and not near:
        return None
    hint = f": did you mean {near[0]!r}?" if near else ""
    if name == "data" or "." in name:
        steps = name.split(".") if name.startswith("data") else ["data", *name.split(".")]
        place = "/".join(steps) if len(steps) > 1 else "data/metadata/deal"
        hint = f": a place in the event's data is a JSON pointer, such as '/{place[:100]}'"
    return "unknown_attribute", f"{name[:100]!r} is not an attribute{hint}"


class _Parser:
    """Parses filters and collects their errors. A place is the path to it, from the list of filters on."""

    def __init__(self, pointer: str) -> None:
        self._pointer = pointer
        self._errors: list[FieldError] = []
        self._keys: list[str] = []

    def read(self, documents: object) -> Filters:
        if isinstance(documents, list | tuple):
            found = self._several(documents, (), 1)
            if len(self._keys) > MAX_COMPARISONS:
                detail = f"at most {MAX_COMPARISONS} comparisons are allowed: use `in` for several values of one place"
                self._refuse((), "too_long", detail)
            elif not self._errors and len(filters_key(documents)) > MAX_FILTER_BYTES:
                self._refuse((), "too_long", f"at most {MAX_FILTER_BYTES:,} bytes are allowed, as compact JSON")
        else:
            self._refuse((), "wrong_type", "a list is expected")
        if self._errors:
            raise FiltersRefused(self._errors[:MAX_FILTER_ERRORS])
        return Filters(found, frozenset(self._keys))

    @property
    def _is_full(self) -> bool:
        return len(self._errors) >= MAX_FILTER_ERRORS or len(self._keys) > MAX_COMPARISONS

    def _refuse(self, place: tuple[str | int, ...], code: str, detail: str) -> None:
        where = self._pointer.strip("/").replace("/", ".") + "".join(
            f"[{step}]" if isinstance(step, int) else f".{_shown_step(step)}" for step in place
        )
        pointer = self._at(place)
        self._errors.append(FieldError(pointer=pointer, code=code, detail=f"{where}: {detail}"))

    def _at(self, place: tuple[str | int, ...]) -> str:
        """The JSON pointer (RFC 6901) to a place."""
        return self._pointer + "".join(f"/{_shown_step(step).replace('~', '~0').replace('/', '~1')}" for step in place)

    def _several(self, documents: Sequence[object], place: tuple[str | int, ...], level: int) -> list[_Filter]:
        found = []
        for number, document in enumerate(documents):
            one = self._one(document, (*place, number), level)
            if one is not None:
                found.append(one)
            if self._is_full:
                break
        return found

    def _one(self, document: object, place: tuple[str | int, ...], level: int) -> _Filter | None:
        if level > MAX_FILTER_LEVELS:
            self._refuse(place, "too_long", f"filters may be nested {MAX_FILTER_LEVELS} levels deep")
            return None
        if not isinstance(document, Mapping):
            self._refuse(place, "wrong_type", 'an object such as {"exact": {"channel": "linkedin"}} is expected')
            return None
        if len(document) != 1:
            self._refuse(place, "invalid", f"one dialect is expected, not {len(document)}: use a filter for each")
            return None
        ((dialect, operand),) = document.items()
        inside = (*place, str(dialect))
        if dialect in COMPARING:
            return self._comparing(place, dialect, operand)
        if dialect in ("all", "any"):
            if not isinstance(operand, list | tuple):
                self._refuse(inside, "wrong_type", "a list of filters is expected")
            elif not operand:
                self._refuse(inside, "too_short", "at least one filter is expected")
            else:
                return _Filter(self._at(place), dialect, inner=tuple(self._several(operand, inside, level + 1)))
            return None
        if dialect == "not":
            part = self._one(operand, inside, level + 1)
            return None if part is None else _Filter(self._at(place), dialect, inner=(part,))
        if dialect == REMOVED:
            self._refuse(inside, "unknown_dialect", INSTEAD_OF_CEL)
            return None
        near = difflib.get_close_matches(str(dialect).lower()[:100], DIALECTS, n=1, cutoff=0.5)
        hint = f": did you mean {near[0]!r}?" if near else f": use one of {', '.join(DIALECTS)}"
        self._refuse(inside, "unknown_dialect", f"{str(dialect)[:100]!r} is not a dialect of filters{hint}")
        return None

    def _comparing(self, place: tuple[str | int, ...], dialect: str, operands: object) -> _Filter | None:
        inside = (*place, dialect)
        if not isinstance(operands, Mapping):
            self._refuse(inside, "wrong_type", _PLACES.format(_OPERANDS.get(dialect, '"text"')))
            return None
        if not operands:
            self._refuse(inside, "too_short", "at least one attribute or JSON pointer is expected")
        parts: list[_Part] = []
        for name, operand in operands.items():
            problem: tuple[str, str] | None
            if isinstance(name, str):
                path, problem = _path(name)
            else:  # YAML allows names that are not text
                path, problem = (), ("wrong_type", "a string is expected as the attribute's name")
            where = (*inside, str(name))
            if problem is None:
                where, problem = self._operand_problem(where, dialect, path, operand)
            if problem is None:
                made = comparison(dialect, path, operand)
                parts.append(_Part(name, operand, made))
                self._keys.append(made.key)
            else:
                self._refuse(where, *problem)
            if self._is_full:
                break
        return _Filter(self._at(place), dialect, tuple(parts))

    def _operand_problem(
        self, place: tuple[str | int, ...], dialect: str, path: Path, operand: object
    ) -> tuple[tuple[str | int, ...], tuple[str, str] | None]:
        """The error in an operand, and its place there."""
        if dialect == "in":
            if not isinstance(operand, list | tuple) or not operand:
                return place, ("wrong_type", 'a list such as ["a", "b"] is expected')
            for number, one in enumerate(operand):
                problem = _scalar_problem("in", path, one)
                if problem is not None:
                    return (*place, number), problem
            return place, None
        if dialect == "range":
            return _range_problem(place, path, operand)
        if dialect == "exists":
            return place, None if isinstance(operand, bool) else ("wrong_type", "true or false is expected")
        return place, _scalar_problem(dialect, path, operand)


def _path(name: str) -> tuple[Path, tuple[str, str] | None]:
    """The place that an attribute's name or a JSON pointer means, and its error if it is invalid."""
    if not name.startswith("/"):
        return (name,), attribute_problem(name)
    if len(name) > MAX_POINTER_CHARACTERS:
        return (), ("too_long", f"at most {MAX_POINTER_CHARACTERS:,} characters are allowed")
    if _NOT_IN_TEXTS.search(name):
        return (), ("invalid_text", "a JSON pointer without NUL and lone surrogates is expected")
    if _TILDE.search(name):
        return (), ("invalid", "in a JSON pointer ~ is written ~0, and / in a name ~1")
    path = tuple(_ESCAPE.sub(lambda found: "~" if found[0] == "~0" else "/", step) for step in name[1:].split("/"))
    if len(path) > MAX_SEGMENTS:
        return (), ("too_long", f"at most {MAX_SEGMENTS} segments are allowed, not {len(path)}")
    problem = None if path[0] in NO_ATTRIBUTES else attribute_problem(path[0])
    if problem is None and len(path) > 1 and path[0] != "data":
        problem = "invalid", f"{path[0]!r} is a text, which has no members: places in the data begin with /data/"
    return path, problem


def _scalar_problem(dialect: str, path: Path, operand: object) -> tuple[str, str] | None:
    """The error in a JSON scalar to compare with; None if it is valid."""
    is_attribute = len(path) == 1 and path[0] not in NO_ATTRIBUTES
    texts_only = dialect in ("prefix", "suffix") or (is_attribute and (path[0] in ATTRIBUTES or operand is None))
    if isinstance(operand, str):
        may_be_empty = not is_attribute and dialect in ("exact", "in")
        most = MAX_CONTAINED_CHARACTERS if dialect == "contains" else MAX_OPERAND_CHARACTERS
        if not (may_be_empty or operand) or len(operand) > most:
            return "too_long" if operand else "too_short", f"1 to {most:,} characters are expected"
        if is_attribute and NOT_IN_ATTRIBUTES.search(operand):
            return "invalid_text", _NO_VALUE_HAS_IT
        if _NOT_IN_TEXTS.search(operand):
            return "invalid_text", "NUL and lone surrogates are not allowed"
        return None
    if texts_only:
        return "wrong_type", "a string is expected"
    if operand is None or isinstance(operand, bool):
        return None
    return _number_problem(operand, "a string, a number, true, false or null is expected")


def _number_problem(operand: object, expected: str) -> tuple[str, str] | None:
    if isinstance(operand, bool) or not isinstance(operand, int | float):
        return "wrong_type", expected
    fits = math.isfinite(operand) if isinstance(operand, float) else operand.bit_length() < 1_024
    return None if fits else ("out_of_range", "a number that a double can hold is expected")


def _range_problem(
    place: tuple[str | int, ...], path: Path, operand: object
) -> tuple[tuple[str | int, ...], tuple[str, str] | None]:
    if path[0] in ATTRIBUTES:
        return place, ("wrong_type", f"{path[0]!r} is a text, and a range is of numbers")
    if not isinstance(operand, Mapping) or not operand:
        return place, ("wrong_type", 'an object such as {"gte": 100, "lt": 500} is expected')
    for name, bound in operand.items():
        if name not in BOUNDS:
            return (*place, str(name)), ("unknown_field", f"use {', '.join(BOUNDS)}")
        problem = _number_problem(bound, "a number is expected: texts and times are not compared by size")
        if problem is not None:
            return (*place, name), problem
    return place, None


def _shown_step(step: str | int) -> str:
    """A step of a place, formatted for an error."""
    return NOT_IN_ATTRIBUTES.sub("\N{REPLACEMENT CHARACTER}", str(step)[:100])


def _is_true(one: _Filter, view: EventView) -> bool:
    match one.dialect:
        case "all":
            return all(_is_true(part, view) for part in one.inner)
        case "any":
            return any(_is_true(part, view) for part in one.inner)
        case "not":
            return not _is_true(one.inner[0], view)
    return all(view.holds(part.comparison) for part in one.parts)


def _why_false(one: _Filter, view: EventView) -> str | None:
    """The filter that is false and why; None if it is true."""
    comparison = f"{one.dialect} {one.pointer}"
    if one.parts:
        return next((f"{comparison}: {why}" for why in _differing(one, view)), None)
    reasons = [_why_false(part, view) for part in one.inner]
    if one.dialect == "not":
        return f"{comparison}: the filter in it is true" if reasons == [None] else None
    if one.dialect == "any" and None not in reasons:
        shown = "; ".join(str(reason) for reason in reasons[:_MAX_SHOWN])
        more = f"; and {len(reasons) - _MAX_SHOWN} more" if len(reasons) > _MAX_SHOWN else ""
        return f"{comparison}: no filter in it is true ({shown}{more})"
    return next(filter(None, reasons), None) if one.dialect == "all" else None


def _differing(one: _Filter, view: EventView) -> Iterator[str]:
    """For each comparison that does not hold: the value found, and the expected one."""
    for part in one.parts:
        if view.holds(part.comparison):
            continue
        found = view.reading(part.comparison.path)
        if found is MISSING or (one.dialect == "exists" and found.value is None):
            yield f"the event has no {part.name}"
        else:
            yield f"{part.name} is {_shown(found.value)}, {_expected(one.dialect, part.operand)}"


def _expected(dialect: str, operand: Any) -> str:
    match dialect:
        case "exact":
            return f"not {_shown(operand)}"
        case "prefix":
            return f"which does not begin with {_shown(operand)}"
        case "suffix":
            return f"which does not end with {_shown(operand)}"
        case "in":
            named = ", ".join(_shown(each) for each in operand[:_MAX_SHOWN])
            return f"which is not in [{named}{', …' if len(operand) > _MAX_SHOWN else ''}]"
        case "contains":
            return f"which does not contain {_shown(operand)}"
        case "range":
            return f"which is not {' and '.join(f'{name} {_shown(operand[name])}' for name in operand)}"
    return "and is expected not to exist"


def _shown(value: object) -> str:
    """A value of an event or a filter, shortened, with unprintable characters escaped."""
    match value:
        case str():
            return dumps(value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}…").decode()
        case dict():
            return "an object"
        case list() | tuple():
            return f"a list of {len(value)}"
    text = dumps(value).decode()
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def matches(
    subscription: Subscription, event_type: str, event_source: str, *, job_event: bool, owner: str | None
) -> bool:
    """True if a subscription gets an event. Types and source match exactly, case included.

    A subscription that belongs to an account gets only events about that account: `owner` is the event's. Without types
    it gets every job event and no others. Callbacks never match here: they get the events of the jobs registered with
    them, which only the store knows.
    """
    if subscription.callback or subscription.owner not in (None, owner):
        return False
    if subscription.source is not None and subscription.source != event_source:
        return False
    return subscription.wants(event_type, job_event=job_event)


def known_types(origins: Iterable[Origin]) -> tuple[str, ...]:
    """All event types: the job events of each origin, those about the relay, the account events of each origin.

    The order matters where several have the same last word: see `full_types`.
    """
    of_each = tuple(origins)
    jobs = dict.fromkeys(name for origin in of_each for name in job_event_types(origin))
    accounts = (name for origin in of_each for name in account_event_types(origin))
    return (*jobs, *RELAY_EVENTS, *dict.fromkeys(accounts))


def full_type(name: str, known: Sequence[str]) -> str | None:
    """The known type with this full name or ending, such as `failed` or `job.failed`; None if there is none."""
    if name in known:
        return name
    return next((one for one in known if one.endswith(f".{name}")), None)


@lru_cache(maxsize=1024)
def is_free_type(name: str, known: tuple[str, ...]) -> bool:
    """True if other programs may publish events of this type: it has a dot, is under no prefix of a known one, and does
    not look like a known one misspelt, nor like its ending alone."""
    if "." not in name or FREE_TYPE.fullmatch(name) is None or reserved_prefix(name, known) is not None:
        return False
    lower, words = name.lower(), name.count(".") + 1
    endings = {".".join(one.split(".")[-words:]) for one in known}
    return not is_misspelt(lower, endings)


def is_misspelt(name: str, known: Iterable[str]) -> bool:
    """True if a name is similar enough to a known one to be a misspelling."""
    return bool(difflib.get_close_matches(name, list(known), n=1, cutoff=_MISSPELT))


def reserved_prefix(name: str, known: Iterable[str]) -> str | None:
    """The prefix of known types that a type is under, or that some of them share, as `ai.revor.`; None if there is
    none."""
    own = {one.rpartition(".")[0] for one in known if not one.startswith(RELAY_PREFIX)}
    shared = Counter(one.rpartition(".")[0] for one in own)
    of_sources = {f"{one}." for one in (*own, *(one for one, count in shared.items() if one and count > 1))}
    return next((one for one in sorted({RELAY_PREFIX, *of_sources}) if name.lower().startswith(one)), None)


def full_types(name: str, known: Sequence[str]) -> tuple[str, ...]:
    """The known types that a name stands for. A word of job events, such as `failed`, stands for those of every
    resource, whatever their own word for it."""
    found = full_type(name, known)
    if found is None or found == name or job_event_kind(found) is None:
        return () if found is None else (found,)
    return tuple(one for one in known if one.endswith(f".{name}") or job_event_kind(one) == name)


def wanted_types(name: str, known: Sequence[str]) -> tuple[str, ...]:
    """As `full_types`; a free type stands for itself."""
    return full_types(name, known) or ((name,) if is_free_type(name, tuple(known)) else ())


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


MAX_TYPES_NAMED = 5


def why_not(subscription: Subscription, event: Event, owner: str | None) -> str | None:
    """The reason why type, source or account keep an event from a subscription; None if they let it through, as
    `matches` says. `owner`: the account that the event is about."""
    if subscription.callback:
        return "a callback gets only the events of the jobs that were registered with it"
    if subscription.owner not in (None, owner):
        return f"it is limited to the account {subscription.owner}, and the event is not about that account"
    if subscription.source is not None and subscription.source != event.source:
        return f"its source is {subscription.source}, and that of the event is {event.source}"
    if subscription.wants(event.type, job_event=event.job_uid is not None):
        return None
    wanted = subscription.wanted_types
    if wanted is None:
        return f"it has no types, so it gets all job events and no others, and the event is {event.type}"
    named = ", ".join(wanted[:MAX_TYPES_NAMED])
    more = f" and {len(wanted) - MAX_TYPES_NAMED} more" if len(wanted) > MAX_TYPES_NAMED else ""
    return f"its types are {named}{more}, and that of the event is {event.type}"
