"""The language of templates: compiles python-liquid's syntax tree to functions that count their work. Refuses the rest.

There are no loops and no variables, so each part of a template is evaluated once at most.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from liquid import BlockNode, Environment, Expression, Node
from liquid.builtin.content import ContentNode
from liquid.builtin.content import Literal as ContentTag
from liquid.builtin.expressions import (
    BooleanExpression,
    FilteredExpression,
    KeywordArgument,
    Nil,
    Path,
    logical,
    primitive,
)
from liquid.builtin.expressions.filtered import Filter
from liquid.builtin.illegal import Illegal
from liquid.builtin.output import Output, OutputNode
from liquid.builtin.tags.case_tag import CaseNode, CaseTag, MultiExpressionBlockNode
from liquid.builtin.tags.comment_tag import CommentNode, CommentTag
from liquid.builtin.tags.if_tag import IfNode, IfTag
from liquid.builtin.tags.unless_tag import UnlessNode, UnlessTag
from liquid.exceptions import LiquidError

from relay.expressions import liquid_limits as limits
from relay.expressions.liquid_filters import FILTERS, LiquidFilter, suggestion
from relay.expressions.liquid_limits import Absent, Escape, MissingName, Unrenderable, as_text, is_long, search_work


class Mistake(Exception):
    """A mistake in a text, at an index of its source; -1 for its end."""

    def __init__(self, problem: str, index: int) -> None:
        super().__init__(problem)
        self.index = index


_NOTHING = Absent("")


class Work:
    """The rendering of one document: its variables and its remaining limits.

    variables  the values by their names. Raises KeyError for others
    strict     an absent name is an error
    """

    def __init__(self, variables: Mapping[str, object], *, strict: bool, escape: Escape | None = None) -> None:
        self.variables = variables
        self.strict = strict
        self.left = limits.MAX_WORK
        self._output_left = limits.MAX_OUTPUT
        self._escape = escape
        self._character_work = limits.CHARACTER_WORK + (0 if escape is None else escape.character_work)
        self._item_work = limits.ITEM_WORK + (0 if escape is None else escape.item_work)

    def count(self, work: int) -> None:
        """Counts work. Raises Unrenderable above the limit."""
        self.left -= work
        if self.left < 0:
            raise Unrenderable("this takes more work than a template may: use fewer or shorter values")

    def count_value(self, value: object) -> None:
        """Counts a value that is read or created: its characters, and each item."""
        kind = type(value)
        if kind is str:
            self.count(limits.PART_WORK + self._character_work * len(value))  # type: ignore[arg-type]
        elif kind is list or kind is dict:
            self.count(limits.PART_WORK)
            self._count_items(value)
        else:
            self.count(limits.PART_WORK)

    def _count_items(self, value: Any) -> None:
        self.count(self._item_work * (1 + len(value)))
        characters = 0
        if type(value) is dict:
            characters, value = sum(map(len, value)), value.values()
        for item in value:
            kind = type(item)
            if kind is str:
                characters += len(item)
            elif kind is list or kind is dict:
                self._count_items(item)
            elif (kind is int or kind is float) and is_long(item):
                self.count(limits.NUMBER_WORK)
        self.count(self._character_work * characters)

    def named(self, value: object) -> object:
        """The value of a variable, escaped for the document."""
        self.count_value(value)
        if self._escape is None:
            return value
        changed = self._escape.change(value)
        self.count_value(changed)  # the changed value may be longer
        return changed

    def printed(self, text: str) -> str:
        """Counts and returns a text that becomes a part of the document."""
        self.count(limits.PART_WORK + limits.CHARACTER_WORK * len(text))
        self.count_output(len(text))
        return text

    def count_output(self, size: int) -> None:
        """Counts output of the document. Raises Unrenderable above the limit."""
        self._output_left -= size
        if self._output_left < 0:
            raise Unrenderable(f"the template makes more than {limits.MAX_OUTPUT:,} characters")


Evaluate = Callable[[Work], Any]
"""Returns the value of an expression."""
Print = Callable[[Work, list[str]], object]
"""Appends the output of a node."""


def present(value: object) -> Any:
    """The value; nil for an absent name. Raises MissingName if that is an error."""
    if type(value) is not Absent:
        return value
    if value.name:
        raise MissingName(f"{value.name} is absent")
    return None


def _or_nil(value: object) -> Any:
    return None if type(value) is Absent else value


# --- expressions


def expression(part: Expression) -> Evaluate:
    """Compiles an expression to a function. Raises Mistake."""
    if isinstance(part, primitive.Literal):
        value = part.value
        return lambda work: value
    make = _EXPRESSIONS.get(type(part))
    if make is None:
        raise Mistake("there are no ranges: name an array of the event", part.token.start_index)
    return make(part)


def _constant(part: Expression) -> Evaluate:
    value = None if isinstance(part, Nil) else part  # `empty` and `blank` are what equals them
    return lambda work: value


def _path(part: Path) -> Evaluate:
    segments = tuple([_path(one) if isinstance(one, Path) else one for one in part.path])

    def evaluate(work: Work) -> object:
        work.count(limits.PART_WORK * len(segments))
        found: Any = work.variables
        for place, segment in enumerate(segments):
            key = _or_nil(segment(work)) if callable(segment) else segment
            try:
                found = _item(found, key) if place else found[key]
            except (LookupError, TypeError):
                return Absent(_shown(segments[: place + 1])) if work.strict else _NOTHING
        return work.named(found)

    return evaluate


def _item(value: Any, key: object) -> Any:
    """An item of an array or an object, or its size, first or last one. Raises LookupError and TypeError."""
    kind = type(value)
    if kind is dict and key in value:
        return value[key]
    if key == "size" and kind in (str, list, dict):
        return len(value)
    if kind is list and key in ("first", "last"):
        return value[0 if key == "first" else -1]
    if kind is list and type(key) is int:
        return value[key]
    raise LookupError


def _shown(segments: tuple[object, ...]) -> str:
    """A path such as `jobs[0].name`, shortened for an error; `…` for segments from the data."""
    first, *others = ["…" if callable(one) else one for one in segments]
    return "".join([str(first), *(f".{one}" if isinstance(one, str) else f"[{one}]" for one in others)])[:200]


def _binary(part: Any) -> Evaluate:
    left, right, operator = expression(part.left), expression(part.right), _OPERATORS[type(part)]

    def evaluate(work: Work) -> bool:
        work.count(limits.PART_WORK)
        return operator(work, _or_nil(left(work)), _or_nil(right(work)))

    return evaluate


def _and(part: logical.LogicalAndExpression) -> Evaluate:
    left, right = expression(part.left), expression(part.right)
    return lambda work: _is_true(left(work)) and _is_true(right(work))


def _or(part: logical.LogicalOrExpression) -> Evaluate:
    left, right = expression(part.left), expression(part.right)
    return lambda work: _is_true(left(work)) or _is_true(right(work))


def _is_true(value: object) -> bool:
    return not (value is None or value is False or type(value) is Absent)


def _equal(_: object, left: object, right: object) -> bool:
    if isinstance(right, primitive.Empty | primitive.Blank):
        left, right = right, left
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return left == right


def _less(_: object, left: Any, right: Any) -> bool:
    if left is None or right is None:
        return False
    if not _are_comparable(left, right):
        raise Unrenderable(f"{kind_of(left)} cannot be compared with {kind_of(right)}")
    return bool(left < right)


def _at_most(_: object, left: Any, right: Any) -> bool:
    return _are_comparable(left, right) and bool(left <= right)


def _are_comparable(left: object, right: object) -> bool:
    return any(isinstance(left, kind) and isinstance(right, kind) for kind in (str, (int, float)))


def _contains(work: Work, left: Any, right: Any) -> bool:
    if not (_is_true(left) and _is_true(right)):
        return False
    if isinstance(left, str):
        wanted = as_text(right)
        work.count(search_work(left, wanted))
        return wanted in left
    if isinstance(left, list | dict):
        return right in left
    raise Unrenderable(f"{kind_of(left)} cannot be searched with contains")


# --- filters


def _filtered(part: FilteredExpression) -> Evaluate:
    value = expression(part.left)
    for used in part.filters or ():
        value = _filter(used, value)
    return value


def _filter(used: Filter, value: Evaluate) -> Evaluate:
    name, known = used.name, FILTERS.get(used.name)
    if known is None:
        raise Mistake(f"there is no filter {name!r}{suggestion(name, tuple(FILTERS))}", used.token.start_index)
    named = {one.name: expression(one.value) for one in used.args if isinstance(one, KeywordArgument)}
    positional = [expression(one.value) for one in used.args if not isinstance(one, KeywordArgument)]
    try:
        _signature(known.function).bind(None, *positional, **named)
    except TypeError as error:
        raise Mistake(f"filter {name}: {error}", used.token.start_index) from None
    takes: Callable[[object], object] = (lambda value: value) if known.takes_absent else present

    def evaluate(work: Work) -> object:
        left = takes(value(work))
        others = [takes(one(work)) for one in positional]
        options = {option: takes(one(work)) for option, one in named.items()}
        return _apply(work, name, known, left, others, options)

    return evaluate


_signature = functools.cache(inspect.signature)


def _apply(work: Work, name: str, known: LiquidFilter, left: Any, others: list[Any], options: dict[str, Any]) -> object:
    if known.takes_text:
        left = as_text(left)
    size = len(left) if isinstance(left, str | list) else 0
    work.count(known.work + known.work_per_item * size)
    if known.searches and others and isinstance(left, str):
        work.count(search_work(left, as_text(others[0])))
    try:
        made = known.function(left, *others, **options)
    except Unrenderable:
        raise
    except (LiquidError, ArithmeticError, ValueError, TypeError, LookupError, RecursionError):
        kinds = " and ".join([kind_of(one) for one in (left, *others, *options.values())])
        raise Unrenderable(f"filter {name} cannot take {kinds}, or has no result for it") from None
    if type(made) is int and made.bit_length() > limits.MAX_INTEGER_BITS:
        raise Unrenderable("a number is too large")
    if type(made) is str and len(made) > limits.MAX_OUTPUT:
        raise Unrenderable(f"a text is longer than {limits.MAX_OUTPUT:,} characters")
    work.count_value(made)
    return made


def kind_of(value: object) -> str:
    """The type of a value in words, without the value itself."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else "an object" if isinstance(value, dict) else "an array"


# --- nodes


def block(nodes: Sequence[Node]) -> Print:
    """Compiles nodes to a function that prints them one after the other. Raises Mistake."""
    printers = tuple([_NODES[type(one)](one) for one in nodes if not isinstance(one, CommentNode)])

    def render(work: Work, texts: list[str]) -> None:
        for one in printers:
            one(work, texts)

    return render


def _content(node: ContentNode) -> Print:
    text = node.text
    return lambda work, texts: texts.append(work.printed(text))


def _output(node: OutputNode) -> Print:
    value = expression(node.expression)
    return lambda work, texts: texts.append(work.printed(as_text(present(value(work)))))


def _inside(node: BlockNode) -> Print:
    """Compiles the inside of a tag. White space alone prints nothing."""
    return block(() if node.blank else node.nodes)


def _if(node: Any) -> Print:
    branches = [(expression(node.condition), _inside(node.consequence))]
    branches += [(expression(one.expression), _inside(one.block)) for one in node.alternatives]
    other = _inside(node.default) if node.default else block(())
    negated = isinstance(node, UnlessNode)

    def render(work: Work, texts: list[str]) -> object:
        for place, (condition, inside) in enumerate(branches):
            work.count(limits.PART_WORK)
            if _is_true(condition(work)) is not (negated and place == 0):
                return inside(work, texts)
        return other(work, texts)

    return render


def _case(node: CaseNode) -> Print:
    value = expression(node.expression)
    branches: list[tuple[list[Evaluate] | None, Print]] = []
    for one in node.blocks:
        if isinstance(one, MultiExpressionBlockNode):
            branches.append(([expression(each) for each in one.expression.expressions], _inside(one.block)))
        else:
            branches.append((None, _inside(one)))

    def render(work: Work, texts: list[str]) -> None:
        subject, found = _or_nil(value(work)), False
        for wanted, inside in branches:
            if wanted is None:
                if not found:
                    inside(work, texts)
                continue
            for one in wanted:
                work.count_value(subject)
                if _equal(work, subject, _or_nil(one(work))):
                    found = True
                    inside(work, texts)
                    break

    return render


_OPERATORS: Mapping[type, Callable[[Work, Any, Any], bool]] = MappingProxyType(
    {
        logical.EqExpression: _equal,
        logical.NeExpression: lambda work, left, right: not _equal(work, left, right),
        logical.LtExpression: _less,
        logical.GtExpression: lambda work, left, right: _less(work, right, left),
        logical.LeExpression: _at_most,
        logical.GeExpression: lambda work, left, right: _at_most(work, right, left),
        logical.ContainsExpression: _contains,
    }
)
_EXPRESSIONS: Mapping[type, Callable[[Any], Evaluate]] = MappingProxyType(
    {
        Nil: _constant,
        primitive.Empty: _constant,
        primitive.Blank: _constant,
        Path: _path,
        BooleanExpression: lambda part: expression(part.expression),
        FilteredExpression: _filtered,
        logical.LogicalAndExpression: _and,
        logical.LogicalOrExpression: _or,
        **dict.fromkeys(_OPERATORS, _binary),
    }
)
_NODES: Mapping[type, Callable[[Any], Print]] = MappingProxyType(
    {ContentNode: _content, OutputNode: _output, IfNode: _if, UnlessNode: _if, CaseNode: _case}
)


class _Environment(Environment):
    block_nesting_limit = limits.MAX_BLOCKS

    def setup_tags_and_filters(self, *, extra: bool = False) -> None:
        for tag in (ContentTag, Illegal, Output, IfTag, UnlessTag, CaseTag, CommentTag):
            self.add_tag(tag)


ENVIRONMENT = _Environment()
TAGS = ("if", "unless", "case", "comment", "raw")
"""Tags that templates can use."""
