"""Templates: JSON documents whose texts are Liquid, compiled once and rendered within limits.

A text that is exactly one output expression keeps its JSON type: `"{{ metadata.deal }}"` becomes 42. Any other is text.
Keys of objects are not templates. There are no files, includes or clocks, and a template can only read its variables.

Everything is bounded, whatever the template or the data: see `liquid_parts.py`. `compile_template` raises
InvalidRequest, `Template.render` NotRenderable; both name each text by its JSON pointer within the template. Import
this module only where it is needed: it costs 0.15 s.

python-liquid parses: `liquid_parts.py` reads its nodes and expressions. tests/unit/expressions/test_liquid.py breaks if
they change, so pyproject.toml pins one minor version.

Source: the documentation of Shopify's Liquid and of python-liquid.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from liquid.builtin.output import OutputNode
from liquid.exceptions import LiquidError

from relay.core.jsontext import dumps, loads
from relay.errors import FieldError, InvalidRequest, NotRenderable
from relay.expressions import liquid_limits as limits
from relay.expressions.liquid_filters import suggestion
from relay.expressions.liquid_limits import Absent, Escape, MissingName, Unrenderable, as_text
from relay.expressions.liquid_parts import (
    ENVIRONMENT,
    TAGS,
    Evaluate,
    Mistake,
    Print,
    Work,
    block,
    expression,
    present,
)

_OPENING = re.compile(r"\{\{|\{%")
_TAG_NAME = re.compile(r"-?\s*(\w+|#)?")
_END_RAW = re.compile(r"\{%-?\s*endraw\s*-?%\}")
_WORD = re.compile(r"""'[^']*'|"[^"]*"|[\w-]+|[^\w\s.]""")
_NO_LOOPS = "templates have no loops: {{ metadata.tags | join: ', ' }} prints an array, map takes a field of each item"
_NO_VARIABLES = "templates have no variables: write the value where it is used"
_INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(("for", "endfor", "tablerow", "endtablerow", "break", "continue", "cycle"), _NO_LOOPS),
    **dict.fromkeys(("assign", "capture", "endcapture", "increment", "decrement"), _NO_VARIABLES),
    **dict.fromkeys(("include", "render"), "templates have no files: write it out"),
}
"""Replacements for Liquid tags that templates do not support."""


class _Size:
    """The number of tags and words in a template."""

    def __init__(self) -> None:
        self.tags = self.words = 0

    def count(self, inside: str, index: int) -> None:
        """Counts a tag. Raises Mistake."""
        self.tags += 1
        self.words += len(_WORD.findall(inside))
        if self.tags > limits.MAX_TAGS:
            raise Mistake(f"a template has at most {limits.MAX_TAGS} {{{{ … }}}} and {{% … %}}", index)
        if self.words > limits.MAX_WORDS:
            problem = (
                f"a template has at most {limits.MAX_WORDS:,} names, values and signs in {{{{ … }}}} and {{% … %}}"
            )
            raise Mistake(problem, index)


def _check_tags(source: str, size: _Size) -> None:
    """Raises Mistake for unsupported tags, and for errors that python-liquid does not refuse or refuses slowly: for an
    unclosed tag, its patterns take the square of the length."""
    index = 0
    while opening := _OPENING.search(source, index):
        start, inside = opening.span()
        output = opening[0] == "{{"
        closing = "}}" if output else "%}"
        end = source.find(closing, inside)
        if end < 0:
            raise Mistake(f"this {opening[0]} has no {closing}", start)
        if end - inside > limits.MAX_TAG_CHARACTERS:
            raise Mistake(
                f"what is between {opening[0]} and {closing} is longer than {limits.MAX_TAG_CHARACTERS}", start
            )
        if not source[inside:end].strip("- \t\r\n\f\v"):
            raise Mistake(f"there is nothing between {opening[0]} and {closing}", start)
        size.count(source[inside:end], start)
        index = end + 2
        if output:
            continue
        named = _TAG_NAME.match(source, inside)
        name = (named and named[1]) or ""
        known = (*TAGS, *(f"end{tag}" for tag in TAGS), "else", "elsif", "when")
        if name not in known:
            instead = f": {_INSTEAD[name]}" if name in _INSTEAD else suggestion(name, TAGS)
            raise Mistake(f"there is no tag {name!r}{instead}", start)
        if name == "raw":
            ended = _END_RAW.search(source, index)
            if ended is None:
                raise Mistake("this tag has no endraw", start)
            index = ended.end()


class _Text(NamedTuple):
    """A text with Liquid.

    value   the expression whose value it is; None: it is text
    prints  appends the text
    """

    pointer: str
    source: str
    value: Evaluate | None
    prints: Print

    def render(self, work: Work) -> object:
        """Its value. Raises Unrenderable."""
        if self.value is None:
            texts: list[str] = []
            self.prints(work, texts)
            return "".join(texts)
        value = self.value(work)
        if type(value) is Absent:
            present(value)
            return ""
        keeps = value is None or isinstance(value, int | float | list | dict)
        return value if keeps else work.printed(as_text(value))


def _parsed(pointer: str, source: str, size: _Size) -> _Text:
    """Compiles a text with Liquid. Raises Mistake and LiquidError."""
    _check_tags(source, size)
    nodes = tuple(ENVIRONMENT.from_string(source).nodes)
    value = None
    if len(nodes) == 1 and isinstance(nodes[0], OutputNode) and source.startswith("{{") and source.endswith("}}"):
        value = expression(nodes[0].expression)
    return _Text(pointer, source, value, block(nodes))


class Template:
    """A compiled template."""

    def __init__(self, document: object) -> None:
        self._size = _Size()
        self._errors: list[FieldError] = []
        self._document = self._compiled(document, "", 0)
        if self._errors:
            raise InvalidRequest("; ".join(f"{one.pointer}: {one.detail}" for one in self._errors), errors=self._errors)

    def render(
        self,
        variables: Mapping[str, object],
        *,
        strict: bool,
        escape: Escape | None = None,
    ) -> bytes:
        """The document as JSON. The same variables give the same bytes.

        variables  raises KeyError for a name that is absent
        strict     an absent name is an error; otherwise it is empty text
        escape     changes each value that the template names

        Raises NotRenderable, with an error for each text that cannot be rendered.
        """
        work = Work(variables, strict=strict, escape=escape)
        errors: list[FieldError] = []
        document = self._filled(self._document, work, errors)
        if errors:
            raise NotRenderable(errors)
        try:
            body = dumps(document)
        except (TypeError, RecursionError):
            raise NotRenderable([_failure("", "not_json", "a value is not JSON, or is nested too deeply")]) from None
        if len(body) > limits.MAX_OUTPUT:
            raise NotRenderable([_failure("", "too_large", f"the document has more than {limits.MAX_OUTPUT:,} bytes")])
        return body

    def memory(self, source: bytes) -> int:
        """Its estimated memory in bytes. `source`: its JSON."""
        return limits.SOURCE_BYTES * len(source) + limits.PART_BYTES * (self._size.tags + self._size.words)

    def _compiled(self, part: object, pointer: str, depth: int) -> object:
        """A part of the document, with each Liquid text replaced by a _Text."""
        if isinstance(part, str):
            return self._compiled_text(part, pointer) if _OPENING.search(part) else part
        if not isinstance(part, dict | list):
            return part
        if depth == limits.MAX_DEPTH:
            self._fail(pointer, f"a template has at most {limits.MAX_DEPTH} levels")
            return part
        if isinstance(part, dict):
            return {
                name: self._compiled(one, f"{pointer}/{name.replace('~', '~0').replace('/', '~1')[:100]}", depth + 1)
                for name, one in part.items()
            }
        return [self._compiled(one, f"{pointer}/{index}", depth + 1) for index, one in enumerate(part)]

    def _compiled_text(self, source: str, pointer: str) -> object:
        if len(self._errors) == limits.MAX_ERRORS:
            return source
        try:
            return _parsed(pointer, source, self._size)
        except Mistake as error:
            self._fail(pointer, f"{error}{_position(source, error.index)}")
        except LiquidError as error:
            index = -1 if error.token is None else error.token.start_index
            self._fail(pointer, f"{error.message}{_position(source, index)}")
        except RecursionError:
            self._fail(pointer, "this is nested too deeply")
        return source

    def _fail(self, pointer: str, problem: str) -> None:
        if len(self._errors) < limits.MAX_ERRORS:
            self._errors.append(FieldError(pointer=pointer, code="invalid_template", detail=problem))

    def _filled(self, part: object, work: Work, errors: list[FieldError]) -> object:
        kind = type(part)
        if kind is dict:
            return {name: self._filled(one, work, errors) for name, one in part.items()}  # type: ignore[attr-defined]
        if kind is list:
            return [self._filled(one, work, errors) for one in part]  # type: ignore[attr-defined]
        if kind is not _Text:
            return part
        assert isinstance(part, _Text)
        if len(errors) == limits.MAX_ERRORS:
            return None
        try:
            return part.render(work)
        except MissingName as error:
            errors.append(_failure(part.pointer, "missing_name", str(error)))
        except Unrenderable as error:
            errors.append(_failure(part.pointer, "not_renderable", str(error)))
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


def compile_template(document: object) -> Template:
    """Compiles a template, once for each distinct template in use.

    Raises InvalidRequest, with an error for each text and its line and column.

    document  JSON as `relay.core.jsontext.loads` returns it
    """
    source = dumps(document)
    if len(source) > limits.MAX_TEMPLATE_BYTES:
        detail = f"the template has {len(source):,} bytes, more than {limits.MAX_TEMPLATE_BYTES:,}"
        raise InvalidRequest(detail, errors=[FieldError(pointer="", code="too_large", detail=detail)])
    return _cache.get(source)


class _Cache:
    """Compiled templates by their source, the least recently used first. `memory`: of all, in bytes."""

    def __init__(self) -> None:
        self.templates: dict[bytes, Template] = {}
        self.memory = 0

    def get(self, source: bytes) -> Template:
        """The compiled template. Raises InvalidRequest."""
        template = self.templates.pop(source, None)
        if template is None:
            template = Template(loads(source))
            self.memory += template.memory(source)
        self.templates[source] = template
        while self.memory > limits.MAX_CACHED_BYTES:
            oldest = next(iter(self.templates))
            self.memory -= self.templates.pop(oldest).memory(oldest)
        return template


_cache = _Cache()
