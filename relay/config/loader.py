"""Reads settings into one tree of values, each with its key and the place where it was written.

`read_file` reads YAML, `overlay` puts variables over it, `resolve` fills in `${NAME}` and `${file:/path}`.
`settings.py` defines which settings exist. Every problem is a SettingsError of one line that names the place
(`relay.yaml:12` or the variable) and the key, says what was expected, and never shows a secret.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from relay.errors import SettingsError, refusal

MAX_FILE_BYTES = 1 << 20
MAX_SECRET_FILE_BYTES = 1 << 16
MAX_VALUES = 50_000  # counted after aliases are expanded, which can turn a small file into a huge tree
MAX_DEPTH = 16
MAX_KEY_CHARACTERS = 2_000

PREFIX = "RELAY_"

_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_REFERENCE = re.compile(r"\$(\$\{)|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_QUOTED = re.compile(r"'([^']*)'")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_NO_TEXT = "is not UTF-8 text: it contains half a character"


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One value as it was written: a scalar, or Values in a dict or a list.

    `where` is the place (`relay.yaml:12`, `RELAY_SERVER__PORT`), `key` the path of keys (`server.port`). `untyped` text
    comes from a variable or a reference, where `8080` can be a number or text. A `hidden` value comes from a reference
    and is never shown in messages; `written` is its text with the references. `file` is the path if `${file:/path}` is
    the whole value. `raw` is the text of a variable that was read as a mapping or list, for settings that are text
    after all (`[::1]`).
    """

    data: "bool | int | float | str | dict[str, Value] | list[Value] | None"
    where: str
    key: str
    untyped: bool = False
    hidden: bool = False
    file: str | None = None
    raw: str | None = None
    written: str | None = None

    def error(self, problem: str) -> SettingsError:
        """The error to raise about this value: `relay.yaml:12: server.port <problem>`."""
        return SettingsError(f"{self.where}: {self.key or 'the settings'} {problem}")

    def plain(self) -> Any:
        """The value with those in it, as YAML has them."""
        if isinstance(self.data, dict):
            return {key: child.plain() for key, child in self.data.items()}
        return [child.plain() for child in self.data] if isinstance(self.data, list) else self.data


def read_file(path: Path) -> Value:
    """The settings file as a tree. Raises SettingsError if it cannot be read or is not plain YAML within the limits."""
    name = str(path)
    text = read_text(path, name, "settings ", ": choose another with --config, or create one with `relay init`")
    return parse_yaml(text, name=name)


def read_text(path: Path, name: str, kind: str = "", remedy: str = "") -> str:
    """The text of a YAML file. `name`, `kind` and `remedy`: in messages. Raises SettingsError."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # a ValueError: the path has a NUL
        reason = refusal(error) if isinstance(error, OSError) else error
        raise SettingsError(f"{name}: the {kind}file cannot be read ({reason}){remedy}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise SettingsError(f"{name}: larger than 1 MiB, the limit for a file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{name}:{line}: not UTF-8 text: save the file as UTF-8") from None


def parse_yaml(text: str, *, name: str, max_depth: int = MAX_DEPTH, fast: bool = False) -> Value:
    """YAML text as a tree, a mapping at the top. `name` is used in messages. `fast`: by libyaml, ten times as fast,
    whose messages say less."""
    root = _compose(text, name, _FAST if fast else yaml.SafeLoader)
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == "tag:yaml.org,2002:null"):
        return Value(data={}, where=name, key="")
    if not isinstance(root, yaml.MappingNode):
        raise SettingsError(f"{name}:1: expected a mapping of keys, with one `key: value` a line")
    return _Unfold(lambda node: f"{name}:{node.start_mark.line + 1}", max_depth=max_depth).value(root, "")


def parse_text(value: Value) -> Value:
    """Parses the text of a variable or a reference as YAML (and so JSON)."""
    assert isinstance(value.data, str)
    try:
        root = _compose(value.data, value.where)
    except SettingsError:
        raise value.error("is neither YAML nor JSON: put text with special characters in quotes") from None
    if root is None:
        return replace(value, data=None, untyped=False)
    return _Unfold(lambda _: value.where, hidden=value.hidden).value(root, value.key)


def overlay(tree: Value, keys: list[str], value: Value) -> None:
    """Puts `value` into the tree at this path of keys. Mappings are merged, anything else is replaced."""
    here = tree
    for depth, key in enumerate(keys[:-1]):
        children = _children(here)
        name = _spelled(children, key)
        path = ".".join(keys[: depth + 1])
        if name not in children or children[name].data is None:
            children[name] = Value(data={}, where=value.where, key=path)
        here = children[name]
        if not isinstance(here.data, dict):
            raise SettingsError(f"{value.where}: {here.key} is not a section: set its value as a whole")
    children = _children(here)
    name = _spelled(children, keys[-1])
    children[name] = _merged(children.get(name), value)


def overlay_environment(tree: Value, environ: Mapping[str, str]) -> None:
    """Puts every `RELAY_SECTION__KEY` variable into the tree. Empty ones count as unset: Compose files pass them."""
    for name in sorted(environ):  # a section before its keys
        rest = name.removeprefix(PREFIX)
        if rest == name or "__" not in rest.lstrip("_") or not environ[name]:
            continue
        keys = rest.lower().split("__")
        if not all(keys) or len(keys) > MAX_DEPTH:
            raise SettingsError(
                f"{name}: settings in variables are named RELAY_SECTION__KEY, such as RELAY_SERVER__PORT"
            )
        overlay(tree, keys, _opened(Value(data=environ[name], where=name, key=".".join(keys), untyped=True)))


def resolve(value: Value, environ: Mapping[str, str]) -> Value:
    """The tree with `${NAME}` and `${file:/path}` replaced by their values, and `$${` by `${`.

    Raises SettingsError if a variable is unset or empty, or a file cannot be read.
    """
    data = value.data
    if isinstance(data, dict):
        return replace(value, data={key: resolve(child, environ) for key, child in data.items()})
    if isinstance(data, list):
        return replace(value, data=[resolve(child, environ) for child in data])
    if not isinstance(data, str):
        return value
    filled = _REFERENCE.sub(lambda match: _lookup(match, value, environ), data) if "${" in data else data
    if not _is_text(filled):
        raise value.error(_NO_TEXT)
    if "${" not in data:
        return value
    if all(match[1] for match in _REFERENCE.finditer(data)):
        return replace(value, data=filled)
    whole = _REFERENCE.fullmatch(data)
    reference = (whole and whole[2]) or ""
    return replace(
        value,
        data=filled,
        untyped=True,
        hidden=True,
        written=data,
        file=reference.removeprefix("file:") if reference.startswith("file:") else None,
    )


def read_secret_file(path: str) -> str:
    """The text of a mounted secret without the final newline. Raises ValueError with what is wrong."""
    if not path.startswith("/"):
        raise ValueError("is not an absolute path")
    try:
        if not Path(path).is_file():
            raise ValueError("is not a file" if Path(path).exists() else "does not exist")
        with Path(path).open("rb") as stream:
            raw = stream.read(MAX_SECRET_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read ({refusal(error)})") from None
    if len(raw) > MAX_SECRET_FILE_BYTES:
        raise ValueError("is larger than 64 KiB")
    try:
        text = raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    if not text:
        raise ValueError("is empty")
    return text


def _lookup(match: re.Match[str], value: Value, environ: Mapping[str, str]) -> str:
    escaped, name, closed = match.groups()
    if escaped:
        return "${"
    if not closed:
        raise value.error("has a ${ without its }: write $${ for a literal ${")
    if name.startswith("file:"):
        path = name.removeprefix("file:")
        try:
            return read_secret_file(path)
        except ValueError as error:
            raise value.error(f"refers to the file {path}, which {error}") from None
    if not _NAME.match(name):
        raise value.error("has a ${…} that is neither ${NAME} nor ${file:/path}: write $${ for a literal ${")
    if not environ.get(name):
        raise value.error(f"refers to the variable {name}, which is not set: set it, or remove this line")
    return environ[name]


def _compose(text: str, name: str, loader: Any = yaml.SafeLoader) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or "not YAML"
        if "alias" in problem or "anchor" in problem:
            problem += " (text that begins with * or & needs quotes)"
        if mark is not None:
            problem = _explained(problem, text.splitlines()[: mark.line + 1], mark.column)
        # Quoted text may be part of a password.
        problem = _QUOTED.sub(lambda quoted: quoted[0] if len(quoted[1]) < 2 or quoted[1][0] == "<" else "'…'", problem)
        raise SettingsError(f"{name}:{mark.line + 1 if mark else 1}: not YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SettingsError(f"{name}:{line}: YAML does not allow control characters: remove it") from None
    except RecursionError:
        raise SettingsError(f"{name}: nested too deeply") from None


def _explained(problem: str, lines: Sequence[str], column: int) -> str:
    """A problem in the last one of these lines, with a cause that its indentation suggests."""
    if "cannot start any token" in problem and lines[-1][column : column + 1] == "\t":
        return "a tab: indent with spaces"
    places = [number for number, line in enumerate(lines, 1) if line.strip() and line.lstrip()[0] != "#"]
    if len(places) > 1 and ("mapping values" in problem or "expected key" in problem or "<block end>" in problem):
        before, here = (len(lines[number - 1]) - len(lines[number - 1].lstrip()) for number in places[-2:])
        if before != here:
            return f"{problem} (line {places[-1]} is indented otherwise than line {places[-2]})"
    return problem


class _Unfold:
    """Turns YAML nodes into Values, up to 50,000 values and `max_depth` levels."""

    def __init__(self, where: Callable[[yaml.Node], str], *, hidden: bool = False, max_depth: int = MAX_DEPTH) -> None:
        self._where = where
        self._max_depth = max_depth
        self._hidden = hidden
        self._scalars = yaml.SafeLoader("")
        self._count = 0

    def value(self, node: yaml.Node, key: str, depth: int = 0, where: str | None = None) -> Value:
        where = where or self._where(node)
        self._count += 1
        if self._count > MAX_VALUES:
            raise SettingsError(f"{where}: more than {MAX_VALUES} values after expanding aliases")
        if depth > self._max_depth:
            raise SettingsError(f"{where}: nested deeper than {self._max_depth} levels")
        data: bool | int | float | str | dict[str, Value] | list[Value] | None
        if isinstance(node, yaml.MappingNode):
            data = self._mapping(node, key, depth)
        elif isinstance(node, yaml.SequenceNode):
            data = [self.value(child, f"{key}[{index}]", depth + 1) for index, child in enumerate(node.value)]
        else:
            data = self._scalar(node, where, key)
        return Value(data=data, where=where, key=key, hidden=self._hidden)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> "dict[str, Value]":
        children: dict[str, Value] = {}
        for name_node, child in node.value:
            where = self._where(name_node)
            if name_node.tag == "tag:yaml.org,2002:merge":
                raise SettingsError(f"{where}: merge keys (<<) are not supported: write the keys out")
            if not isinstance(name_node, yaml.ScalarNode):
                raise SettingsError(f"{where}: a key in {path or 'the settings'} is not plain text")
            name = name_node.value
            key = f"{path}.{name}" if path else name
            if len(key) > MAX_KEY_CHARACTERS:  # each value below has it
                raise SettingsError(
                    f"{where}: a key is longer than {MAX_KEY_CHARACTERS} characters, with those above it"
                )
            if name in children:
                raise SettingsError(f"{where}: {key} is set twice, first at {children[name].where}: remove one")
            children[name] = self.value(child, key, depth + 1, where)
        return children

    def _scalar(self, node: yaml.Node, where: str, key: str) -> bool | int | float | str | None:
        try:
            data = self._scalars.construct_object(node, deep=True)
        except Exception:  # PyYAML raises more than YAMLError: `!!int ""` is an IndexError, `!!bool x` a KeyError
            raise SettingsError(
                f"{where}: {key} has a YAML tag or form that is not supported: use plain values"
            ) from None
        if isinstance(data, str) and not _is_text(data):
            raise SettingsError(f"{where}: {key} {_NO_TEXT}")
        if data is None or isinstance(data, bool | int | float | str):
            return data
        if isinstance(node.value, str) and node.tag == "tag:yaml.org,2002:timestamp":
            return node.value  # dates stay text: no setting is a time
        raise SettingsError(f"{where}: {key} has the YAML type {node.tag.rsplit(':', 1)[-1]}: use plain values")


def _is_text(text: str) -> bool:
    """True if it can be encoded as UTF-8: YAML escapes and bytes in variables can produce unpaired surrogates."""
    return _HALF_CHARACTER.search(text) is None


def _children(value: Value) -> dict[str, Value]:
    assert isinstance(value.data, dict)
    return value.data


def _spelled(children: Mapping[str, Value], key: str) -> str:
    """The key as the file spells it: in variables, `my-key` is `MY_KEY`."""
    return next((name for name in children if name.lower().replace("-", "_") == key), key)


def _merged(old: Value | None, new: Value) -> Value:
    if old is None or not isinstance(old.data, dict) or not isinstance(new.data, dict):
        return new
    merged = dict(old.data)
    for key, child in new.data.items():
        merged[key] = _merged(merged.get(key), child)
    return replace(old, data=merged)


def _opened(value: Value) -> Value:
    """Parses a variable that holds a mapping or list, so that it can be merged and its references stay intact."""
    assert isinstance(value.data, str)
    if not value.data.lstrip().startswith(("{", "[")):
        return value
    try:
        return replace(parse_text(value), raw=value.data)
    except SettingsError:
        return value
