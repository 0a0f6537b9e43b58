"""Templates: JSON documents whose texts are Liquid, compiled once and rendered within limits.

A text that is exactly one output expression keeps its JSON type: `"{{ metadata.deal }}"` becomes 42. Any other is text.
Keys of objects are no templates. There are no files, includes or clocks, and a template sees nothing but its variables.

Everything is bounded, whoever wrote the template or the data: python-liquid limits nesting, and a _Context counts the
work and the output of a whole document. `compile_template` raises InvalidRequest, `Template.render` NotRenderable; both
name each text by its JSON pointer within the template. Import this module only where it is needed: it costs 0.15 s.

Source: the documentation of Shopify's Liquid and of python-liquid.
"""

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from liquid import Expression, Node, Token
from liquid.builtin.content import ContentNode
from liquid.builtin.expressions import FilteredExpression, KeywordArgument, PositionalArgument
from liquid.builtin.expressions.filtered import Filter
from liquid.builtin.output import OutputNode
from liquid.exceptions import (
    LiquidError,
    LiquidInterrupt,
    UndefinedError,
)

from relay.core.jsontext import dumps
from relay.errors import FieldError, InvalidRequest, NotRenderable
from relay.expressions.liquid_filters import FILTERS
from relay.expressions.liquid_limits import (
    MAX_CACHED_BYTES,
    MAX_DEPTH,
    MAX_ERRORS,
    MAX_OUTPUT,
    MAX_TAG_CHARACTERS,
    MAX_TEMPLATE_BYTES,
    MAX_TEXTS,
    SCALARS,
    as_text,
    size_of,
)
from relay.expressions.liquid_parts import BOUNDED, ENVIRONMENT, PARTS, TAGS, Absent, Buffer, Context, shown

_MAX_EXPRESSION_DEPTH = 100
_NEAR = 0.6


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
        if not isinstance(part, PARTS):
            continue
        if depth > _MAX_EXPRESSION_DEPTH:
            raise _Mistake("this is nested too deeply", -1)
        if type(part) in BOUNDED:
            part.__class__ = BOUNDED[type(part)]  # the same slots, with limits
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

    def render(self, context: Context) -> object:
        """Its value. Raises whatever python-liquid raises."""
        if self.value is not None:
            value = self.value.evaluate(context)
            kind = type(value)
            if kind is str:
                context.count_output(len(value))  # type: ignore[arg-type]
                return value
            if kind in SCALARS:
                return value
            if kind is Absent:
                raise UndefinedError(value.hint, token=None)  # type: ignore[attr-defined]
            context.count_output(size_of(value))
            return value if isinstance(value, list | tuple | dict) else as_text(value)
        if self.parts is not None:
            texts = [part if isinstance(part, str) else shown(part.evaluate(context)) for part in self.parts]
            text = "".join(texts)
            context.count_output(len(text))
            return text
        buffer: Any = Buffer(context)
        try:
            for node in self.nodes:
                node.render(context, buffer)
        finally:
            context.end_text()
        return buffer.getvalue()


def _parsed(pointer: str, source: str) -> _Text:
    """A text with Liquid, ready to render. Raises _Mistake and LiquidError."""
    _check_delimiters(source)
    nodes = tuple(ENVIRONMENT.from_string(source).nodes)
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
        context = Context(variables, strict=strict)
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

    def _filled(self, part: object, context: Context, errors: list[FieldError]) -> object:
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
