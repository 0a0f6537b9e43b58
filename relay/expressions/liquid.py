"""Templates: JSON documents whose texts are Liquid, compiled once and rendered within limits.

A text that is exactly one output expression keeps its JSON type: `"{{ metadata.deal }}"` becomes 42. Any other is text.
Keys of objects are no templates. There are no files, includes or clocks, and a template sees nothing but its variables.

Everything is bounded, whoever wrote the template or the data: python-liquid limits nesting, and a _Context counts the
work and the output of a whole document. `compile_template` raises InvalidRequest, `Template.render` NotRenderable; both
name each text by its JSON pointer within the template. Import this module only where it is needed: it costs 0.15 s.

Source: the documentation of Shopify's Liquid and of python-liquid.
"""

import difflib
import functools
import html
import inspect
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from types import MappingProxyType
from typing import Any, NamedTuple, TextIO
from urllib.parse import quote_plus
from zoneinfo import ZoneInfo

from liquid import BlockNode, Environment, Expression, Node, RenderContext, Token, Undefined
from liquid.builtin.content import ContentNode, Literal
from liquid.builtin.expressions import FilteredExpression, KeywordArgument, PositionalArgument
from liquid.builtin.expressions.filtered import Filter
from liquid.builtin.expressions.logical import ContainsExpression, EqExpression, NeExpression
from liquid.builtin.expressions.path import Path
from liquid.builtin.expressions.primitive import RangeLiteral
from liquid.builtin.filters import array, math, misc, string
from liquid.builtin.illegal import Illegal
from liquid.builtin.output import Output, OutputNode
from liquid.builtin.tags.assign_tag import AssignTag
from liquid.builtin.tags.capture_tag import CaptureTag
from liquid.builtin.tags.case_tag import CaseTag, _AnyExpression
from liquid.builtin.tags.comment_tag import CommentTag
from liquid.builtin.tags.for_tag import BreakTag, ContinueTag, ForTag
from liquid.builtin.tags.if_tag import IfTag
from liquid.builtin.tags.unless_tag import UnlessTag
from liquid.exceptions import (
    FilterArgumentError,
    LiquidError,
    LiquidInterrupt,
    LoopIterationLimitError,
    ResourceLimitError,
    UndefinedError,
)
from liquid.undefined import UNDEFINED, FalsyStrictUndefined
from liquid.utils import ReadOnlyChainMap

from relay.core.jsontext import dumps, well_formed
from relay.errors import FieldError, InvalidRequest, NotRenderable

MAX_TEMPLATE_BYTES = 32_768
"""Maximum size of a template as JSON."""
MAX_TEXTS = 500
"""Maximum number of texts with Liquid in a template."""
MAX_DEPTH = 20
"""Maximum nesting of arrays and objects in a template."""
MAX_BLOCKS = 10
"""Maximum nesting of tags such as `if` and `for`."""
MAX_TAG_CHARACTERS = 1_000
"""Maximum length of one `{{ … }}` or `{% … %}`. python-liquid's expressions take the square of it."""
MAX_ITERATIONS = 5_000
"""Maximum iterations of all loops in a document, and maximum length of a range."""
MAX_VALUE = 262_144
"""Maximum size of one value: characters of its texts, and ITEM_SIZE for each item."""
MAX_LOCALS = 1_048_576
"""Maximum size of the variables that one text assigns."""
MAX_OUTPUT = 262_144
"""Maximum size of all output of a document, that of `capture` included, and maximum bytes of its JSON."""
MAX_INTEGER_BITS = 1_024
"""Larger integers exceed a double, which most receivers cannot read."""
MAX_WORK = 50_000
"""Maximum work of a document, in units of about a microsecond."""
LOOK_AFTER_WORK = 5_000
"""Documents below this work never read the clock."""
MAX_SECONDS = 1.0
"""Maximum CPU time of a document. MAX_WORK ensures it; this limit is for work that is not counted."""
MAX_ERRORS = 20
"""Maximum number of errors that are reported about one template."""
MAX_CACHED_BYTES = 1_048_576
"""Maximum size of the compiled templates that are kept, as JSON. They take up to 75 times as much memory."""

ITEM_SIZE = 16
_SOURCE_PER_UNIT = 8
"""Characters of a block's source that count as one unit of work, each time it is rendered."""
_SIZE_PER_UNIT = 64
"""Size of a filter's operands that counts as one unit of work."""
_MAX_FORMAT_CHARACTERS = 100
_FIRST_YEAR = 1970
_MAX_EXPRESSION_DEPTH = 100
_NEAR = 0.6


class TooSlow(Exception):
    """A document took more CPU time than MAX_SECONDS."""


class _TooMuch(ResourceLimitError):
    """A document exceeds one of our limits."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, token=None)


class _Unsuitable(FilterArgumentError):
    """A filter cannot take a value. The message says so without the value, which may say something about a person."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, token=None)


class _Missing(Undefined):
    """A name that is not there, where that is allowed: empty text."""

    __slots__ = ()


class _Absent(FalsyStrictUndefined):
    """A name that is not there, where that is an error: it can be tested, compared and given a default, not used."""

    __slots__ = ()


_NOTHING = _Missing("nothing")

# Types are compared, not tested with isinstance, where it costs: python-liquid's classes are abstract ones.
_SCALARS = frozenset((str, int, float, bool, type(None)))


def size_of(value: object) -> int:
    """Approximate size: characters of all texts, and ITEM_SIZE for each item. What occurs twice counts twice."""
    kind = type(value)
    if kind is str:
        return len(value)  # type: ignore[arg-type]
    if kind in _SCALARS:
        return ITEM_SIZE
    if kind is list or kind is tuple:
        total = 0
        for item in value:  # type: ignore[attr-defined]
            total += ITEM_SIZE + size_of(item)
            if total > MAX_LOCALS:
                break
        return total
    if isinstance(value, dict):
        return sum(ITEM_SIZE + len(name) + size_of(item) for name, item in value.items())
    return ITEM_SIZE


def as_text(value: object) -> str:
    """A value as Liquid prints it, and objects as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return "".join([as_text(item) for item in value])
    if isinstance(value, dict):
        return dumps(value).decode()
    if isinstance(value, range):
        return f"{value.start}..{value.stop - 1}"
    return str(value)


class _Buffer:
    """Output of a text or of a `capture`, counted by its context. python-liquid writes to it and reads its value."""

    __slots__ = ("_context", "_texts")

    def __init__(self, context: "_Context") -> None:
        self._context = context
        self._texts: list[str] = []

    def write(self, text: str) -> int:
        self._context.count_output(len(text))
        self._texts.append(text)
        return len(text)

    def getvalue(self) -> str:
        return "".join(self._texts)


class _Context(RenderContext):
    """The state of rendering one document: its variables, and the meter of what it has used.

    variables  the names that templates can use
    strict     an absent name is an error
    """

    def __init__(self, variables: Mapping[str, object], *, strict: bool) -> None:
        super().__init__(_EMPTY, globals=variables)
        self.scope = ReadOnlyChainMap(self.locals, variables)  # without python-liquid's `now` and `today`
        self._variables = variables
        self._strict = strict
        self._work_left = MAX_WORK
        self._look_below = MAX_WORK - LOOK_AFTER_WORK
        self._output_left = MAX_OUTPUT
        self._iterations_left = MAX_ITERATIONS
        self._deadline: float | None = None
        self._sizes: dict[str, int] = {}

    def end_text(self) -> None:
        """Forgets what a text has assigned: the next one does not see it."""
        self.locals.clear()
        self._sizes.clear()
        self.tag_namespace["stopindex"].clear()

    # --- the meter

    def count(self, work: int) -> None:
        """Counts work. Raises _TooMuch, or TooSlow."""
        self._work_left -= work
        if self._work_left < self._look_below:
            self._look()

    def _look(self) -> None:
        if self._work_left < 0:
            raise _TooMuch(f"the template needs more than {MAX_WORK:,} steps: make its loops shorter")
        now = time.thread_time()
        if self._deadline is None:
            self._deadline = now + MAX_SECONDS
        elif now > self._deadline:
            raise TooSlow(f"the template takes longer than {MAX_SECONDS:g} s")
        self._look_below = max(self._work_left - LOOK_AFTER_WORK, 0)

    def count_output(self, size: int) -> None:
        """Counts output. Raises _TooMuch."""
        self.count(1 + size // _SIZE_PER_UNIT)
        self._output_left -= size
        if self._output_left < 0:
            raise _TooMuch(f"the template makes more than {MAX_OUTPUT:,} characters")

    def raise_for_loop_limit(self, length: int = 1) -> None:
        """Counts the iterations of a loop before it begins: python-liquid counts only those of enclosing loops."""
        self._iterations_left -= length
        if self._iterations_left < 0:
            raise LoopIterationLimitError(f"the template loops more than {MAX_ITERATIONS:,} times", token=None)

    def stopindex(self, key: str, index: int | None = None) -> int:
        """Called before a loop makes a list of what it reverses or skips."""
        if index is not None and index > MAX_ITERATIONS:
            raise LoopIterationLimitError(f"the template loops more than {MAX_ITERATIONS:,} times", token=None)
        return super().stopindex(key, index)

    def assign(self, key: str, val: object) -> None:
        """Sets a variable of the text. Raises _TooMuch."""
        size = size_of(val)
        self.count(1 + size // _SIZE_PER_UNIT)
        self._sizes[key] = size
        if sum(self._sizes.values()) > MAX_LOCALS:
            raise _TooMuch(f"the template's variables are larger than {MAX_LOCALS:,} characters")
        self.locals[str(key)] = val

    def get_buffer(self, buf: TextIO | None = None) -> Any:
        """A new buffer whose output is counted."""
        return _Buffer(self)

    # --- names and filters

    def get(self, path: list[object], *, token: Token | None, default: object = UNDEFINED) -> object:
        """The value of a path such as `metadata.deal`; one of the undefined values if it is absent."""
        self._work_left -= len(path)
        if self._work_left < self._look_below:
            self._look()
        index = 0
        try:
            found: Any = (self.scope if self.locals or self.loops else self._variables)[path[0]]  # type: ignore[index]
            for index in range(1, len(path)):
                segment = path[index]
                known = type(found) is dict and segment in found
                found = found[segment] if known else self.get_item(found, segment)
        except (LookupError, TypeError):
            if not self._strict:
                return _NOTHING
            name = _path_text(path[: index + 1], "" if token is None else token.source)
            return _Absent(name, hint=f"{name} is absent", token=token)
        return found

    def filter(self, name: str, token: Token | None) -> Callable[..., object]:
        """The filter of this name, with limits on what it takes and makes."""
        return functools.partial(self._filtered, name)

    def _filtered(self, name: str, left: object, *args: object, **kwargs: object) -> object:
        used = FILTERS[name]
        operands = (left, *args, *kwargs.values()) if kwargs else (left, *args)
        size = 0
        for operand in operands:
            if type(operand) is _Absent and used is not _DEFAULT:
                raise UndefinedError(operand.hint, token=None)
            size += size_of(operand)
        self.count(2 + size // _SIZE_PER_UNIT)
        if used.squared:
            self.count((size // ITEM_SIZE) ** 2 // 100)
        if used.text and not isinstance(left, str):
            left = as_text(left)
        try:
            made = used.function(left, *args, **kwargs)
        except (_Unsuitable, UndefinedError, ResourceLimitError):
            raise
        except (LiquidError, ArithmeticError, ValueError, TypeError, LookupError, RecursionError):
            kinds = " and ".join([_kind(operand) for operand in operands])
            raise _Unsuitable(f"filter {name} cannot take {kinds}, or has no result for it") from None
        if isinstance(made, range):
            made = list(made)
        kind = type(made)
        if kind is int:
            if made.bit_length() > MAX_INTEGER_BITS:  # type: ignore[attr-defined]
                raise _TooMuch("a number is too large")
        elif size_of(made) > MAX_VALUE:
            raise _TooMuch(f"a value is larger than {MAX_VALUE:,} characters")
        return made


def _path_text(path: Sequence[object], source: str) -> str:
    """`jobs[0].name`, cut to what an error can show; `…` for a name that is not in the template but in the data."""
    shown = [one if not isinstance(one, str) or one in source else "…" for one in path]
    first, *others = shown
    return "".join([str(first), *(f".{one}" if isinstance(one, str) else f"[{one}]" for one in others)])[:200]


def _kind(value: object) -> str:
    """What kind of value it is, without the value itself."""
    if isinstance(value, Undefined) or value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else "an object" if isinstance(value, dict) else "an array"


# --- parts of python-liquid with limits


class _Path(Path):
    """`metadata.deal`, without a test of each segment."""

    __slots__ = ()

    def evaluate(self, context: RenderContext) -> object:
        path: Any = self.path
        for segment in path:
            if type(segment) is _Path:
                path = [one.evaluate(context) if type(one) is _Path else one for one in path]
                break
        return context.get(path, token=self.token)


class _Range(RangeLiteral):
    """`(1..3)`, bounded: python-liquid makes a list of it, or searches it item by item."""

    __slots__ = ()

    def _make_range(self, start: object, stop: object) -> range:
        made = super()._make_range(start, stop)
        if made.stop - made.start > MAX_ITERATIONS:
            raise _TooMuch(f"a range is longer than {MAX_ITERATIONS:,}")
        return made


class _Compared:
    """A comparison. Its work is the size of its left side."""

    __slots__ = ()
    left: Expression

    def evaluate(self, context: RenderContext) -> object:
        assert isinstance(context, _Context)
        context.count(1 + size_of(self.left.evaluate(context)) // _SIZE_PER_UNIT)
        return super().evaluate(context)  # type: ignore[misc]  # of the class beside this one


class _Equal(_Compared, EqExpression):
    __slots__ = ()


class _Unequal(_Compared, NeExpression):
    __slots__ = ()


class _Contains(_Compared, ContainsExpression):
    __slots__ = ()


class _When(_AnyExpression):
    """The comparisons of a `when`."""

    __slots__ = ()

    def evaluate(self, context: RenderContext) -> list[bool]:
        assert isinstance(context, _Context)
        context.count((1 + size_of(self.left.evaluate(context)) // _SIZE_PER_UNIT) * len(self.expressions))
        return super().evaluate(context)


class _Block(BlockNode):
    """The inside of a tag. Its work is the length of its source, each time it is rendered."""

    __slots__ = ()

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        assert isinstance(context, _Context)
        length = self.token.start_index - self.nodes[0].token.start_index if self.nodes else 0
        context.count(1 + max(length, 0) // _SOURCE_PER_UNIT)
        return super().render_to_output(context, buffer)


class _OutputNode(OutputNode):
    """`{{ … }}` within a text."""

    __slots__ = ()

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return buffer.write(_shown(self.expression.evaluate(context)))


class _Output(Output):
    node_class = _OutputNode


_BOUNDED: Mapping[type, type] = MappingProxyType(
    {
        Path: _Path,
        RangeLiteral: _Range,
        EqExpression: _Equal,
        NeExpression: _Unequal,
        ContainsExpression: _Contains,
        _AnyExpression: _When,
        BlockNode: _Block,
    }
)
"""Classes of python-liquid, and the class with limits that their objects get."""
_PARTS = (Node, Expression, Filter, KeywordArgument, PositionalArgument)
_TAGS = (
    Literal,
    Illegal,
    _Output,
    IfTag,
    UnlessTag,
    CaseTag,
    ForTag,
    BreakTag,
    ContinueTag,
    AssignTag,
    CaptureTag,
    CommentTag,
)
TAGS = ("if", "unless", "case", "for", "break", "continue", "assign", "capture", "comment", "raw")
"""Tags that templates can use."""


class _Environment(Environment):
    block_nesting_limit = MAX_BLOCKS
    context_depth_limit = 2 * MAX_BLOCKS

    def setup_tags_and_filters(self, *, extra: bool = False) -> None:
        for tag in _TAGS:
            self.add_tag(tag)


# --- filters


def _list(value: object) -> list[Any]:
    """An array as filters see it: python-liquid flattens it; anything else is an array of one."""
    if isinstance(value, list | tuple | range):
        return list(value)
    return [] if value is None or isinstance(value, Undefined) else [value]


def _string(value: str) -> str:
    return value


def _json(value: object) -> str:
    try:
        return dumps(None if isinstance(value, Undefined) else value).decode()
    except TypeError:
        raise _Unsuitable("json: this value is not JSON, or is nested too deeply") from None


def _join(value: object, separator: object = " ") -> str:
    texts, between = [as_text(item) for item in _list(value)], as_text(separator)
    _refuse_longer(sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def _replace(value: str, old: object, new: object = "") -> str:
    found, by = as_text(old), as_text(new)
    _refuse_longer(len(value) + value.count(found) * len(by))
    return value.replace(found, by)


def _refuse_longer(characters: int) -> None:
    if characters > MAX_VALUE:
        raise _TooMuch(f"a value is larger than {MAX_VALUE:,} characters")


def _truncate(value: str, length: object = 50, end: object = "...") -> str:
    limit = max(int(length), 0) if isinstance(length, int | float | str) else 50
    if len(value) <= limit:
        return value
    ending = as_text(end)[:limit]
    return value[: limit - len(ending)] + ending


def _truncatewords(value: str, count: object = 15, end: object = "...") -> str:
    limit = max(int(count), 1) if isinstance(count, int | float | str) else 15
    words = value.split()
    return " ".join(words) if len(words) <= limit else " ".join(words[:limit]) + as_text(end)


def _strip_html(value: str) -> str:
    return re.sub(r"<[^<>]*>", "", value)


def _escape(value: str) -> str:
    return html.escape(value)


def _escape_once(value: str) -> str:
    return html.escape(html.unescape(value))


def _newline_to_br(value: str) -> str:
    return re.sub(r"\r?\n", "<br />\n", value)


def _strip_newlines(value: str) -> str:
    return re.sub(r"\r?\n", "", value)


def _url_encode(value: str) -> str:
    return quote_plus(well_formed(value))


def _map(value: object, name: object) -> list[object]:
    return [one.get(as_text(name)) if isinstance(one, dict) else None for one in _list(value)]


def _first(value: object) -> object:
    items = _list(value)
    return items[0] if items else None


def _last(value: object) -> object:
    items = _list(value)
    return items[-1] if items else None


def _concat(value: object, other: object) -> list[object]:
    return [*_list(value), *_list(other)]


_STATUSES: Mapping[str, str] = MappingProxyType(
    {
        "succeeded": "accepted",
        "skipped": "nothing to do",
        "retrying": "will be tried again",
        "not_found": "not found",
        "status_unknown": "unknown",
    }
)


def _human_status(value: str) -> str:
    """The last word of a status or an event type in the words of messages, which never say “delivered”."""
    status = value.rpartition(".")[2]
    return _STATUSES.get(status, status.replace("_", " "))


_DIRECTIVE = re.compile(r"%-?.?", re.DOTALL)
_DIRECTIVES = (
    *("%Y", "%y", "%m", "%-m", "%B", "%b", "%d", "%-d", "%j", "%A", "%a", "%H", "%-H", "%I", "%-I", "%M", "%S", "%f"),
    *("%p", "%Z", "%z", "%%"),
)
"""The directives that a format of `date` can use."""


def _date(value: object, format: object = "%Y-%m-%d %H:%M", zone: object = "UTC") -> str:
    """A time of an event, as RFC 3339 text or epoch seconds, in a format of strftime and a time zone. Other text stays
    as it is."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return as_text(value)
    where = UTC if zone == "UTC" else _zone(as_text(zone))
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(value, UTC)
        moment = moment if moment.tzinfo is None else moment.astimezone(where)
    except (ValueError, OverflowError, OSError):
        return as_text(value)
    if moment.tzinfo is None or moment.year < _FIRST_YEAR:
        return as_text(value)
    return moment.strftime(_checked_format(as_text(format)))


@functools.lru_cache(maxsize=64)
def _checked_format(pattern: str) -> str:
    """The format, if it has only what every platform knows. `strftime` of the C library also takes widths."""
    if len(pattern) > _MAX_FORMAT_CHARACTERS or "\0" in pattern:
        raise _Unsuitable(f"date: a format has at most {_MAX_FORMAT_CHARACTERS} characters")
    for directive in _DIRECTIVE.findall(pattern):
        if directive not in _DIRECTIVES:
            raise _Unsuitable(f"date: {directive} is not one of {' '.join(_DIRECTIVES)}")
    return well_formed(pattern)


def _zone(name: str) -> tzinfo:
    try:
        return UTC if name in ("", "UTC") else ZoneInfo(name[:100])
    except (ValueError, LookupError, OSError):
        raise _Unsuitable("date: the time zone is unknown. Use one like Europe/Berlin") from None


class _Filter(NamedTuple):
    """A filter: its function, whether its value is taken as text, and whether its work is the square of the value."""

    function: Callable[..., object]
    text: bool = False
    squared: bool = False


_TEXT_FILTERS: Mapping[str, Callable[..., object]] = {
    "append": string.append, "base64_decode": string.base64_decode, "base64_encode": string.base64_encode,
    "base64_url_safe_decode": string.base64_url_safe_decode, "base64_url_safe_encode": string.base64_url_safe_encode,
    "capitalize": string.capitalize, "downcase": string.downcase, "escape": _escape, "escape_once": _escape_once,
    "human_status": _human_status, "lstrip": string.lstrip, "newline_to_br": _newline_to_br,
    "prepend": string.prepend, "remove": string.remove, "remove_first": string.remove_first,
    "remove_last": string.remove_last, "replace": _replace, "replace_first": string.replace_first,
    "replace_last": string.replace_last, "rstrip": string.rstrip, "split": string.split, "squish": string.squish,
    "string": _string, "strip": string.strip, "strip_html": _strip_html, "strip_newlines": _strip_newlines,
    "truncate": _truncate, "truncatewords": _truncatewords, "upcase": string.upcase, "url_decode": string.url_decode,
    "url_encode": _url_encode,
}  # fmt: skip
_VALUE_FILTERS: Mapping[str, Callable[..., object]] = {
    "abs": math.abs_, "at_least": math.at_least, "at_most": math.at_most, "ceil": math.ceil, "compact": array.compact,
    "concat": _concat, "date": _date, "default": misc.default, "divided_by": math.divided_by, "find": array.find,
    "find_index": array.find_index, "first": _first, "floor": math.floor, "has": array.has, "join": _join,
    "json": _json, "last": _last, "map": _map, "minus": math.minus, "modulo": math.modulo, "plus": math.plus,
    "reject": array.reject, "reverse": array.reverse, "round": math.round_, "size": misc.size, "slice": string.slice_,
    "sort": array.sort, "sort_natural": array.sort_natural, "sum": array.sum_, "times": math.times, "uniq": array.uniq,
    "where": array.where,
}  # fmt: skip
FILTERS: Mapping[str, _Filter] = MappingProxyType(
    {name: _Filter(function, text=True) for name, function in _TEXT_FILTERS.items()}
    | {name: _Filter(function, squared=name == "uniq") for name, function in _VALUE_FILTERS.items()}
)
"""Filters that templates can use, by name."""
_DEFAULT = FILTERS["default"]


_ENVIRONMENT = _Environment()
_EMPTY = _ENVIRONMENT.from_string("")


# --- compiling


class _Mistake(Exception):
    """A mistake in a text, at an index of its source."""

    def __init__(self, problem: str, index: int) -> None:
        super().__init__(problem)
        self.index = index


_OPENING = re.compile(r"\{\{|\{%")
_TAG_NAME = re.compile(r"-?\s*(\w+|#)?")
_END_RAW = re.compile(r"\{%-?\s*endraw\s*-?%\}")


def _check_delimiters(source: str) -> None:
    """Raises _Mistake for what python-liquid would take long to refuse, or not refuse: its patterns need the square of
    the length for a tag that is not closed."""
    index = 0
    while opening := _OPENING.search(source, index):
        start, inside = opening.span()
        output = opening[0] == "{{"
        closing = "}}" if output else "%}"
        end = source.find(closing, inside)
        if end < 0:
            raise _Mistake(f"this {opening[0]} has no {closing}", start)
        if end - inside > MAX_TAG_CHARACTERS:
            raise _Mistake(f"what is between {opening[0]} and {closing} is longer than {MAX_TAG_CHARACTERS}", start)
        if not source[inside:end].strip("- \t\r\n\f\v"):
            raise _Mistake(f"there is nothing between {opening[0]} and {closing}", start)
        index = end + 2
        if output:
            continue
        named = _TAG_NAME.match(source, inside)
        name = (named and named[1]) or ""
        known = (*TAGS, *(f"end{tag}" for tag in TAGS), "else", "elsif", "when")
        if name not in known:
            raise _Mistake(f"there is no tag {name!r}{_suggestion(name, TAGS)}", start)
        if name == "raw":
            ended = _END_RAW.search(source, index)
            if ended is None:
                raise _Mistake("this tag has no endraw", start)
            index = ended.end()


def _suggestion(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name[:100], known, n=1, cutoff=_NEAR)
    return f": did you mean {near[0]}?" if near else f": there are {', '.join(known)}"


def _bound(nodes: tuple[Node, ...]) -> None:
    """Gives every part of a parsed text its limits. Raises _Mistake for an unknown filter, or wrong arguments of one.

    Walks all attributes, since what python-liquid calls children is not all of them.
    """
    left: list[tuple[object, int]] = [(nodes, 0)]
    while left:
        part, depth = left.pop()
        if isinstance(part, list | tuple) and not isinstance(part, Token):
            left += [(one, depth) for one in part]
            continue
        if not isinstance(part, _PARTS):
            continue
        if depth > _MAX_EXPRESSION_DEPTH:
            raise _Mistake("this is nested too deeply", -1)
        if type(part) in _BOUNDED:
            part.__class__ = _BOUNDED[type(part)]  # the same slots, with limits
        if isinstance(part, Filter):
            _check_filter(part)
        names = {name for kind in type(part).__mro__ for name in getattr(kind, "__slots__", ())}
        left += [(getattr(part, name, None), depth + 1) for name in names | set(getattr(part, "__dict__", ()))]


def _check_filter(used: Filter) -> None:
    known = FILTERS.get(used.name)
    if known is None:
        raise _Mistake(
            f"there is no filter {used.name!r}{_suggestion(used.name, tuple(FILTERS))}", used.token.start_index
        )
    named = {one.name: None for one in used.args if isinstance(one, KeywordArgument)}
    positional = [None for one in used.args if isinstance(one, PositionalArgument)]
    try:
        inspect.signature(known.function).bind(None, *positional, **named)
    except TypeError as error:
        raise _Mistake(f"filter {used.name}: {error}", used.token.start_index) from None


class _Text(NamedTuple):
    """A text with Liquid.

    value  the expression whose value it is; None: it is text
    parts  its output, if that is only texts and expressions; None: it has tags, and `nodes` are rendered
    """

    pointer: str
    source: str
    nodes: tuple[Node, ...]
    value: Expression | None
    parts: tuple[str | Expression, ...] | None

    def render(self, context: _Context) -> object:
        """Its value. Raises whatever python-liquid raises."""
        if self.value is not None:
            value = self.value.evaluate(context)
            kind = type(value)
            if kind is str:
                context.count_output(len(value))  # type: ignore[arg-type]
                return value
            if kind in _SCALARS:
                return value
            if kind is _Absent:
                raise UndefinedError(value.hint, token=None)  # type: ignore[attr-defined]
            context.count_output(size_of(value))
            return value if isinstance(value, list | tuple | dict) else as_text(value)
        if self.parts is not None:
            texts = [part if isinstance(part, str) else _shown(part.evaluate(context)) for part in self.parts]
            text = "".join(texts)
            context.count_output(len(text))
            return text
        buffer: Any = _Buffer(context)
        try:
            for node in self.nodes:
                node.render(context, buffer)
        finally:
            context.end_text()
        return buffer.getvalue()


def _shown(value: object) -> str:
    """A value within a text. Raises _TooMuch."""
    if isinstance(value, str):
        return value
    if type(value) not in _SCALARS and size_of(value) > MAX_VALUE:
        raise _TooMuch(f"a value is larger than {MAX_VALUE:,} characters")
    return as_text(value)


def _parsed(pointer: str, source: str) -> _Text:
    """A text with Liquid, ready to render. Raises _Mistake and LiquidError."""
    _check_delimiters(source)
    nodes = tuple(_ENVIRONMENT.from_string(source).nodes)
    _bound(nodes)
    parts = tuple([_part(node) for node in nodes])
    outputs = tuple([part for part in parts if part is not None])
    whole = len(outputs) == len(parts) == 1 and source.startswith("{{") and source.endswith("}}")
    value = outputs[0] if whole and isinstance(outputs[0], Expression) else None
    return _Text(pointer, source, nodes, value, outputs if len(outputs) == len(parts) else None)


def _part(node: Node) -> str | Expression | None:
    if isinstance(node, ContentNode):
        return node.text
    if not isinstance(node, OutputNode):
        return None
    expression = node.expression
    return expression.left if isinstance(expression, FilteredExpression) and not expression.filters else expression


class Template:
    """A compiled template."""

    def __init__(self, document: object) -> None:
        self._texts: list[_Text] = []
        self._errors: list[FieldError] = []
        self._document = self._compiled(document, "", 0)
        if self._errors:
            raise InvalidRequest("; ".join(f"{one.pointer}: {one.detail}" for one in self._errors), errors=self._errors)

    def render(self, variables: Mapping[str, object], *, strict: bool) -> bytes:
        """The document as JSON. The same variables give the same bytes.

        strict  an absent name is an error; otherwise it is empty text

        Raises NotRenderable, with an error for each text that cannot be rendered, and TooSlow.
        """
        context = _Context(variables, strict=strict)
        errors: list[FieldError] = []
        document = self._filled(self._document, context, errors)
        if errors:
            raise NotRenderable(errors)
        try:
            body = dumps(document)
        except (TypeError, RecursionError):
            raise NotRenderable([_failure("", "not_json", "a value is not JSON, or is nested too deeply")]) from None
        if len(body) > MAX_OUTPUT:
            raise NotRenderable([_failure("", "too_large", f"the document has more than {MAX_OUTPUT:,} bytes")])
        return body

    def _compiled(self, part: object, pointer: str, depth: int) -> object:
        """A part of the document with _Text in place of each text with Liquid."""
        if isinstance(part, str):
            return self._compiled_text(part, pointer) if _OPENING.search(part) else part
        if not isinstance(part, dict | list):
            return part
        if depth == MAX_DEPTH:
            self._fail(pointer, f"a template has at most {MAX_DEPTH} levels")
            return part
        if isinstance(part, dict):
            return {
                name: self._compiled(one, f"{pointer}/{name.replace('~', '~0').replace('/', '~1')[:100]}", depth + 1)
                for name, one in part.items()
            }
        return [self._compiled(one, f"{pointer}/{index}", depth + 1) for index, one in enumerate(part)]

    def _compiled_text(self, source: str, pointer: str) -> object:
        if len(self._texts) == MAX_TEXTS:
            self._fail(pointer, f"a template has at most {MAX_TEXTS} texts with Liquid")
            return source
        try:
            text = _parsed(pointer, source)
        except _Mistake as error:
            self._fail(pointer, f"{error}{_position(source, error.index)}")
        except LiquidError as error:
            index = -1 if error.token is None else error.token.start_index
            self._fail(pointer, f"{error.message}{_position(source, index)}")
        else:
            self._texts.append(text)
            return text
        return source

    def _fail(self, pointer: str, problem: str) -> None:
        if len(self._errors) < MAX_ERRORS:
            self._errors.append(FieldError(pointer=pointer, code="invalid_template", detail=problem))

    def _filled(self, part: object, context: _Context, errors: list[FieldError]) -> object:
        kind = type(part)
        if kind is dict:
            return {name: self._filled(one, context, errors) for name, one in part.items()}  # type: ignore[attr-defined]
        if kind is list:
            return [self._filled(one, context, errors) for one in part]  # type: ignore[attr-defined]
        if kind is not _Text:
            return part
        assert isinstance(part, _Text)
        if len(errors) == MAX_ERRORS:
            return None
        try:
            return part.render(context)
        except UndefinedError as error:
            errors.append(_failure(part.pointer, "missing_name", str(error.message)))
        except LiquidInterrupt as error:
            errors.append(_failure(part.pointer, "invalid_template", f"{error} is outside of a loop"))
        except LiquidError as error:
            index = -1 if error.token is None else error.token.start_index
            where = _position(part.source, index) if index >= 0 else ""
            errors.append(_failure(part.pointer, "not_renderable", f"{error.message}{where}"))
        except (ArithmeticError, ValueError, LookupError, TypeError, RecursionError) as error:
            errors.append(
                _failure(part.pointer, "not_renderable", f"a value has the wrong type or size ({type(error).__name__})")
            )
        return None


def _failure(pointer: str, code: str, detail: str) -> FieldError:
    return FieldError(pointer=pointer, code=code, detail=detail[:300])


def _position(source: str, index: int) -> str:
    """` (line 1, column 9)` of an index; the end of the source for -1."""
    index = len(source) if index < 0 else min(index, len(source))
    line = source.count("\n", 0, index) + 1
    return f" (line {line}, column {index - source.rfind(chr(10), 0, index)})"


_cache: dict[bytes, Template] = {}
"""The templates used last, by their JSON, the oldest first: MAX_CACHED_BYTES of source at most."""
_cached_bytes = 0


def compile_template(document: object) -> Template:
    """A template, ready to render: compiled once for each distinct template in use.

    Raises InvalidRequest, with an error for each text and its line and column.

    document  JSON as `relay.core.jsontext.loads` returns it
    """
    global _cached_bytes
    source = dumps(document)
    template = _cache.pop(source, None)
    if template is None:
        if len(source) > MAX_TEMPLATE_BYTES:
            detail = f"the template has {len(source):,} bytes, more than {MAX_TEMPLATE_BYTES:,}"
            raise InvalidRequest(detail, errors=[FieldError(pointer="", code="too_large", detail=detail)])
        template = Template(document)
        _cached_bytes += len(source)
        while _cached_bytes > MAX_CACHED_BYTES:
            oldest = next(iter(_cache))
            del _cache[oldest]
            _cached_bytes -= len(oldest)
    _cache[source] = template
    return template
