"""The output of `relay export`: a subscription as relay.yaml declares it, with placeholders for what is secret."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from relay.redaction import REDACTED

if TYPE_CHECKING:
    from relay.config.declared import Declared, Path
    from relay.core.subscriptions.subscription import Subscription

SECRETS = "/run/secrets"
_LINE_BREAKS = frozenset("\x85\u2028\u2029")
"""Characters that YAML reads as line breaks, and its writer puts into a text as they are."""
_NOT_DECLARED = ("secret", "portal")
"""Fields of `config` that have a rule of their own, or are read-only."""
_ABOUT = """\
# Written by `relay export`. Put it into relay.yaml: `relay apply` makes the subscriptions of a relay the same.
"""
_PLACEHOLDERS = f"""\
# ${{file:{SECRETS}/…}} stands for a value that is not shown: write the value into that file, or name another one.
"""
_SECRETS_HERE = """\
# It has secrets in plain text: keep it in no repository.
"""


class Placeholder(str):
    """A reference such as `${NAME}` that the export itself writes. It stays as it is: `${` is not escaped."""

    __slots__ = ()


def document_of(shown: Mapping[str, Any], stored: "Subscription | None", *, with_secrets: bool = False) -> Any:
    """A subscription as it is declared. What has its default is left out.

    shown   as the API shows it
    stored  as the database has it; None through the API
    """
    from relay.api.subscriptions.models import SubscriptionConfig, SubscriptionCreate

    id = str(shown["id"])
    real = stored if with_secrets else None
    document: dict[str, Any] = {"id": id}
    for name in SubscriptionCreate.model_fields:
        value = shown.get(name)
        if name == "sink":
            value = None if value is None else _sink(id, shown, stored, real)
        elif name == "protocol":
            value = None if shown["sink"] is not None else value
        elif name == "protocolsettings":
            value = _protocolsettings(id, value or {}, real)
        elif name == "sinkcredential":
            value = _credential(id, value, real)
        elif name == "config":
            value = _config(id, shown, stored, real, SubscriptionConfig.model_fields)
        if value is not None and value not in ({}, SubscriptionCreate.model_fields[name].default):
            document[name] = value
    if shown.get("owner") is not None:
        document["owner"] = shown["owner"]
    return document


def restore_references(document: dict[str, Any], entry: "Declared") -> None:
    """Puts the references of an entry of relay.yaml into the document of the same subscription."""
    for reference in entry.references:
        *parents, last = reference.path[:2] if reference.path[:2] == ("config", "template") else reference.path
        here: Any = document
        for part in parents:
            here = here.get(part) if isinstance(here, dict) else None
        if isinstance(here, dict) and last in here:
            here[last] = value_as_written(entry, (*parents, last))


def value_as_written(entry: "Declared", path: "Path") -> Any:
    """A value of an entry with its references, as it was written."""
    written = {one.path: one.written for one in entry.references}

    def shown(value: Any, here: "Path") -> Any:
        if here in written:
            return Placeholder(written[here])
        if isinstance(value, dict):
            return {name: shown(child, (*here, name)) for name, child in value.items()}
        return [shown(one, (*here, index)) for index, one in enumerate(value)] if isinstance(value, list) else value

    found: Any = entry.document
    for part in path:
        found = found[part]
    return shown(found, path)


def as_yaml(documents: Sequence[Any], *, paused: Sequence[str]) -> str:
    """The section, with a comment that says what is to be done."""
    import yaml

    head = _ABOUT
    if _has_placeholder(documents):
        head += _PLACEHOLDERS
    elif documents:
        head += _SECRETS_HERE
    if paused:
        head += f"# Where it is new, it begins enabled. Not enabled now: {', '.join(paused)}\n"
    section = {"subscriptions": [escaped(document) for document in documents]}

    class Dumper(yaml.SafeDumper):
        """Writes a list of plain values on one line, and escapes line breaks that are not plain ones."""

    def list_of(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
        is_plain = not any(isinstance(one, Mapping | list) for one in values)
        return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=is_plain)

    def text_of(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
        style = None if _LINE_BREAKS.isdisjoint(text) else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(list, list_of)
    Dumper.add_representer(str, text_of)
    return head + yaml.dump(section, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1_000)


def escaped(value: Any) -> Any:
    """The value with `$${` for `${`, which would be a reference in relay.yaml."""
    if isinstance(value, Placeholder):
        return str(value)
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, Mapping):
        return {name: escaped(child) for name, child in value.items()}
    return [escaped(child) for child in value] if isinstance(value, list | tuple) else value


def _placeholder(*names: str) -> Placeholder:
    return Placeholder(f"${{file:{SECRETS}/{'-'.join(names)}}}")


def _has_placeholder(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_placeholder, value.values()))
    return any(map(_has_placeholder, value)) if isinstance(value, list) else isinstance(value, Placeholder)


def _sink(id: str, shown: Mapping[str, Any], stored: "Subscription | None", real: "Subscription | None") -> str:
    if real is not None:
        return real.sink
    sink = str(shown["sink"])
    is_whole = stored.sink == sink if stored is not None else "…" not in sink and REDACTED not in sink
    return sink if is_whole else _placeholder(id, "sink")


def _protocolsettings(id: str, shown: Mapping[str, Any], real: "Subscription | None") -> dict[str, Any]:
    found: dict[str, Any] = {}
    headers = dict(shown.get("headers") or {}) if real is None else dict(real.headers)
    if headers:
        found["headers"] = {
            name: _placeholder(id, name.lower()) if real is None and value == REDACTED else value
            for name, value in headers.items()
        }
    if shown.get("method", "POST") != "POST":
        found["method"] = shown["method"]
    return found | {name: value for name, value in shown.items() if name not in ("headers", "method")}


def _credential(id: str, shown: Mapping[str, Any] | None, real: "Subscription | None") -> dict[str, Any] | None:
    if shown is None:
        return None
    if real is not None and real.credential is not None:
        return dict(real.credential.fields)
    from relay.api.deliveries.sink_credentials import CREDENTIALS
    from relay.core.deliveries.credentials import SECRET_FIELDS

    type = str(shown["credentialtype"])
    fields = CREDENTIALS[type].model_fields if type in CREDENTIALS else {}
    secret = [name for name, field in fields.items() if name in SECRET_FIELDS and field.is_required()]
    if type == "REFRESHTOKEN" and "client_id" in shown:
        secret.append("client_secret")
    kept = {name: value for name, value in shown.items() if type != "REFRESHTOKEN" or name != "accesstokenexpiresutc"}
    return {**kept, **{name: _placeholder(id, name) for name in secret}}


def _config(
    id: str,
    shown: Mapping[str, Any],
    stored: "Subscription | None",
    real: "Subscription | None",
    fields: dict[str, Any],
) -> dict[str, Any]:
    from relay.core.subscriptions.declared import current_secret
    from subscribers import registry

    given = dict(shown["config"])
    kind = registry.kinds().get(str(given["kind"]))
    defaults = {name: field.default for name, field in fields.items()}
    if kind is not None:
        defaults |= {name: kind.options.default_of(name) for name in kind.options.model_fields}
    defaults |= {"kind": registry.infer_kind(shown["sink"] or ""), "incidents": kind and kind.default_incidents}
    if stored is not None:  # these follow the relay's settings
        own_timeout = stored.timeout_seconds not in (None, kind and kind.timeout_seconds)
        defaults |= {} if own_timeout else {"timeout_seconds": given["timeout_seconds"]}
        defaults |= {"retry_schedule": given["retry_schedule"]} if stored.retry_schedule_seconds is None else {}
    found = {
        name: value
        for name, value in given.items()
        if name in defaults and value is not None and value != defaults[name] and name not in _NOT_DECLARED
    }
    if (kind is None or kind.signed) and given["signature"] != "v1a":
        found["secret"] = _placeholder(id) if real is None else current_secret(real.secrets)
    return found
