"""python-liquid within limits: the state of rendering, which counts what a document uses, and bounded parts of
templates. python-liquid itself limits only nesting."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TextIO

from liquid import BlockNode, Environment, Expression, Node, RenderContext, Token, Undefined
from liquid.builtin.content import Literal
from liquid.builtin.expressions import KeywordArgument, PositionalArgument
from liquid.builtin.expressions.filtered import Filter
from liquid.builtin.expressions.logical import ContainsExpression, EqExpression, NeExpression
from liquid.builtin.expressions.path import Path
from liquid.builtin.expressions.primitive import RangeLiteral
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
    LiquidError,
    LoopIterationLimitError,
    ResourceLimitError,
    UndefinedError,
)
from liquid.undefined import UNDEFINED, FalsyStrictUndefined
from liquid.utils import ReadOnlyChainMap

from relay.expressions.liquid_filters import DEFAULT, FILTERS
from relay.expressions.liquid_limits import (
    ITEM_SIZE,
    LOOK_AFTER_WORK,
    MAX_BLOCKS,
    MAX_INTEGER_BITS,
    MAX_ITERATIONS,
    MAX_LOCALS,
    MAX_OUTPUT,
    MAX_SECONDS,
    MAX_VALUE,
    MAX_WORK,
    SCALARS,
    SIZE_PER_UNIT,
    SOURCE_PER_UNIT,
    TooMuch,
    TooSlow,
    Unsuitable,
    as_text,
    size_of,
)


class Missing(Undefined):
    """A name that is not there, where that is allowed: empty text."""

    __slots__ = ()


class Absent(FalsyStrictUndefined):
    """A name that is not there, where that is an error: it can be tested, compared and given a default, not used."""

    __slots__ = ()


_NOTHING = Missing("nothing")


# Types are compared, not tested with isinstance, where it costs: python-liquid's classes are abstract ones.
class Buffer:
    """Output of a text or of a `capture`, counted by its context. python-liquid writes to it and reads its value."""

    __slots__ = ("_context", "_texts")

    def __init__(self, context: "Context") -> None:
        self._context = context
        self._texts: list[str] = []

    def write(self, text: str) -> int:
        self._context.count_output(len(text))
        self._texts.append(text)
        return len(text)

    def getvalue(self) -> str:
        return "".join(self._texts)


class Context(RenderContext):
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
        """Counts work. Raises TooMuch, or TooSlow."""
        self._work_left -= work
        if self._work_left < self._look_below:
            self._look()

    def _look(self) -> None:
        if self._work_left < 0:
            raise TooMuch(f"the template needs more than {MAX_WORK:,} steps: make its loops shorter")
        now = time.thread_time()
        if self._deadline is None:
            self._deadline = now + MAX_SECONDS
        elif now > self._deadline:
            raise TooSlow(f"the template takes longer than {MAX_SECONDS:g} s")
        self._look_below = max(self._work_left - LOOK_AFTER_WORK, 0)

    def count_output(self, size: int) -> None:
        """Counts output. Raises TooMuch."""
        self.count(1 + size // SIZE_PER_UNIT)
        self._output_left -= size
        if self._output_left < 0:
            raise TooMuch(f"the template makes more than {MAX_OUTPUT:,} characters")

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
        """Sets a variable of the text. Raises TooMuch."""
        size = size_of(val)
        self.count(1 + size // SIZE_PER_UNIT)
        self._sizes[key] = size
        if sum(self._sizes.values()) > MAX_LOCALS:
            raise TooMuch(f"the template's variables are larger than {MAX_LOCALS:,} characters")
        self.locals[str(key)] = val

    def get_buffer(self, buf: TextIO | None = None) -> Any:
        """A new buffer whose output is counted."""
        return Buffer(self)

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
            return Absent(name, hint=f"{name} is absent", token=token)
        return found

    def filter(self, name: str, token: Token | None) -> Callable[..., object]:
        """The filter of this name, with limits on what it takes and makes."""
        return functools.partial(self._filtered, name)

    def _filtered(self, name: str, left: object, *args: object, **kwargs: object) -> object:
        used = FILTERS[name]
        operands = (left, *args, *kwargs.values()) if kwargs else (left, *args)
        size = 0
        for operand in operands:
            if type(operand) is Absent and used is not DEFAULT:
                raise UndefinedError(operand.hint, token=None)
            size += size_of(operand)
        self.count(2 + size // SIZE_PER_UNIT)
        if used.squared:
            self.count((size // ITEM_SIZE) ** 2 // 100)
        if used.text and not isinstance(left, str):
            left = as_text(left)
        try:
            made = used.function(left, *args, **kwargs)
        except (Unsuitable, UndefinedError, ResourceLimitError):
            raise
        except (LiquidError, ArithmeticError, ValueError, TypeError, LookupError, RecursionError):
            kinds = " and ".join([_kind(operand) for operand in operands])
            raise Unsuitable(f"filter {name} cannot take {kinds}, or has no result for it") from None
        if isinstance(made, range):
            made = list(made)
        kind = type(made)
        if kind is int:
            if made.bit_length() > MAX_INTEGER_BITS:  # type: ignore[attr-defined]
                raise TooMuch("a number is too large")
        elif size_of(made) > MAX_VALUE:
            raise TooMuch(f"a value is larger than {MAX_VALUE:,} characters")
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
            raise TooMuch(f"a range is longer than {MAX_ITERATIONS:,}")
        return made


class _Compared:
    """A comparison. Its work is the size of its left side."""

    __slots__ = ()
    left: Expression

    def evaluate(self, context: RenderContext) -> object:
        assert isinstance(context, Context)
        context.count(1 + size_of(self.left.evaluate(context)) // SIZE_PER_UNIT)
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
        assert isinstance(context, Context)
        context.count((1 + size_of(self.left.evaluate(context)) // SIZE_PER_UNIT) * len(self.expressions))
        return super().evaluate(context)


class _Block(BlockNode):
    """The inside of a tag. Its work is the length of its source, each time it is rendered."""

    __slots__ = ()

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        assert isinstance(context, Context)
        length = self.token.start_index - self.nodes[0].token.start_index if self.nodes else 0
        context.count(1 + max(length, 0) // SOURCE_PER_UNIT)
        return super().render_to_output(context, buffer)


class _OutputNode(OutputNode):
    """`{{ … }}` within a text."""

    __slots__ = ()

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return buffer.write(shown(self.expression.evaluate(context)))


class _Output(Output):
    node_class = _OutputNode


BOUNDED: Mapping[type, type] = MappingProxyType(
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
PARTS = (Node, Expression, Filter, KeywordArgument, PositionalArgument)
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


def shown(value: object) -> str:
    """A value within a text. Raises TooMuch."""
    if isinstance(value, str):
        return value
    if type(value) not in SCALARS and size_of(value) > MAX_VALUE:
        raise TooMuch(f"a value is larger than {MAX_VALUE:,} characters")
    return as_text(value)


ENVIRONMENT = _Environment()
_EMPTY = ENVIRONMENT.from_string("")
