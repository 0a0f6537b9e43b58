"""Filters in CEL: compiled once, and refused where one evaluation could take long.

CEL itself does not limit the cost of an evaluation. So an expression has at most MAX_CHARACTERS characters, one level
of macros and only literal regular expressions, and the cost of each evaluation is estimated before it starts: it never
exceeds its limit by much.
Language: github.com/google/cel-spec, langdef.md; of its functions those in FUNCTIONS and METHODS.
"""

import difflib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from relay.core.filters import EventView, Expression, ExpressionFailed, ExpressionRefused, attribute_problem

MAX_CHARACTERS = 1_024
MAX_BRACKETS = 24
"""Brackets within brackets. The parser recurses."""
MAX_REGEX_SECONDS = 0.005
"""Maximum time to compile the regular expressions of an expression, which happens at each evaluation."""

MACROS = frozenset(("all", "exists", "exists_one", "map", "filter"))
FUNCTIONS = frozenset(
    ("has", "size", "int", "uint", "double", "string", "bytes", "timestamp", "duration", "type", "dyn")
)
METHODS = frozenset(
    (
        *(
            "size",
            "contains",
            "startsWith",
            "endsWith",
            "matches",
            "getFullYear",
            "getMonth",
            "getDate",
            "getDayOfMonth",
        ),
        *("getDayOfWeek", "getDayOfYear", "getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    )
)

# Nanoseconds, as measured on a slow machine, rounded up.
_TOKEN = 250
_ELEMENT = 200
"""To copy an element of a list or map; a byte of a text costs less than one."""
_CONTAINER = 400
"""To copy a list or map, without its elements."""
_COUNTED_BELOW = 500
"""An event with fewer commas and brackets has at most that many elements: they are not counted one by one."""
_COLLECTED = 50
"""For each element of the result of `map` and `filter`, times each element: each one is added to a new copy."""
_REGEX_STEP = 4
"""For each byte of the text and each state of the regular expression."""
_REGEX = 15_000
_CHARACTER, _CLASS, _DIGITS, _WORDS = 1_000, 10_000, 40_000, 550_000
"""To compile one of these; classes such as `\\w` include all of Unicode."""

_LITERALS = ("true", "false", "null", "in")
_TOKENS = re.compile(
    r"""
    (?P<space> [ \t\n\f\r]+ | //[^\n]* )
  | (?P<string> [bB]?(?:
        [rR](?: \"{3}[\s\S]*?\"{3} | '{3}[\s\S]*?'{3} | "[^"\n\r]*" | '[^'\n\r]*' )
      | \"{3}(?:\\[\s\S]|[^\\])*?\"{3} | '{3}(?:\\[\s\S]|[^\\])*?'{3}
      | "(?:\\[^\n\r]|[^"\\\n\r])*" | '(?:\\[^\n\r]|[^'\\\n\r])*' ) )
  | (?P<number> 0x[0-9a-fA-F]+[uU]? | (?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[uU]? )
  | (?P<name> [A-Za-z_][A-Za-z0-9_]* )
  | (?P<mark> && | \|\| | [=!<>]= | [\s\S] )
""",
    re.VERBOSE,
)
_REGEX_TOKENS = re.compile(
    r"\\[pP](?:\{[^}]*\}|.)|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d*),?(\d*)\}|\(\?[^:)]*|[()]|.", re.DOTALL
)
_POSITION = re.compile(r"<input>:(\d+):(\d+): (?:Syntax error: )?(.*)")
_UNDEFINED = re.compile(r"Undefined variable or function: '([^']*)'")
_NO_OVERLOAD = "No such overload"
_WRONG_TYPES = "it compares or combines values of different types, such as text and a number"
_KINDS = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object", type(None): "null"}
_CLOSES = {")": "(", "]": "[", "}": "{"}
_TOLD_CHARACTERS = 200


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


@dataclass(slots=True)
class _Part:
    """A part of an expression, and what its evaluation may cost.

    data, attributes, bound  how often these are named: the data, attributes, the variable of the macro
    literal                  length of its literals
    copies                   operators that make a larger value of two
    regexes                  regular expressions: nanoseconds to compile, and states
    """

    tokens: int = 0
    data: int = 0
    attributes: int = 0
    bound: int = 0
    literal: int = 0
    copies: int = 0
    regexes: list[tuple[int, int]] = field(default_factory=list)

    def size(self, event: "_Prepared", bound_size: int = 0) -> int:
        """Maximum size of the values that it makes."""
        return (
            self.data * event.data_size
            + self.attributes * event.attribute_size
            + self.bound * bound_size
            + self.literal
        )

    def cost(self, event: "_Prepared", bound_size: int = 0) -> int:
        """The nanoseconds that one evaluation takes at most."""
        size = self.size(event, bound_size)
        regexes = sum(compile_cost + _REGEX_STEP * states * size for compile_cost, states in self.regexes)
        return self.tokens * _TOKEN + size * (1 + self.copies) + regexes


@dataclass(slots=True)
class _Macro:
    """One macro call: the tokens of its arguments and of its operand. `collects`: its result is a list."""

    collects: bool
    variable: str
    begins: int
    ends: int
    target_begins: int
    target_ends: int
    target: _Part = field(default_factory=_Part)
    body: _Part = field(default_factory=_Part)

    def cost(self, event: "_Prepared") -> int:
        count = self.target.data * event.elements + self.target.tokens
        once = self.body.cost(event)
        # the elements together are as large as the list
        of_elements = self.body.cost(event, self.target.size(event)) - once
        return count * once + of_elements + (_COLLECTED * count * count if self.collects else 0)


class _Uses(NamedTuple):
    """What an expression reads: attributes, and fields of the data (None: all of it). Each value that the library
    converts takes microseconds."""

    attributes: frozenset[str]
    fields: frozenset[str] | None


class _Prepared:
    """An event as CEL reads it, converted once for all expressions that read the same of it."""

    def __init__(self, view: EventView) -> None:
        self.elements, containers = _counted(view)
        self.data_size = len(view.body) + _ELEMENT * self.elements + _CONTAINER * containers
        self.attribute_size = max((len(str(value)) for value in view.attributes.values()), default=0)
        self._view = view
        self._contexts: dict[_Uses, Any] = {}

    def context(self, uses: _Uses) -> Any:
        found = self._contexts.get(uses)
        if found is None:
            attributes, data = self._view.attributes, self._view.data
            if uses.fields is not None and isinstance(data, dict):
                data = {name: data[name] for name in uses.fields if name in data}
            read = {name: attributes[name] for name in uses.attributes if name in attributes}
            found = self._contexts[uses] = _guarded(_library().Context, {**read, "data": data})
        return found


def _counted(view: EventView) -> tuple[int, int]:
    """The number of elements in the data of an event, and of lists and maps, or a little more than that. Texts count as
    one each: whoever writes many commas into one must not make an expression too costly."""
    body = view.body
    commas, containers = body.count(b","), body.count(b"[") + body.count(b"{")
    if commas + containers < _COUNTED_BELOW:
        return commas + containers + 1, containers
    elements = containers = 0
    level = [view.data]
    while level:
        level = [one for one in level if type(one) is list or type(one) is dict]
        containers += len(level)
        level = [child for one in level for child in (one.values() if type(one) is dict else one)]
        elements += len(level)
    return elements, containers


def compile_cel(text: str) -> Expression:
    """Compiles an expression that is true or false for an event. Raises ExpressionRefused."""
    if not 1 <= len(text) <= MAX_CHARACTERS:
        detail = f"1 to {MAX_CHARACTERS:,} characters are expected"
        raise ExpressionRefused("too_long" if text else "too_short", detail)
    bad = next((place for place, one in enumerate(text) if not one.isprintable() and one not in "\t\n\r"), None)
    if bad is not None:
        _refuse(text, bad, "a character that does not print: write it as an escape", code="invalid_text")
    reader = _Reader(text)
    program = _compiled(text)
    whole, macros = reader.read(program)
    return _expression(program, reader.uses, whole, macros)


def missing_extra() -> str | None:
    """Which extra CEL needs, with the command that installs it; None if it is installed."""
    return "CEL needs an extra package: pip install 'revor-relay[cel]'" if find_spec("cel") is None else None


def _expression(program: Any, uses: _Uses, whole: _Part, macros: Sequence[_Macro]) -> Expression:
    def evaluate(view: EventView) -> bool:
        event = view.prepared
        if event is None:
            event = view.prepared = _Prepared(view)
        if whole.cost(event) + sum(macro.cost(event) for macro in macros) > view.limit_seconds * 1e9:
            limit = f"{view.limit_seconds * 1e3:.3g} ms"
            detail = f"it could take more than {limit} for an event of {len(view.body):,} bytes"
            raise ExpressionFailed("too_costly", detail)
        result = _guarded(program.execute, event.context(uses))
        if result is True or result is False:
            return result
        given = _KINDS.get(type(result), "a value of another type")
        raise ExpressionFailed("wrong_type", f"it gives {given}, not true or false")

    return evaluate


def _library() -> Any:
    """The package `cel`, without the command line that it imports: that takes a second, and 30 MB of memory."""
    if "cel" not in sys.modules:
        sys.modules["cel.cli"] = ModuleType("cel.cli")
    return import_module("cel")


def _guarded(function: Callable[[Any], Any], argument: Any) -> Any:
    """Calls the library. Raises ExpressionFailed for all that it raises, a panic in Rust included."""
    try:
        return function(argument)
    except KeyError as error:
        raise ExpressionFailed("missing", f"there is no field {_told(str(error))}") from None
    except IndexError as error:
        raise ExpressionFailed("missing", _told(str(error))) from None
    except TypeError as error:
        told = _told(str(error))
        detail = _WRONG_TYPES if told == _NO_OVERLOAD else told
        raise ExpressionFailed("wrong_type", detail) from None
    except Exception as error:
        undefined = _UNDEFINED.search(str(error))
        if undefined is None:
            raise ExpressionFailed("other", _told(str(error))) from None
        named = undefined[1]
        detail = f"{named} takes no such value" if named in FUNCTIONS | METHODS else f"the event has no {named}"
        raise ExpressionFailed("wrong_type" if named in FUNCTIONS | METHODS else "missing", detail) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ExpressionFailed("other", _told(str(error))) from None


def _told(message: str) -> str:
    first = message.split(": the operation is not", 1)[0].split(". ", 1)[0][:_TOLD_CHARACTERS].strip(" .")
    return "".join(one if one.isprintable() else " " for one in first)


def _compiled(text: str) -> Any:
    """The program. Raises ExpressionRefused for a mistake, with its line and column."""
    why = missing_extra()
    if why is not None:
        raise ExpressionRefused("extra_missing", why)
    try:
        return _library().compile(text)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        found = _POSITION.search(str(error).removeprefix(f"Failed to parse expression '{text}': "))
        if found is None:
            raise ExpressionRefused("invalid_expression", "it is not an expression of CEL") from None
        what = _told(found[3].split(" expecting {", 1)[0])
        what = "it ends too early" if "'<EOF>'" in what else what
        raise ExpressionRefused("invalid_expression", _at(int(found[1]), int(found[2]), what)) from None


def _at(line: int, column: int, what: str) -> str:
    return f"line {line}, column {column}: {what}"


def _refuse(text: str, at: int, what: str, code: str = "invalid_expression") -> NoReturn:
    before = text[:at]
    raise ExpressionRefused(code, _at(before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1, what))


class _Reader:
    """Finds out what an expression may cost, and refuses what this module does not know. The parser of the library has
    accepted it already, but does not show what it has read."""

    def __init__(self, text: str) -> None:
        self._text = text
        tokens = (_Token(str(found.lastgroup), found[0], found.start()) for found in _TOKENS.finditer(text))
        self._tokens = [token for token in tokens if token.kind != "space"]
        self._pairs = self._brackets()
        self._macros: list[_Macro] = []
        self._regex_cost = 0
        self.uses = _Uses(frozenset(), None)

    def read(self, program: Any) -> tuple[_Part, list[_Macro]]:
        """What the whole may cost besides the bodies of its macros, and these."""
        self._macros = list(self._find_macros())
        whole = _Part()
        variables: set[str] = set()
        attributes: set[str] = set()
        fields: set[str] = set()
        whole_data = False
        functions: set[str] = set()
        for place, token in enumerate(self._tokens):
            within = next((macro for macro in self._macros if macro.begins <= place < macro.ends), None)
            parts = [whole if within is None else within.body]
            parts += [macro.target for macro in self._macros if macro.target_begins <= place < macro.target_ends]
            for part in parts:
                part.tokens += 1
                part.copies += token.text == "+"
                part.literal += len(token.text) if token.kind in ("string", "number") else 0
            if token.kind != "name" or token.text in _LITERALS:
                continue
            if self._is(place + 1, "{"):
                self._refuse(token, "messages are not supported")
            elif self._is(place + 1, "("):
                functions.add(token.text)
                self._check_call(place)
                if token.text == "matches":
                    for part in parts:
                        part.regexes.append(self._regex(place))
            elif not self._is(place - 1, "."):
                variables.add(token.text)
                bound = within is not None and token.text == within.variable
                for part in parts:
                    part.bound += bound
                    part.data += not bound and token.text == "data"
                    part.attributes += not bound and token.text != "data"
                if bound:
                    continue
                if token.text != "data":
                    attributes.add(token.text)
                    self._check_attribute(token)
                elif self._is(place + 1, ".") and not self._is(place + 3, "("):
                    fields.add(self._tokens[place + 2].text)
                else:
                    whole_data = True
        unread = {name for name in program.functions() if name.isidentifier()} - functions
        unread |= set(program.variables()) - variables
        if unread:
            raise ExpressionRefused("invalid_expression", f"{min(unread)[:100]!r} is not supported")
        self.uses = _Uses(frozenset(attributes), None if whole_data else frozenset(fields))
        return whole, self._macros

    def _is(self, place: int, text: str) -> bool:
        return 0 <= place < len(self._tokens) and self._tokens[place].text == text

    def _refuse(self, token: _Token, what: str, code: str = "invalid_expression") -> NoReturn:
        _refuse(self._text, token.at, what, code)

    def _brackets(self) -> dict[int, int]:
        """Where each bracket is closed, and opened. The parser says what is wrong with brackets that do not match."""
        pairs: dict[int, int] = {}
        opened: list[int] = []
        for place, token in enumerate(self._tokens):
            if token.text in _CLOSES.values():
                opened.append(place)
                if len(opened) > MAX_BRACKETS:
                    self._refuse(token, f"brackets may be nested {MAX_BRACKETS} deep")
            elif token.text in _CLOSES and opened:
                begin = opened.pop()
                pairs[begin], pairs[place] = place, begin
        return pairs

    def _find_macros(self) -> Iterator[_Macro]:
        found: list[_Macro] = []
        for place, token in enumerate(self._tokens):
            if token.text not in MACROS or not self._is(place - 1, ".") or not self._is(place + 1, "("):
                continue
            begins, ends = self._target_begins(place - 2), place - 1
            inner = any(macro.begins <= place < macro.ends for macro in found)
            if inner or any(begins <= macro.begins < ends for macro in found):
                where = "in a macro" if inner else "on the result of a macro"
                self._refuse(token, f"{token.text} is used {where}: one level of macros is allowed")
            one = _Macro(
                collects=token.text in ("map", "filter"),
                variable=self._tokens[place + 2].text,
                begins=place + 2,
                ends=self._pairs[place + 1],
                target_begins=begins,
                target_ends=ends,
            )
            found.append(one)
            yield one

    def _target_begins(self, place: int) -> int:
        """Where the operand begins whose last token is given."""
        while True:
            token = self._tokens[place]
            if token.kind == "mark" and token.text in _CLOSES:
                place = self._pairs[place]
                before = self._tokens[place - 1] if place else token
                closed = before.kind == "mark" and before.text in _CLOSES
                named = before.kind in ("name", "string") and before.text not in _LITERALS
                if place and self._tokens[place].text != "{" and (closed or named):
                    place -= 1
                    continue
            if place < 2 or not self._is(place - 1, "."):
                return place
            place -= 2

    def _check_call(self, place: int) -> None:
        """Refuses an unknown function or method."""
        token = self._tokens[place]
        known = METHODS | MACROS if self._is(place - 1, ".") else FUNCTIONS
        if token.text not in known:
            near = difflib.get_close_matches(token.text, sorted(known), n=1, cutoff=0.6)
            hint = f": did you mean {near[0]}?" if near else f": use one of {', '.join(sorted(known))}"
            self._refuse(token, f"there is no function {token.text[:100]}{hint}")

    def _check_attribute(self, token: _Token) -> None:
        problem = attribute_problem(token.text)
        if problem is not None:
            code, detail = problem
            self._refuse(token, detail, code)

    def _regex(self, place: int) -> tuple[int, int]:
        """What the regular expression of a call costs. Refuses one that is not literal, wrong or large, or too many."""
        literal = self._tokens[place + 2]
        if literal.kind != "string" or not self._is(place + 3, ")"):
            self._refuse(literal, "a literal regular expression is expected")
        pattern = _guarded(_compiled(literal.text).execute, {})
        if not isinstance(pattern, str):
            self._refuse(literal, "a regular expression is expected, not bytes")
        cost, states = regex_cost(pattern)
        self._regex_cost += cost
        if self._regex_cost > MAX_REGEX_SECONDS * 1e9:
            which = "regular expression is" if cost == self._regex_cost else "regular expressions up to here are"
            self._refuse(literal, rf"the {which} too large: use fewer repetitions, and [a-z] instead of \w")
        try:
            _guarded(_compiled(f'"".matches({literal.text})').execute, {})
        except ExpressionFailed:
            self._refuse(literal, "the regular expression is wrong")
        return cost, states


def regex_cost(pattern: str) -> tuple[int, int]:
    """The nanoseconds that a regular expression takes to compile, and its states, roughly. Repetitions are copies."""
    character = _CLASS if "(?" in pattern else _CHARACTER  # flags such as (?i)
    opened: list[list[tuple[int, int]]] = [[]]
    for found in _REGEX_TOKENS.finditer(pattern):
        atom = found[0]
        if atom.startswith("("):
            opened.append([])
        elif atom == ")" and len(opened) > 1:
            inside = opened.pop()
            opened[-1].append((sum(cost for cost, _ in inside), sum(states for _, states in inside)))
        elif atom.startswith("{") and opened[-1]:
            count = max((int(number[:9]) for number in found.groups() if number), default=1)
            cost, states = opened[-1].pop()
            opened[-1].append((cost * count, states * count))
        else:
            words = len(re.findall(r"\\[wWpP]", atom))
            digits = len(re.findall(r"\\[dDsS]", atom))
            one = _CLASS if atom.startswith("[") or atom == "." else character
            opened[-1].append((one + words * _WORDS + digits * _DIGITS, 1))
    every = [one for group in opened for one in group]
    return _REGEX + sum(cost for cost, _ in every), 1 + sum(states for _, states in every)
