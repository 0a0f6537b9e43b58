"""Where settings come from: one tree of values, each knowing its key and the place where it was written.

`read_file` reads YAML, `overlay` puts a variable over it, `resolve` fills in `${NAME}` and `${file:/path}`. Nothing
here knows which settings there are: that is `config.py`. Every problem is a SettingsError of one line that says where
(`relay.yaml:12`, or the variable's name), which key, what was expected, and never shows a secret.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from relay.errors import SettingsError

MAX_FILE_BYTES = 1 << 20
MAX_SECRET_FILE_BYTES = 1 << 16
MAX_VALUES = 10_000  # aliases make a small file stand for a huge tree: count what it unfolds to
MAX_DEPTH = 16

PREFIX = "RELAY_"

_REFERENCE = re.compile(r"\$(\$\{)|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_QUOTED = re.compile(r"'([^']*)'")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_NO_TEXT = "is not UTF-8 text: half a character is in it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One value as it was written: a scalar, or Values in a dict or a list.

    `where` is the place (`relay.yaml:12`, `RELAY_SERVER__PORT`), `key` the path of keys (`server.port`). `untyped` text
    came from a variable or a reference, so that `8080` in it may be a number as well as text. `hidden` means that a
    reference gave it: messages do not show it. `file` is the path when `${file:/path}` is the whole value. `raw` is the
    text of a variable that reads as a mapping or a list, for a setting that is text after all (`[::1]`).
    """

    data: "bool | int | float | str | dict[str, Value] | list[Value] | None"
    where: str
    key: str
    untyped: bool = False
    hidden: bool = False
    file: str | None = None
    raw: str | None = None

    def error(self, problem: str) -> SettingsError:
        """The error to raise about this value: `relay.yaml:12: server.port <problem>`."""
        return SettingsError(f"{self.where}: {self.key or 'the settings'} {problem}")


def read_file(path: Path) -> Value:
    """The settings file as a tree. Raises SettingsError when it can not be read or is not plain, bounded YAML."""
    name = str(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(
            f"{name}: the settings file can not be read ({error.strerror}): give another with --config, "
            "or write one with `relay init`"
        ) from None
    if len(raw) > MAX_FILE_BYTES:
        raise SettingsError(f"{name}: larger than 1 MiB, which no settings file needs to be")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{name}:{line}: not UTF-8 text: save the file as UTF-8") from None
    return parse_yaml(text, name=name)


def parse_yaml(text: str, *, name: str) -> Value:
    """YAML text as a tree; its top is a mapping, empty for an empty text. `name` stands in messages."""
    root = _compose(text, name)
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == "tag:yaml.org,2002:null"):
        return Value(data={}, where=name, key="")
    if not isinstance(root, yaml.MappingNode):
        raise SettingsError(f"{name}:1: the settings are a mapping of sections, such as `server: {{port: 8080}}`")
    return _Unfold(lambda node: f"{name}:{node.start_mark.line + 1}").value(root, "")


def parse_text(value: Value) -> Value:
    """An untyped text (of a variable, of a reference) read as YAML, of which JSON is a part."""
    assert isinstance(value.data, str)
    try:
        root = _compose(value.data, value.where)
    except SettingsError:
        raise value.error("is neither YAML nor JSON: put text with special characters in quotes") from None
    if root is None:
        return replace(value, data=None, untyped=False)
    return _Unfold(lambda _: value.where, hidden=value.hidden).value(root, value.key)


def overlay(tree: Value, keys: list[str], value: Value) -> None:
    """Put `value` over what the tree holds at this path of keys; mappings are merged, all else is replaced."""
    here = tree
    for depth, key in enumerate(keys[:-1]):
        children = _children(here)
        name = _spelled(children, key)
        path = ".".join(keys[: depth + 1])
        if name not in children or children[name].data is None:
            children[name] = Value(data={}, where=value.where, key=path)
        here = children[name]
        if not isinstance(here.data, dict):
            raise SettingsError(f"{value.where}: {here.key} is no section: its value can only be given as a whole")
    children = _children(here)
    name = _spelled(children, keys[-1])
    children[name] = _merged(children.get(name), value)


def overlay_environment(tree: Value, environ: Mapping[str, str]) -> None:
    """Put every `RELAY_SECTION__KEY` variable over the tree. An empty one counts as unset, as Compose files need it."""
    for name in sorted(environ):  # the section before its keys
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
    """The tree with `${NAME}` and `${file:/path}` filled in; `$${` stands for a plain `${`.

    Raises SettingsError when a variable is unset or empty, or a file can not be read.
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
    whole = _REFERENCE.fullmatch(data)
    reference = (whole and whole[2]) or ""
    return replace(
        value,
        data=filled,
        untyped=True,
        hidden=True,
        file=reference.removeprefix("file:") if reference.startswith("file:") else None,
    )


def read_secret_file(path: str) -> str:
    """The text of a mounted secret without the newline at its end. Raises ValueError saying what is wrong with it."""
    if not path.startswith("/"):
        raise ValueError("is not an absolute path")
    try:
        if not Path(path).is_file():
            raise ValueError("is no file" if Path(path).exists() else "does not exist")
        with Path(path).open("rb") as stream:
            raw = stream.read(MAX_SECRET_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"can not be read ({error.strerror})") from None
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
        raise value.error("has a ${ without its }: write $${ for a plain ${")
    if name.startswith("file:"):
        path = name.removeprefix("file:")
        try:
            return read_secret_file(path)
        except ValueError as error:
            raise value.error(f"refers to the file {path}, which {error}") from None
    if not _NAME.match(name):
        raise value.error("has a ${…} that is neither ${NAME} nor ${file:/path}: write $${ for a plain ${")
    if not environ.get(name):
        raise value.error(f"refers to the variable {name}, which is not set: set it, or remove this line")
    return environ[name]


def _compose(text: str, name: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or "not YAML"
        if "alias" in problem or "anchor" in problem:
            problem += " (text that begins with * or & needs quotes)"
        # What stands in quotes may be a piece of somebody's password.
        problem = _QUOTED.sub(lambda quoted: quoted[0] if len(quoted[1]) < 2 or quoted[1][0] == "<" else "'…'", problem)
        raise SettingsError(f"{name}:{mark.line + 1 if mark else 1}: not YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SettingsError(f"{name}:{line}: a control character, which YAML forbids: remove it") from None
    except RecursionError:
        raise SettingsError(f"{name}: nested too deeply") from None


class _Unfold:
    """Turns YAML nodes into Values, and stops at what no settings file needs: 10,000 values, 16 levels."""

    def __init__(self, where: Callable[[yaml.Node], str], *, hidden: bool = False) -> None:
        self._where = where
        self._hidden = hidden
        self._scalars = yaml.SafeLoader("")
        self._count = 0

    def value(self, node: yaml.Node, key: str, depth: int = 0, where: str | None = None) -> Value:
        where = where or self._where(node)
        self._count += 1
        if self._count > MAX_VALUES:
            raise SettingsError(f"{where}: more than {MAX_VALUES} values once its aliases are followed")
        if depth > MAX_DEPTH:
            raise SettingsError(f"{where}: nested deeper than {MAX_DEPTH} levels")
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
            if name in children:
                raise SettingsError(f"{where}: {key} is here twice, first at {children[name].where}: remove one")
            children[name] = self.value(child, key, depth + 1, where)
        return children

    def _scalar(self, node: yaml.Node, where: str, key: str) -> bool | int | float | str | None:
        try:
            data = self._scalars.construct_object(node, deep=True)
        except Exception:  # PyYAML lets its own slips through: `!!int ""` is an IndexError, `!!bool x` a KeyError
            raise SettingsError(
                f"{where}: {key} has a YAML tag or form that is not supported: use plain values"
            ) from None
        if isinstance(data, str) and not _is_text(data):
            raise SettingsError(f"{where}: {key} {_NO_TEXT}")
        if data is None or isinstance(data, bool | int | float | str):
            return data
        if isinstance(node.value, str) and node.tag == "tag:yaml.org,2002:timestamp":
            return node.value  # a date is text here: no setting is a time
        raise SettingsError(f"{where}: {key} has the YAML type {node.tag.rsplit(':', 1)[-1]}: use plain values")


def _is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: escapes in YAML, and bytes in variables, make halves of surrogate pairs."""
    return _HALF_CHARACTER.search(text) is None


def _children(value: Value) -> dict[str, Value]:
    assert isinstance(value.data, dict)
    return value.data


def _spelled(children: Mapping[str, Value], key: str) -> str:
    """The key as the file spells it: variables have no lower case and no dash (`my-key` is `MY_KEY`)."""
    return next((name for name in children if name.lower().replace("-", "_") == key), key)


def _merged(old: Value | None, new: Value) -> Value:
    if old is None or not isinstance(old.data, dict) or not isinstance(new.data, dict):
        return new
    merged = dict(old.data)
    for key, child in new.data.items():
        merged[key] = _merged(merged.get(key), child)
    return replace(old, data=merged)


def _opened(value: Value) -> Value:
    """A variable's mapping or list as such, so that what is inside can be merged and its references stay whole."""
    assert isinstance(value.data, str)
    if not value.data.lstrip().startswith(("{", "[")):
        return value
    try:
        return replace(parse_text(value), raw=value.data)
    except SettingsError:
        return value
