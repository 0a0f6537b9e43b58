#!/usr/bin/env python3
"""Writes the generated parts of the documents: the tables of settings, commands, metrics, definitions and the API.

A part stands between `<!-- begin generated: NAME … -->` and `<!-- end generated -->`. tests/unit/test_docs.py fails
while a committed part differs from what this program would write. `--check` only names the files that differ.
"""

import ast
import importlib
import importlib.util
import inspect
import json
import pkgutil
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted((ROOT / "docs").rglob("*.md"))
_PART = re.compile(r"(<!-- begin generated: ([^>]+?) -->\n).*?(<!-- end generated -->)", re.DOTALL)
_OF_ANY_OPERATION = 10
"""A sentence about an error that this many operations share is in the list of common errors."""
_SHARED_OPTIONS = 10
"""A command that has this many options of an earlier one refers to it."""
_VALUES: Mapping[Any, str] = {int: "NUMBER", float: "NUMBER", str: "TEXT"}
_METHODS = ("get", "post", "put", "delete")

Json = Mapping[str, Any]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table. A bar in a cell is escaped."""
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (list(head), *map(list, rows))]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# settings and metrics


def settings() -> str:
    """Every setting, a table for each section."""
    from relay.config.settings import describe_settings

    sections: dict[str, list[list[str]]] = {}
    for doc in describe_settings():
        default = "needed" if doc.default == "(needed)" else f"`{doc.default}`"
        row = [f"`{doc.key}`", doc.type, default, doc.meaning, "yes" if doc.reloaded else ""]
        sections.setdefault(doc.key.partition(".")[0], []).append(row)
    head = ("key", "value", "default", "meaning", "SIGHUP")
    return "\n\n".join(f"### {section}\n\n{table(head, rows)}" for section, rows in sections.items())


def variables() -> str:
    """The variables that set one thing each."""
    from relay.config.settings import VARIABLES

    return table(("variable", "sets"), ([f"`{name}`", text] for name, text in VARIABLES.items()))


def metrics() -> str:
    """Every metric with its labels."""
    from relay.metrics import Metrics

    node = Metrics()
    labels = {one._name: one._labelnames for one in vars(node).values() if hasattr(one, "_labelnames")}
    rows = []
    for metric in node.registry.collect():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        names = ", ".join(f"`{label}`" for label in labels[metric.name])
        rows.append([f"`{name}`", metric.type, names, metric.documentation])
    return table(("metric", "type", "labels", "meaning"), rows)


def alerts() -> str:
    """What each alert means, and what to do."""
    import yaml

    def linked(found: "re.Match[str]") -> str:
        folder, file, anchor = found[1], found[2], found[3] or ""
        here = "" if folder == "operate" else f"../{folder}/"
        target = anchor if file == "production.md" else f"{here}{file}{anchor}"
        return f"[{(anchor[1:] or file.removesuffix('.md')).replace('-', ' ')}]({target})"

    (group,) = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text())["groups"]
    parts = []
    for one in group["rules"]:
        text = re.sub(r"docs/([a-z-]+)/([a-z]+[.]md)(#[a-z-]+)?", linked, one["annotations"]["description"])
        parts.append(f"### {one['alert']}\n\n{text}")
    return "\n\n".join(parts)


def chart_values() -> str:
    """Every value of the Helm chart."""
    import runpy

    chart = runpy.run_path(str(ROOT / ".ci" / "chart.py"))
    schema = json.loads(chart["SCHEMA"].read_text(encoding="utf-8"))
    return table(("value", "default", "meaning"), chart["table_rows"](schema))


def figures() -> str:
    """Every figure over time."""
    from relay.core.figures import FIGURES

    kinds = {"values": "durations"}
    rows = ([f"`{name}`", kinds.get(one.kind, one.kind), one.label, one.about] for name, one in FIGURES.items())
    return table(("name", "kind", "label", "meaning"), rows)


def words(module: str, name: str) -> str:
    """What each value of a Literal means, as the text below its declaration says."""
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    body = ast.parse(Path(found.origin).read_text()).body
    (after,) = (
        following
        for node, following in pairwise(body)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name
    )
    text = ast.literal_eval(after.value) if isinstance(after, ast.Expr) else ""
    lines = re.findall(r"^- (`\w+`): (.*(?:\n  .*)*)", text, re.MULTILINE)
    return table((name.lower(), "meaning"), ([value, " ".join(meaning.split())] for value, meaning in lines))


def events(group: str) -> str:
    """The event types of a group: `jobs`, `accounts` or `relay`, with schema and meaning."""
    from relay.core.events.event import ACCOUNT_EVENTS, RELAY_EVENTS
    from relay.core.events.meanings import meaning_of
    from relay.core.jobs.job import JOB_EVENTS
    from relay.core.relay_events import schema_name_for

    jobs = [f"ai.revor.job.{kind}" for kind in JOB_EVENTS if kind != "progress"]
    types = {
        "jobs": [*jobs, "ai.revor.webset.completed", "ai.revor.webset.progress"],
        "accounts": [f"ai.revor.account.{kind}" for kind in ACCOUNT_EVENTS],
        "relay": RELAY_EVENTS,
    }[group]
    return table(
        ("type", "schema", "when"), ([f"`{one}`", f"`{schema_name_for(one)}`", meaning_of(one)] for one in types)
    )


# commands


@cache
def _commands() -> Mapping[str, Any]:
    """Every command that is not hidden, such as `jobs add`."""
    from typer.main import get_command

    import relay.cli

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        children = getattr(command, "commands", {})
        if not children:
            yield " ".join(words), command
        for name, child in children.items():
            if not child.hidden:
                yield from walk(child, (*words, name))

    return dict(walk(get_command(relay.cli.app), ()))


def _options(command: Any) -> dict[str, str]:
    """The options of a command with their help, in order."""
    found = {}
    for param in command.params:
        if param.param_type_name == "option" and not param.hidden and "--help" not in param.opts:
            long = [name for name in (*param.opts, *param.secondary_opts) if name.startswith("--")]
            value = (
                "" if param.is_flag else f" {param.metavar or _VALUES.get(param.type_descriptor.annotation, 'TEXT')}"
            )
            default = f" Default: {param.default}." if type(param.default) in _VALUES else ""
            found[", ".join(f"`{name}{value}`" for name in long)] = f"{param.help or ''}{default}"
    return found


def commands(*groups: str) -> str:
    """The commands of these names, or of groups with these names: what each does, and its options."""
    chosen = [name for group in groups for name in _commands() if name == group or name.startswith(f"{group} ")]
    parts = []
    for place, name in enumerate(chosen):
        command = _commands()[name]
        arguments = [
            f"{param.name.upper() if not param.metavar else param.metavar}".strip("{}")
            for param in command.params
            if param.param_type_name == "argument"
        ]
        paragraphs = re.split(r"\n\s*\n", (command.help or "").replace("\b", ""))
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        options = _options(command)
        same = ""
        for earlier in chosen[:place]:
            shared = {key for key, help in _options(_commands()[earlier]).items() if options.get(key) == help}
            if len(shared) >= _SHARED_OPTIONS:
                options = {key: help for key, help in options.items() if key not in shared}
                same = f"Options as of [relay {earlier}](#{anchor(f'relay {earlier}')}): {', '.join(sorted(shared))}."
                break
        usage = f"`relay {' '.join((name, *arguments))}`" if arguments else ""
        part = [f"#### relay {name}", usage, text, same]
        if options:
            part.append(table(("option", "meaning"), options.items()))
        parts.append("\n\n".join(filter(None, part)))
    return "\n\n".join(parts)


def columns() -> str:
    """The columns of each table of a command, the most useful first."""
    from relay.cli.columns import ORDER

    return table(("table", "columns"), ([f"`relay {name}`", ", ".join(order)] for name, order in ORDER.items()))


# the API


def _api_settings() -> Any:
    """Those of a relay with default settings."""
    import relay
    from relay.api.http.dependencies import ApiSettings
    from relay.core.access.netguard import GuardPolicy
    from relay.core.events.event import Origin

    origin = Origin(source="", type_prefix="ai.revor.job", dataschema="", account_source="")
    return ApiSettings(
        host="127.0.0.1",
        port=8080,
        public_url=None,
        tokens=(),
        accounts={"revor": ("default",)},
        origins={("revor", ""): origin},
        guard=GuardPolicy(),
        default_timeout_seconds=15.0,
        default_retry_schedule_seconds=(),
        version=relay.__version__,
        node_id="",
    )


@cache
def document() -> Json:
    """The OpenAPI document."""
    found: Json = json.loads(_openapi())
    return found


def _openapi() -> bytes:
    from relay.api.app import openapi_json

    return openapi_json(_api_settings())


def downloads() -> dict[str, str]:
    """What the documentation site offers to programs, by its name there."""
    from relay.api.app import asyncapi_json

    return {"openapi.json": _openapi().decode(), "asyncapi.json": asyncapi_json(_api_settings()).decode()}


@cache
def _operations() -> list[tuple[str, Json]]:
    """Each operation with its method and path, by tag."""
    paths = document()["paths"].items()
    found = [(f"{one.upper()} {path}", methods[one]) for path, methods in paths for one in _METHODS if one in methods]
    tags = [tag["name"] for tag in document()["tags"]]
    return sorted(found, key=lambda operation: tags.index(operation[1]["tags"][0]))


def _schemas() -> Json:
    found: Json = document()["components"]["schemas"]
    return found


def api(*tags: str) -> str:
    """The operations of some tags, one a line, with the answers of success and a link to the details."""
    tag = " ".join(tags)
    rows = []
    for route, operation in _operations():
        if operation["tags"] == [tag]:
            answers = ", ".join(code for code in operation["responses"] if code < "4")
            text = f"[{operation['summary']}](http-reference.md#{anchor(route)})"
            rows.append([f"`{route}`", answers, text])
    return table(("operation", "status", "what it does"), rows)


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def api_reference() -> str:
    """Every operation with its parameters, body and answers, and every object with its fields."""
    common = _common_errors()
    codes = dict.fromkeys(code for code, _ in common)
    shown = ([code, " ".join(text for one, text in common if one == code)] for code in codes)
    parts = ["## Errors of most operations", table(("status", "when"), shown)]
    tag = None
    for route, operation in _operations():
        if operation["tags"] != tag:
            tag = operation["tags"]
            parts.append(f"## {tag[0]}: operations")
        parts.append(_operation(route, operation, {text for _, text in common}))
    parts.append("## Objects")
    of_bodies = _reached(_bodies())
    names = sorted(name for name in _reached([*_bodies(), *_answers()]) if not _page_of(name))
    parts += [_object(name, of_request=name in of_bodies) for name in names]
    return "\n\n".join(filter(None, parts))


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=\.) (?=[A-Z])", text)


def _common_errors() -> list[tuple[str, str]]:
    """Status and sentence of each error that many operations share."""
    counts = Counter(
        (code, sentence)
        for _, operation in _operations()
        for code, answer in operation["responses"].items()
        for sentence in _sentences(answer["description"])
        if code >= "4"
    )
    return sorted(pair for pair, count in counts.items() if count >= _OF_ANY_OPERATION)


def _operation(route: str, operation: Json, common: set[str]) -> str:
    scopes = [scope for one in operation.get("security", []) for scope in one["bearer"] if scope != "admin"]
    needs = f"Scopes: {', '.join(f'`{scope}`' for scope in scopes) or '`admin`'}." if "security" in operation else ""
    text = " ".join(filter(None, (f"{operation['summary']}.", operation.get("description", ""), needs)))
    parts = [f"### {route}", text]
    rows = [
        [f"`{one['name']}`", one["in"], _type(one["schema"]), one["description"]]
        for one in operation.get("parameters", [])
        if one["name"] != "Idempotency-Key" and not (one["in"] == "path" and one["name"] == "id")
    ]
    if rows:
        parts.append(table(("parameter", "in", "value", "meaning"), rows))
    content = operation.get("requestBody", {}).get("content", {})
    bodies = list(dict.fromkeys(_type(one["schema"]) for one in content.values() if _fields(one["schema"])))
    lines = [f"- Body: {' or '.join(bodies)}."] if bodies else []
    for code, answer in operation["responses"].items():
        sentences = [one for one in _sentences(answer["description"]) if code < "4" or one not in common]
        if sentences:
            kinds = [_type(one["schema"]) for one in answer.get("content", {}).values()] if code < "4" else []
            shown = [f" ({kind})" for kind in kinds if kind.startswith(("[", "a page"))]
            lines.append(f"- {code}{''.join(shown[:1])}: {' '.join(sentences)}")
    parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _fields(schema: Json) -> bool:
    """Whether a body of this schema can have anything in it."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return not name or not {"properties", "anyOf", "oneOf", "items"}.isdisjoint(_schemas()[name])


def _object(name: str, *, of_request: bool) -> str:
    schema = _schemas()[name]
    text = " ".join(schema.get("description", "").split())
    needed = schema.get("required", ()) if of_request else ()
    rows = []
    for field, one in schema.get("properties", {}).items():
        default = one.get("default") if of_request else None
        notes = [one.get("description"), f"Default: `{json.dumps(default)}`." if default is not None else None]
        rows.append([f"`{field}`", _type(one) + (", needed" if field in needed else ""), " ".join(filter(None, notes))])
    shown = table(("field", "value", "meaning"), rows) if rows else _type(schema, whole=True)
    return "\n\n".join(filter(None, (f"### {name}", text, shown)))


def _bodies() -> Iterator[Any]:
    for _, operation in _operations():
        yield operation.get("requestBody", {})


def _answers() -> Iterator[Any]:
    for _, operation in _operations():
        yield operation["responses"]


def _reached(values: Iterable[Any]) -> set[str]:
    """The names of the schemas that these values refer to, directly or not."""
    found: set[str] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            _, at, name = value.get("$ref", "").rpartition("/schemas/")
            if at and name not in found and _fields(value):
                found.add(name)
                waiting.append(_schemas()[name])
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return found


def _page_of(name: str) -> str | None:
    """The type of the items, if this is one page of a list."""
    properties = _schemas()[name].get("properties", {})
    if set(properties) != {"items", "next_cursor"}:
        return None
    return _type(properties["items"]["items"])


def number(value: float) -> str:
    """A bound, with commas."""
    return f"{int(value) if value == int(value) else value:,}"


def _type(schema: Json, *, whole: bool = False) -> str:
    """What a value is, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        item = _page_of(name)
        return f"a page of {item}" if item else f"[{name}](#{anchor(name)})"
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        if any("ai.revor.job.failed" in option.get("enum", ()) for option in options):
            return "event type"
        names = list(dict.fromkeys(_type(option) for option in options if option.get("type") != "null"))
        null = [] if len(names) == len(options) or not any(one.get("type") == "null" for one in options) else ["null"]
        return " or ".join((*names, *null))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        most = f", at most {schema['maxItems']:,}" if "maxItems" in schema else ""
        return f"list of {_type(schema.get('items', {}))}{most}"
    if kind in ("integer", "number"):
        least = schema.get("minimum", schema.get("exclusiveMinimum", schema.get("ge")))
        most = schema.get("maximum", schema.get("exclusiveMaximum", schema.get("le")))
        return kind + (f" from {number(least)}" if least else "") + (f" to {number(most)}" if most else "")
    if kind == "string":
        if schema.get("format") == "date-time":
            return "time"
        return "text" + (f", at most {schema['maxLength']:,} characters" if "maxLength" in schema else "")
    if kind == "boolean":
        return "boolean"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"object of {_type(values)}" if isinstance(values, dict) and values else "object"
    return "any JSON"


def error_codes() -> str:
    """Every code of the API that stands in the source: by status, then those of single fields."""
    found: dict[str, set[str]] = {}
    for error in _error_classes():
        found.setdefault(str(error.status), set()).add(error.code)
    statuses = {error.__name__: str(error.status) for error in _error_classes()}
    for call in _calls():
        named = {keyword.arg: getattr(keyword.value, "value", None) for keyword in call.keywords}
        code, status = named.get("code"), named.get("status")
        if isinstance(code, str) and code:
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            of_field = name in ("FieldError", "invalid_parameter")
            if of_field or name in statuses:
                found.setdefault("a field" if of_field else str(status or statuses[name]), set()).add(code)
    from relay.api.http.validation import _CODES, _OWN_CODES

    fields = found.pop("a field") | set(_CODES.values()) | _OWN_CODES | {"wrong_type", "invalid"}
    rows = [[status, ", ".join(f"`{code}`" for code in sorted(codes))] for status, codes in sorted(found.items())]
    named_fields = ", ".join(f"`{code}`" for code in sorted(fields))
    return f"{table(('status', 'codes'), rows)}\n\nCodes in `errors[]`: {named_fields}."


def command_codes() -> str:
    """The codes of the errors that commands end with, and the first sentence of what each means."""
    from relay.errors import NotRenderable, PassageError, RelayError, RequestError, StaleSequence, Unreadable

    found = {}
    for error in _subclasses(RelayError):
        if not issubclass(error, RequestError | NotRenderable | PassageError | StaleSequence | Unreadable):
            found.setdefault(error.code, " ".join((error.__doc__ or "").split()).partition(". ")[0].rstrip(".") + ".")
    found = {code: text for code, text in found.items() if code not in ("error", "store")}
    return table(("code", "meaning"), ([f"`{code}`", text] for code, text in sorted(found.items())))


def definition_keys() -> str:
    """Every key of a source's definition, a table for each section: from its models and their docstrings."""
    from relay.sources.definition import SourceDefinition

    parts: list[str] = []
    waiting: list[tuple[str, Any]] = [("", SourceDefinition)]
    while waiting:
        path, model = waiting.pop(0)
        prose, meanings = _described(model)
        rows, below = [], []
        for name, field in model.model_fields.items():
            key = field.alias or name
            if not path and key in ("name", "hints"):
                continue  # not in this file
            value, inner, suffix = _value_in_words(field.annotation)
            needed = ", needed" if field.is_required() else ""
            default = "" if value.startswith("list") else _default_in_words(field.default)
            rows.append([f"`{key}`", f"{value}{needed}", f"{meanings.get(key, '')}{default}"])
            below += [(f"{path}.{key}{suffix}".lstrip("."), one) for one in inner]
        parts += [f"### {f'`{path}`' if path else 'The file'}", prose, table(("key", "value", "meaning"), rows)]
        waiting = below + waiting
    return "\n\n".join(filter(None, parts))


def _described(model: Any) -> tuple[str, dict[str, str]]:
    """The sentences of a docstring, and what it says of each key: lines of `key, key  meaning`."""
    prose: list[str] = []
    meanings: dict[str, str] = {}
    keys: list[str] = []
    for line in inspect.cleandoc(model.__doc__ or "").splitlines():
        found = re.fullmatch(r"(\w+(?:, \w+)*) {2,}(\S.*)", line)
        if found is not None:
            keys = found[1].split(", ")
            meanings |= dict.fromkeys(keys, found[2])
        elif keys and line.startswith("  "):
            meanings |= {key: f"{meanings[key]} {line.strip()}" for key in keys}
        else:
            keys = []
            prose.append(line)
    return " ".join(" ".join(prose).split()), meanings


def _value_in_words(annotation: Any) -> tuple[str, list[Any], str]:
    """What a key takes; the models of what is below it; and what stands in their path for a name or number."""
    origin, arguments = get_origin(annotation), [one for one in get_args(annotation) if one is not type(None)]
    if origin is Annotated:
        return _value_in_words(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments), [], ""
    if annotation == tuple[str, ...]:
        return "pointer", [], ""
    if origin in (Union, UnionType):
        words = [_value_in_words(one) for one in arguments]
        return " or ".join(dict.fromkeys(word for word, _, _ in words)), words[0][1], words[0][2]
    if origin in (tuple, frozenset):
        value, inner, _ = _value_in_words(arguments[0])
        return f"list of {value}", inner, "[]"
    if origin is not None and issubclass(origin, Mapping):
        value, inner, _ = _value_in_words(arguments[1])
        return f"{value}, by name", inner, ".NAME"
    if annotation.__name__ == "TimePlace":
        return "pointer or `{at, as}`", [], ""
    if hasattr(annotation, "model_fields"):
        return "section", [annotation], ""
    return {bool: "boolean", int: "number", float: "number", str: "text"}[annotation], [], ""


def _default_in_words(default: Any) -> str:
    """`. Default: GET`; empty for a key that is absent by default."""
    shown = "/" + "/".join(default) if isinstance(default, tuple) and default else default
    if isinstance(shown, bool) or not isinstance(shown, str | int) or not shown:
        return ""
    return f". Default: `{shown}`"


_SHOWN_CREATES = 3


def presets() -> str:
    """What each preset covers, by its definition, and the clients that judged it, by tests/vendors/judges.yaml."""
    import yaml

    from relay.sources.definition import load_definition
    from relay.sources.definition import presets as names
    from relay.sources.sections import State

    judges = yaml.safe_load((ROOT / "tests" / "vendors" / "judges.yaml").read_text(encoding="utf-8"))
    rows = []
    for name in names():
        one = load_definition(name)
        title = f"`{name}`: [{one.title}]({one.documentation}){'' if one.seen else ', not seen'}"
        written = yaml.safe_load((ROOT / "relay" / "sources" / name / "hints.yaml").read_text(encoding="utf-8"))
        hints = sum(len(written.get(section, ())) for section in ("codes", "patterns", "polls"))
        for kind, resource in one.resources.items():
            creates = [f"`{create.path}`" for create in resource.creates] or ["none: by id"]
            if len(creates) > _SHOWN_CREATES:
                creates = [*creates[: _SHOWN_CREATES - 1], f"{len(creates) - _SHOWN_CREATES + 1} more"]
            clients = [judge for judge in judges if (judge["preset"], judge["resource"]) == (name, kind)]
            row = {
                "preset": title,
                "resource": f"`{kind}`",
                "creates that are tracked": "<br>".join(creates),
                "states": ", ".join(
                    state for state in get_args(State) if any(rule.state == state for rule in resource.states)
                ),
                "key": _key_of(one.credential),
                "limit": _limit_of(one, resource),
                "saves polls by": ", ".join(filter(None, (_wait_of(resource), "ETag" if resource.etag else ""))),
                "progress": "" if resource.progress is None else ", ".join(sorted(resource.progress.model_fields_set)),
                "result": _result_of(resource),
                "own hints": str(hints),
                "judge": ", ".join(
                    f"{judge['package'].rpartition('@')[0] or judge['package']} ({judge['registry']})"
                    for judge in clients
                ),
            }
            rows.append(row)
    return table(rows[0], (row.values() for row in rows))


def _key_of(credential: Any) -> str:
    if credential.oauth is not None:
        return "OAuth"
    if credential.basic is not None:
        return "HTTP Basic"
    return f"`?{credential.query}=`" if credential.query is not None else f"`{credential.header}`"


def _limit_of(definition: Any, resource: Any) -> str:
    limit, least = definition.limit, resource.min_interval_seconds
    parts = [
        "headers" if definition.headers.limit else "",
        "" if limit is None else f"{limit.requests} in {limit.per_seconds:g} s",
    ]
    return ", ".join(filter(None, (*parts, "" if least is None else f"a job each {least:g} s")))


def _wait_of(resource: Any) -> str:
    wait = resource.wait
    return "" if wait is None else f"`{wait.query or wait.header}`, {wait.max_seconds:g} s"


def _result_of(resource: Any) -> str:
    place = resource.result_url or (() if resource.result is None else resource.result.at)
    return f"{'read at ' if resource.result_url else ''}`/{'/'.join(place)}`" if place else "the job"


def _error_classes() -> list[Any]:
    from relay.errors import RequestError

    return [RequestError, *_subclasses(RequestError)]


def _subclasses(base: Any) -> list[Any]:
    """All classes below this one, whichever module defines them."""
    import relay

    for module in pkgutil.walk_packages(relay.__path__, "relay."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    classes = base.__subclasses__()
    for error in classes:
        classes += error.__subclasses__()
    return [error for error in classes if error.__module__.startswith("relay.")]


def _calls() -> Iterator[ast.Call]:
    for folder in ("relay", "subscribers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "sandbox" not in path.parts and "proxy" not in path.parts:
                yield from (one for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.Call))


PARTS = {
    "settings": settings,
    "variables": variables,
    "metrics": metrics,
    "alerts": alerts,
    "chart-values": chart_values,
    "events": events,
    "figures": figures,
    "words": words,
    "commands": commands,
    "columns": columns,
    "api": api,
    "api-reference": api_reference,
    "error-codes": error_codes,
    "command-codes": command_codes,
    "definition-keys": definition_keys,
    "presets": presets,
}


def with_parts(text: str) -> str:
    """A document with its generated parts made anew."""

    def part(found: "re.Match[str]") -> str:
        name, *arguments = found[2].split()
        return f"{found[1]}\n{PARTS[name](*arguments)}\n\n{found[3]}"

    return _PART.sub(part, text)


def stale() -> dict[Path, str]:
    """The documents whose generated parts differ, with their right text."""
    texts = {path: path.read_text(encoding="utf-8") for path in DOCUMENTS}
    return {path: made for path, text in texts.items() if (made := with_parts(text)) != text}


def main() -> int:
    """Writes what differs. Returns 1 if something does and `--check` was given. `--downloads` prints others as JSON."""
    if "--downloads" in sys.argv:
        print(json.dumps(downloads()))
        return 0
    found = stale()
    for path, text in found.items():
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    return int(bool(found) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
