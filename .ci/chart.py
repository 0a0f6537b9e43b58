#!/usr/bin/env python3
"""Writes the generated files of the chart in deploy/helm/revor-relay.

`values.schema.json` is written by hand, except its `settings`: these are the relay's own. `values.yaml` has the
schema's defaults and descriptions; `files/` has the rules of Prometheus, and the settings that hold secrets.
tests/unit/test_chart_files.py fails while a committed file differs from what this program would write. `--check` only
names the files that differ.
"""

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy" / "helm" / "revor-relay"
SCHEMA = CHART / "values.schema.json"
RULES = ("alerts.yml", "recording.yml")
NOT_WHOLLY_SECRET = ("database.url", "security.egress_proxy", "subscriptions")
"""Refused anyway; a secret only with a password in it; with secrets in some fields."""
REFERENCE = r"^\$\{.+\}$"
WIDTH = 118
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

Json = Mapping[str, Any]


# the settings of the relay


def settings_schema() -> Json:
    """Every setting of relay.yaml."""
    about = (
        "Settings of the relay, written into relay.yaml: docs/reference/settings.md. Secrets are references, such as "
        "${file:/run/secrets/revor-relay/KEY}"
    )
    return {"description": about, "default": {}, **_section(settings_model())}


def _section(model: Any) -> Json:
    properties = {}
    for name, field in model.model_fields.items():
        if not field.exclude:
            properties[name] = _below(model, name, field)
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _below(model: Any, name: str, field: Any) -> Json:
    from relay.config.fields import Section

    for base in (field.annotation, *get_args(field.annotation)):
        if isinstance(base, type) and issubclass(base, Section):
            inner = _section(base)
            kind = get_origin(field.annotation)
            if kind is tuple:
                return {"description": field.description, "type": "array", "items": inner}
            return inner if kind is None else {"type": "object", "additionalProperties": inner}
    if name == "subscriptions":
        return {"description": field.description, "type": "array", "items": {"type": "object"}}
    return {"description": field.description, **_leaf(f"{model.__name__}.{name}", field)}


def _leaf(name: str, field: Any) -> Json:
    from pydantic import TypeAdapter

    if name == "DeliverySettings.callback_secret":
        return {"type": ["string", "array", "null"], "items": {"type": "string"}}
    found = TypeAdapter(field.rebuild_annotation()).json_schema()
    return _plain(found, reference=name != "ServerSettings.shutdown_seconds")  # the chart reckons with that one


def _plain(schema: Json, *, reference: bool = False) -> Json:
    """A schema without alternatives. Where a number or a boolean is due, `${NAME}` may stand too."""
    parts = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    one = parts[0]
    kind = one.get("type", "string")
    types = [kind]
    plain: dict[str, Any] = {}
    if kind == "array":
        plain["items"] = {"type": ["number", "string"]} if _is_duration(one) else _plain(one["items"])
        plain |= {key: one[key] for key in ("maxItems",) if key in one}
    elif kind in ("integer", "number", "boolean"):
        plain |= {key: one[key] for key in _NUMBERS if key in one}
        if reference:
            types.append("string")
            plain["pattern"] = REFERENCE
    elif "enum" in one:
        plain["enum"] = one["enum"]
    if len(parts) < len(schema.get("anyOf", [schema])):
        types.append("null")
    return {"type": types if len(types) > 1 else kind, **plain}


def _is_duration(schema: Json) -> bool:
    return bool(schema["items"].get("type") == "number")


def secret_settings() -> str:
    """The settings that hold secrets, one a line; `*` stands for a name, `[]` for an entry of a list.

    The templates refuse a value there that is no reference. The schema cannot: its errors would show the value.
    """
    from relay.core.deliveries.credentials import SECRET_FIELDS

    places = ("config.secret", *(f"sinkcredential.{name}" for name in sorted(SECRET_FIELDS)))
    found = [*_secrets(settings_model(), ""), *(f"subscriptions.[].{place}" for place in places)]
    return "\n".join(found) + "\n"


def settings_model() -> Any:
    from relay.config.settings import Settings

    return Settings


def _secrets(model: Any, prefix: str) -> Iterator[str]:
    from relay.config.fields import Section

    for name, field in model.model_fields.items():
        kind = {tuple: ".[]", None: ""}.get(get_origin(field.annotation), ".*")
        inner = [
            base
            for base in (field.annotation, *get_args(field.annotation))
            if isinstance(base, type) and issubclass(base, Section)
        ]
        if inner:
            yield from _secrets(inner[0], f"{prefix}{name}{kind}.")
        elif not field.exclude and not field.repr and f"{prefix}{name}" not in NOT_WHOLLY_SECRET:
            yield f"{prefix}{name}"


# values.yaml


def values(schema: Json) -> str:
    """The defaults, each below what it means."""
    lines = [
        "# Values of the chart, with their defaults. Written by .ci/chart.py from values.schema.json.",
        "# docs/operate/kubernetes.md installs it.",
        *_values(schema["properties"], 0),
    ]
    return "\n".join(lines) + "\n"


def _values(properties: Json, depth: int) -> Iterator[str]:
    import yaml

    indent = "  " * depth
    for name, one in properties.items():
        if name == "global":
            continue
        if depth == 0:
            yield ""
        about = one.get("description", "")
        yield from textwrap.wrap(about, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if "enum" in one:
            yield f"{indent}# One of: {', '.join(one['enum'])}"
        if "default" not in one:
            yield f"{indent}{name}:"
            yield from _values(one["properties"], depth + 1)
            continue
        text = yaml.safe_dump({name: one["default"]}, sort_keys=False, width=WIDTH).replace("''", '""')
        yield from (f"{indent}{line}" for line in text.splitlines())


def table_rows(schema: Json, prefix: str = "") -> Iterator[list[str]]:
    """Key, default and meaning of each value, for the documentation."""
    for name, one in schema["properties"].items():
        key = f"{prefix}{name}"
        if "default" in one:
            about = one["description"] + (f". One of {', '.join(one['enum'])}" if "enum" in one else "")
            default = one["default"]
            shown = "" if default in ("", [], {}) else f"`{json.dumps(default)}`"
            yield [f"`{key}`", shown, about]
        elif name != "global":
            yield [f"`{key}`", "", one["description"]]
            yield from table_rows(one, f"{key}.")


# the files


def files() -> dict[Path, str]:
    """Each generated file with its text."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    schema["properties"]["settings"] = settings_schema()
    made = {SCHEMA: json.dumps(schema, indent=2) + "\n", CHART / "values.yaml": values(schema)}
    made[CHART / "files" / "secrets.txt"] = secret_settings()
    for name in RULES:
        source = ROOT / "deploy" / name
        if source.exists():
            made[CHART / "files" / name] = source.read_text(encoding="utf-8")
    return made


def stale() -> dict[Path, str]:
    """The files that differ, with their right text."""
    return {
        path: text for path, text in files().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    }


def main() -> int:
    """Writes what differs. Returns 1 if something does and `--check` was given."""
    found = stale()
    for path, text in found.items():
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    return int(bool(found) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
