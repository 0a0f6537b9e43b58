"""The form of a subscription: converts its fields to a body of the API, and a subscription to its fields.

The fields are those of the API's models (`written_fields`), named by their paths, such as `config.kind`.

A form that is refused or previewed comes back with all that was typed, secrets too: only in the answer to the POST that
carried them, which no cache keeps (`no-store`), to the browser that sent it, which a form token proves. The relay keeps
nothing of it. Stored secrets are never put into a field.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from relay.api.deliveries.sink_credentials import CREDENTIALS
from relay.api.subscriptions.models import written_fields
from relay.core.jsontext import JSONDecodeError
from relay.errors import FieldError, InvalidRequest
from relay.web.page import Form
from subscribers import registry
from subscribers.fields import WrittenField

KEEP, NO_CREDENTIAL = "keep", ""
CREDENTIAL = "sinkcredential.credentialtype"
KIND = "config.kind"
TILE = "tile"
"""The kind that the form was drawn for."""
OTHER_TYPES = "other_types"
"""Types that have no box to tick."""
_MORE = (OTHER_TYPES, "event", "check", TILE)
"""Fields of the page that are not of a subscription."""
_PLACES = {"protocol": "sink", "event_id": "event", "type": "event"}
"""The fields that show errors of the API about other fields."""


@dataclass(frozen=True, slots=True)
class Filled:
    """The values of the fields. `credential_shown`: the stored credential without its secrets, in a sentence."""

    text: Mapping[str, str] = field(default_factory=dict)
    types: frozenset[str] = frozenset()
    credential_shown: str = ""

    def get(self, name: str) -> str:
        """The text of a field."""
        return self.text.get(name, "")


def form_fields(*, creates: bool) -> Mapping[str, WrittenField]:
    """The fields of the form by path. `creates`: also those that only a new subscription has."""
    fields = [one for one in written_fields() if one.cli.own or one.path == "sink"]
    return {one.path: one for one in fields if one.path != "sinkcredential" and (creates or not one.cli.creates)}


def kind_of(form: Form) -> str:
    """The kind that the form's subscription has: the one that was chosen, else that of its sink; without a sink, the
    one that the form was drawn for."""
    chosen, sink, tile = form.get(KIND), form.get("sink"), form.get(TILE)
    if chosen in registry.kinds():
        return chosen
    return registry.infer_kind(sink) if sink else tile if tile in registry.kinds() else "webhook"


def new_fields(kind: str, usual: frozenset[str]) -> Filled:
    """The fields of a new subscription of a kind, with its usual types. The kind of a webhook stays open: the address
    may say another one."""
    by_name = registry.kinds()[kind].by_name
    home = "" if by_name is None or "{" in by_name.home else by_name.home
    credential = NO_CREDENTIAL if by_name is None else "CLIENTCREDENTIALS" if by_name.token_path else "ACCESSTOKEN"
    own = "" if kind == "webhook" else kind
    return Filled({TILE: kind, KIND: own, "sink": home, CREDENTIAL: credential}, usual)


def body_of(form: Form, known_types: Iterable[str], usual: Collection[str]) -> dict[str, Any]:
    """The body that the fields describe, as for `POST` and `PUT`. `usual`: the types that need no mention. Raises
    InvalidRequest for a value that cannot be read."""
    errors: list[FieldError] = []
    known = frozenset(known_types)
    given: dict[str, dict[str, Any]] = {"": {}, "protocolsettings": {}, "config": {}, "sinkcredential": {}}
    for path, one in form_fields(creates=True).items():
        text = form.get(path)
        if text and path != "types":
            try:
                given[one.part][one.name] = one.read(text)
            except JSONDecodeError as error:
                at = f"line {error.lineno}, column {error.colno}: this is not JSON ({error.msg})"
                errors.append(_error(path, at))
            except ValueError as error:
                errors.append(_error(path, f"{error}: write it like {one.example}"))
    types = [*(one for one in form.all("types") if one in known), *re.split(r"[,\s]+", form.get(OTHER_TYPES))]
    parts = {name: value for name, value in given.items() if value and name not in ("", "sinkcredential")}
    body: dict[str, Any] = {**given[""], **parts}
    types = list(filter(None, types))
    if not types:
        errors.append(_error("types", "choose at least one event"))
    elif set(types) != set(usual):
        body["types"] = types
    type = form.get(CREDENTIAL, NO_CREDENTIAL)
    if type not in (KEEP, NO_CREDENTIAL, *CREDENTIALS):
        errors.append(_error(CREDENTIAL, "choose a type of credential"))
    elif type != KEEP:
        fields = CREDENTIALS[type].model_fields if type else ()
        of_type = {name: value for name, value in given["sinkcredential"].items() if name in fields}
        body["sinkcredential"] = of_type or None
    if errors:
        raise InvalidRequest(errors[0].detail, errors=errors)
    return body


def fields_of(subscription: Mapping[str, Any], known_types: Iterable[str], usual: frozenset[str]) -> Filled:
    """The fields of a subscription as GET shows it. `usual`: its types if it names none."""
    known = frozenset(known_types)
    types = usual if subscription["types"] is None else frozenset(subscription["types"])
    text = {OTHER_TYPES: "\n".join(sorted(types - known)), TILE: subscription["config"]["kind"]}
    for path, one in form_fields(creates=False).items():
        if one.part != "sinkcredential":
            value = (subscription[one.part] if one.part else subscription).get(one.name)
            text[path] = "" if value is None else one.text_of(value)
    credential = subscription["sinkcredential"]
    text[CREDENTIAL] = NO_CREDENTIAL if credential is None else KEEP
    return Filled(text, types & known, credential_sentence(credential))


def credential_sentence(credential: Mapping[str, Any] | None) -> str:
    """A credential without its secrets: its type and other members."""
    if credential is None:
        return ""
    more = [f"{name} {value}" for name, value in credential.items() if name != "credentialtype"]
    return ", ".join([str(credential["credentialtype"]), *more])


def typed_again(form: Form, known_types: Iterable[str], kind: str, before: Filled | None) -> Filled:
    """The fields as they were typed. `kind`: the one that the form is drawn for now."""
    text = {name: form.get(name) for name in (*_MORE, *form_fields(creates=True))}
    shown = "" if before is None else before.credential_shown
    return Filled({**text, TILE: kind}, frozenset(form.all("types")) & frozenset(known_types), shown)


def errors_by_field(errors: Sequence[FieldError]) -> dict[str, list[str]]:
    """The errors by field, each with its position in the field; "" has those without a field."""
    found: dict[str, list[str]] = {}
    known = form_fields(creates=True)
    for error in errors:
        first, *rest = error.pointer.removeprefix("/subscription").removeprefix("/").split("/")
        first = _PLACES.get(first, first)
        name, place = f"{first}.{rest[0] if rest else ''}", "/".join(rest[1:])
        if name not in known:
            has_field = first in known or first == "event"
            name, place = (first if has_field else CREDENTIAL if first == "sinkcredential" else ""), "/".join(rest)
        has_place = not place or (name == "filters" and error.detail.startswith("filters["))
        found.setdefault(name, []).append(error.detail if has_place else f"{place}: {error.detail}")
    return found


def _error(path: str, detail: str) -> FieldError:
    return FieldError(pointer=f"/{path.replace('.', '/')}", code="invalid", detail=detail)
