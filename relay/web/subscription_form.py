"""The form of a subscription: converts its fields to a body of the API, and a subscription to its fields.

Members without a field of their own are in two JSON fields, `config` and `protocolsettings`, so that an edit loses
nothing. Secrets are never put into a field: such a field is empty on the next page.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from relay.api.http.fields import header_view
from relay.clock import to_rfc3339
from relay.core.jsontext import JSONDecodeError, loads
from relay.core.subscriptions.subscription import PULL
from relay.core.values import duration_seconds
from relay.errors import FieldError, InvalidRequest
from relay.redaction import REDACTED, redact_text
from relay.web.page import Form

AUTOMATIC = ""
"""The kind is derived from the sink."""
KEEP, NO_CREDENTIAL = "keep", ""
NOT_IN_CONFIG = ("kind", "template", "secret", "portal")
"""Members of the API's `config` that the field `config` leaves out: they have fields of their own, or are read-only."""

CREDENTIALS: Mapping[str, tuple[str | None, str, str | None, str | None]] = {
    "ACCESSTOKEN": (None, "accesstoken", None, None),
    "PLAIN": ("identifier", "secret", None, None),
    "HEADER": ("name", "value", None, None),
    "CLIENTCREDENTIALS": ("client_id", "client_secret", "token_url", None),
    "REFRESHTOKEN": ("client_id", "refreshtoken", "refreshtokenendpoint", "client_secret"),
    "NKEY": (None, "seed", None, None),
}
"""The types of credentials, and their members for the fields name, secret, URL and second secret."""
_CREDENTIAL_FIELDS = ("credential_name", "credential_secret", "credential_url", "credential_secret2")

_PLACES = (
    ("/sinkcredential", "credential"),
    ("/sink", "sink"),
    ("/protocolsettings", "protocolsettings"),
    ("/protocol", "sink"),
    ("/types", "types"),
    ("/source", "source"),
    ("/filters", "filters"),
    ("/config/kind", "kind"),
    ("/config/template", "template"),
    ("/config/secret", "secret"),
    ("/config", "config"),
    ("/description", "description"),
    ("/event_id", "event"),
    ("/type", "event"),
)
"""Beginnings of JSON Pointers, and the field that each belongs to."""
_PAIR = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:\s*)"((?:[^"\\]|\\.)*)"')
_OWN_SECRET = re.compile(r"whsec_[A-Za-z0-9+/=_-]+|whsk_[A-Za-z0-9+/=_-]+")


@dataclass(frozen=True, slots=True)
class Filled:
    """The values of the fields. `credential_shown`: the stored credential without its secrets, in a sentence."""

    text: Mapping[str, str] = field(default_factory=dict)
    types: frozenset[str] = frozenset()
    credential_shown: str = ""
    retype_sink: bool = False

    def get(self, name: str) -> str:
        """The text of a field."""
        return self.text.get(name, "")


def body_of(form: Form, known_types: Iterable[str]) -> dict[str, Any]:
    """The body that the fields describe, as for `POST` and `PUT`. Raises InvalidRequest for invalid JSON."""
    errors: list[FieldError] = []
    config = _object(form, "config", errors)
    errors += [_error("config", f"remove {name}: it is not set here") for name in NOT_IN_CONFIG if name in config]
    kind, template, secret = form.get("kind"), _json(form, "template", errors), form.get("secret")
    own = {"kind": kind or None, "template": template, "secret": secret or None}
    config |= {name: value for name, value in own.items() if value is not None}
    body: dict[str, Any] = {
        "sink": form.get("sink") or None,
        "types": _types(form, frozenset(known_types)),
        "source": form.get("source") or None,
        "filters": _filters(form, errors),
        "protocolsettings": _object(form, "protocolsettings", errors) or None,
        "description": form.get("description") or None,
        "config": config or None,
        "protocol": "PULL" if kind == PULL else None,
    }
    body = {name: value for name, value in body.items() if value is not None}
    credential = form.get("credential", NO_CREDENTIAL)
    if credential != KEEP:
        body["sinkcredential"] = _credential(form, credential, errors)
    if errors:
        raise InvalidRequest(errors[0].detail, errors=errors)
    return body


def fields_of(subscription: Mapping[str, Any], known_types: Iterable[str]) -> Filled:
    """The fields of a subscription as GET shows it."""
    config, types = dict(subscription["config"]), frozenset(subscription["types"] or ())
    known, credential = frozenset(known_types), subscription["sinkcredential"]
    rest = {name: value for name, value in config.items() if value is not None and name not in NOT_IN_CONFIG}
    settings = subscription["protocolsettings"]
    text = {
        "description": subscription["description"] or "",
        "kind": config["kind"],
        "sink": subscription["sink"] or "",
        "other_types": "\n".join(sorted(types - known)),
        "source": subscription["source"] or "",
        "filters": pretty(subscription["filters"]) if subscription["filters"] else "",
        "template": "" if config.get("template") is None else pretty(config["template"]),
        "protocolsettings": pretty(settings) if settings else "",
        "config": pretty(rest),
        "credential": NO_CREDENTIAL if credential is None else KEEP,
    }
    return Filled(text, types & known, credential_sentence(credential))


def credential_sentence(credential: Mapping[str, Any] | None) -> str:
    """A credential without its secrets: its type and other members."""
    if credential is None:
        return ""
    more = [f"{name} {value}" for name, value in credential.items() if name != "credentialtype"]
    return ", ".join([str(credential["credentialtype"]), *more])


def typed_again(
    form: Form, known_types: Iterable[str], is_secret_sink: Callable[[str], bool], before: Filled | None
) -> Filled:
    """The fields as they were typed, without secrets."""
    sink, known = form.get("sink"), frozenset(known_types)
    hides = bool(sink) and (before is None or sink != before.get("sink")) and is_secret_sink(sink)
    plain = ("description", "kind", "other_types", "source", "filters", "template", "event", "check")
    text = {name: form.get(name) for name in (*plain, "credential", "credential_name", "credential_url")}
    text |= {
        "credential_more": form.get("credential_more"),
        "sink": "" if hides else sink,
        "protocolsettings": _settings_again(form.get("protocolsettings")),
        "config": _config_again(form.get("config")),
    }
    shown = "" if before is None else before.credential_shown
    return Filled(text, frozenset(form.all("types")) & known, shown, retype_sink=hides)


def errors_by_field(errors: Sequence[FieldError]) -> dict[str, list[str]]:
    """The errors by field, each with its position in the field; "" has those without a field."""
    found: dict[str, list[str]] = {}
    for error in errors:
        pointer = error.pointer.removeprefix("/subscription")
        prefix, name = next((one for one in _PLACES if pointer.startswith(one[0])), ("", ""))
        place = pointer.removeprefix(prefix).lstrip("/")
        has_place = not place or (name == "filters" and error.detail.startswith("filters["))
        found.setdefault(name, []).append(error.detail if has_place else f"{place}: {error.detail}")
    return found


def pretty(value: object) -> str:
    """JSON for a field."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _types(form: Form, known: frozenset[str]) -> list[str] | None:
    chosen = [one for one in form.all("types") if one in known]
    return [*chosen, *form.get("other_types").replace(",", " ").split()] or None


def _filters(form: Form, errors: list[FieldError]) -> list[Any] | None:
    found = _json(form, "filters", errors)
    return found if found is None or isinstance(found, list) else [found]


def _credential(form: Form, kind: str, errors: list[FieldError]) -> dict[str, Any] | None:
    if kind == NO_CREDENTIAL:
        return None
    if kind not in CREDENTIALS:
        errors.append(_error("sinkcredential", "choose a type of credential"))
        return None
    named = zip(CREDENTIALS[kind], _CREDENTIAL_FIELDS, strict=True)
    given = {name: form.get(place) for name, place in named if name is not None and form.get(place)}
    return {"credentialtype": kind, **_object(form, "credential_more", errors, "sinkcredential"), **given}


def _json(form: Form, name: str, errors: list[FieldError], place: str | None = None) -> Any:
    text = form.get(name)
    if not text:
        return None
    try:
        return loads(text.encode())
    except JSONDecodeError as error:
        pointer = place or ("config/template" if name == "template" else name)
        errors.append(_error(pointer, f"line {error.lineno}, column {error.colno}: this is not JSON ({error.msg})"))
        return None


def _object(form: Form, name: str, errors: list[FieldError], place: str | None = None) -> dict[str, Any]:
    found = _json(form, name, errors, place)
    if found is not None and not isinstance(found, dict):
        errors.append(_error(place or name, "a JSON object is needed, such as {}"))
    return found if isinstance(found, dict) else {}


def _error(pointer: str, detail: str) -> FieldError:
    return FieldError(pointer=f"/{pointer}", code="invalid", detail=detail)


def _settings_again(text: str) -> str:
    """The typed settings of the protocol, without the values of headers that look like credentials."""
    found = _parsed(text)
    headers = found.get("headers") if isinstance(found, dict) else None
    if isinstance(found, dict) and (headers is None or isinstance(headers, dict)):
        given = headers or {}
        shown = {name: header_view(name, value) if isinstance(value, str) else value for name, value in given.items()}
        return text if given == shown else pretty({**found, "headers": shown})
    return redact_text(_PAIR.sub(lambda pair: f'"{pair[1]}"{pair[2]}"{header_view(pair[1], pair[3])}"', text))


def _config_again(text: str) -> str:
    """The typed config, without a signing secret."""
    found = _parsed(text)
    if isinstance(found, dict) and "secret" in found:
        return pretty({name: value for name, value in found.items() if name != "secret"})
    return text if found is not None else redact_text(_OWN_SECRET.sub(REDACTED, text))


def _parsed(text: str) -> Any:
    """A JSON value; None if the text is not JSON."""
    try:
        return loads(text.encode())
    except JSONDecodeError:
        return None


_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_MINUTE = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d)(:\d\d)?")


def moment(text: str, now: float) -> str:
    """The RFC 3339 time for an age such as `2h`, for a day, or for a day and time, all in UTC. Other text is returned
    unchanged: the API reports what is wrong with it."""
    if _DAY.fullmatch(text):
        return f"{text}T00:00:00Z"
    found = _MINUTE.fullmatch(text)
    if found is not None:
        return f"{found[1]}T{found[2]}{found[3] or ':00'}Z"
    try:
        return to_rfc3339(now - duration_seconds(text))
    except (ValueError, OverflowError, OSError):
        return text
