"""`sinkcredential` in JSON: the shapes of the CloudEvents Subscriptions API and two more, and both conversions."""

import re
from base64 import b32decode
from binascii import crc_hqx
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field

from relay.api.http.dependencies import ApiSettings
from relay.api.http.fields import MAX_URL_CHARACTERS, Body, Moment, checked, header_view
from relay.api.http.shown import Shown
from relay.api.http.validation import invalid
from relay.api.jobs.registration import check_sink
from relay.clock import from_rfc3339
from relay.core.access.netguard import MAX_HEADER_NAME_LENGTH, MAX_HEADER_VALUE_BYTES, problem_of_header
from relay.core.deliveries.credentials import (
    FETCHED,
    MAX_TOKEN_CHARACTERS,
    SECRET_FIELDS,
    TOKEN_HERE,
    SinkCredential,
    header_name,
    origin_text,
)
from relay.errors import FieldError
from relay.redaction import REDACTED

MAX_TEXT_CHARACTERS = 1024
_SEED = re.compile(r"SU[A-Z2-7]{56}", re.ASCII)
RENEWED = "accesstokenexpiresutc"
"""The shown field of a REFRESHTOKEN that the relay itself changes."""


def _check(is_fine: Callable[[str], bool], expected: str) -> AfterValidator:
    return checked(is_fine, "invalid_credential", f"{expected} expected")


def _is_visible(value: str) -> bool:
    return value.isascii() and value.isprintable() and " " not in value


def _is_seed(value: str) -> bool:
    """NKeys: base32 of two bytes of type, 32 of seed, and their CRC-16 (XMODEM)."""
    if _SEED.fullmatch(value) is None:
        return False
    raw = b32decode(value + "=" * (-len(value) % 8))
    return crc_hqx(raw[:-2], 0) == int.from_bytes(raw[-2:], "little")


_WRITE_ONLY: dict[str, Any] = {"writeOnly": True}
Secret = Annotated[
    str,
    Field(min_length=1, max_length=MAX_HEADER_VALUE_BYTES, json_schema_extra=_WRITE_ONLY),
    _check(str.isprintable, "text without control characters is"),
]
Text = Annotated[
    str,
    Field(min_length=1, max_length=MAX_TEXT_CHARACTERS),
    _check(lambda value: value.isascii() and value.isprintable(), "printable ASCII characters are"),
]
AccessToken = Annotated[
    str,
    Field(min_length=1, max_length=MAX_TOKEN_CHARACTERS, json_schema_extra=_WRITE_ONLY),
    _check(_is_visible, "printable ASCII characters without spaces are"),
]
TokenType = Annotated[
    str,
    _check(
        lambda value: value.lower() == "bearer", "bearer, the only type that can be sent (see HEADER for others), is"
    ),
]
TokenUrl = Annotated[
    str, Field(min_length=1, max_length=MAX_URL_CHARACTERS, description="Where tokens come from: an https URL.")
]
Identifier = Annotated[
    str,
    Field(max_length=MAX_TEXT_CHARACTERS),
    _check(lambda value: value.isprintable() and ":" not in value, "text without a colon or control characters is"),
]


_EXPIRES = "Access token expires"
_BEARER = "`bearer`, the only one that can be sent."
_CLIENT_ID, _CLIENT_SECRET = "The client id.", "The client secret."


class PlainCredential(Body):
    """HTTP basic authentication."""

    credentialtype: Literal["PLAIN"]
    identifier: Identifier = Field(description="The user name.")
    secret: Secret = Field(description="The password.")


class AccessTokenCredential(Body):
    """A bearer token."""

    credentialtype: Literal["ACCESSTOKEN"]
    accesstoken: AccessToken = Field(title="Access token", description="The token.")
    accesstokenexpiresutc: Moment | None = Field(
        default=None, title=_EXPIRES, description="The relay sends nothing from then on."
    )
    accesstokentype: TokenType = Field(default="bearer", title="Token type", description=_BEARER)


class RefreshTokenCredential(Body):
    """A bearer token, and the refresh token that gets the next one."""

    credentialtype: Literal["REFRESHTOKEN"]
    refreshtoken: AccessToken = Field(title="Refresh token", description="The token that gets the next access token.")
    refreshtokenendpoint: TokenUrl = Field(title="Token endpoint")
    accesstoken: AccessToken | None = Field(
        default=None, title="Access token", description="Default: the relay gets one first."
    )
    accesstokenexpiresutc: Moment | None = Field(
        default=None, title=_EXPIRES, description="When the relay gets the next one."
    )
    accesstokentype: TokenType = Field(default="bearer", title="Token type", description=_BEARER)
    client_id: Text | None = Field(default=None, description=_CLIENT_ID)
    client_secret: Secret | None = Field(default=None, description=_CLIENT_SECRET)


class ClientCredentials(Body):
    """OAuth 2.0 client credentials: the relay gets its own tokens."""

    credentialtype: Literal["CLIENTCREDENTIALS"]
    token_url: TokenUrl
    client_id: Text = Field(description=_CLIENT_ID)
    client_secret: Secret = Field(description=_CLIENT_SECRET)
    scope: Text | None = Field(default=None, description="The scopes to ask for.")
    audience: Text | None = Field(default=None, description="The API that the tokens are for.")


class HeaderCredential(Body):
    """A header of any name, for API keys."""

    credentialtype: Literal["HEADER"]
    name: Annotated[str, Field(min_length=1, max_length=MAX_HEADER_NAME_LENGTH)] = Field(
        description="The name of the header."
    )
    value: Annotated[str, Field(min_length=1, max_length=MAX_HEADER_VALUE_BYTES)] = Field(
        description="Its value.", json_schema_extra=_WRITE_ONLY
    )


class NkeyCredential(Body):
    """The NKey of a user of NATS."""

    credentialtype: Literal["NKEY"]
    seed: Annotated[str, _check(_is_seed, "the seed of a user's NKey, SU and 56 more letters and digits, is")] = Field(
        description="The seed, SU and 56 more letters and digits.", json_schema_extra=_WRITE_ONLY
    )


GivenCredential = (
    PlainCredential
    | AccessTokenCredential
    | RefreshTokenCredential
    | ClientCredentials
    | HeaderCredential
    | NkeyCredential
)
SinkCredentialBody = Annotated[
    GivenCredential,
    Field(discriminator="credentialtype"),
]
CREDENTIALS: Mapping[str, type[Body]] = {
    get_args(model.model_fields["credentialtype"].annotation)[0]: model for model in get_args(GivenCredential)
}
"""The model of each type."""


class ShownCredential(Shown):
    """The credential of a sink, without what is secret."""

    credentialtype: Literal["PLAIN", "ACCESSTOKEN", "REFRESHTOKEN", "CLIENTCREDENTIALS", "HEADER", "NKEY"]
    identifier: str = ""
    accesstokenexpiresutc: str = Field(default="", json_schema_extra={"format": "date-time"})
    accesstokentype: str = ""
    refreshtokenendpoint: str = ""
    client_id: str = ""
    token_url: str = ""
    scope: str = ""
    audience: str = ""
    name: str = ""


def sent_headers_view(headers: Sequence[tuple[str, str]], credential: SinkCredential | None) -> dict[str, str]:
    """The headers of a request as they would be sent with a credential; what is secret is redacted. A token is in
    `Authorization`, or where the request wants it."""
    shown = {name: REDACTED if value == TOKEN_HERE else header_view(name, value) for name, value in headers}
    if credential is not None and all(value != TOKEN_HERE for _, value in headers):
        shown[header_name(credential.fields)] = REDACTED
    return shown


def is_shown(document: Any, credential: SinkCredential | None) -> bool:
    """True if `sinkcredential` in a body is the stored one as `GET` shows it: it is then kept. The relay may have
    renewed the token of a REFRESHTOKEN since, so any time of its end is that of an earlier one."""
    given = document.get("sinkcredential") if isinstance(document, dict) else None
    if credential is None or not isinstance(given, dict):
        return False
    names = {*given, *credential.shown}
    if credential.type == "REFRESHTOKEN" and _is_moment(given.get(RENEWED)):
        names.discard(RENEWED)
    return all(given.get(name) == credential.shown.get(name) for name in names)


def _is_moment(value: object) -> bool:
    """True for a time, and for none: the relay has got no token yet."""
    try:
        return value is None or (isinstance(value, str) and from_rfc3339(value) >= 0)
    except ValueError:
        return False


def made_credential(
    given: GivenCredential,
    sink: str,
    settings: ApiSettings,
    *,
    id: str,
    now: float,
) -> SinkCredential:
    """The credential, bound to the sink's origin. Raises InvalidRequest, or SinkRefused for its token endpoint."""
    fields = given.model_dump(exclude_none=True)
    if isinstance(given, HeaderCredential):
        problem = problem_of_header(given.name, given.value)
        if problem is not None:
            raise invalid(FieldError(pointer="/sinkcredential/name", code=problem.code, detail=problem.detail))
    expires = fields.get("accesstokenexpiresutc") if isinstance(given, AccessTokenCredential) else None
    if expires is not None and from_rfc3339(expires) <= now:
        detail = "the access token has expired already"
        raise invalid(FieldError(pointer="/sinkcredential/accesstokenexpiresutc", code="expired", detail=detail))
    url_field = FETCHED.get(given.credentialtype)
    if url_field is not None:
        check_sink(fields[url_field], settings, f"/sinkcredential/{url_field}")
    return SinkCredential(id=id, origin=origin_text(sink), fields=fields)


def kept_credential(credential: SinkCredential, sink: str) -> SinkCredential:
    """The stored credential for the sink of a `PUT`. Raises InvalidRequest if the sink has another origin."""
    if origin_text(sink) not in ("", credential.origin):
        detail = (
            f"the stored {credential.type} was given for another scheme, host or port, and is not sent to this one: "
            "send the credential again, or null to remove it"
        )
        raise invalid(FieldError(pointer="/sinkcredential", code="credential_bound", detail=detail))
    return credential


def credential_errors(credential: SinkCredential | None, headers: tuple[tuple[str, str], ...]) -> list[FieldError]:
    """An error if a custom header has the name of the credential's header."""
    if credential is None or not headers:
        return []
    name = header_name(credential.fields)
    if all(name.lower() != other.lower() for other, _ in headers):
        return []
    detail = f"the credential sets the header {name}, and protocolsettings.headers has it too: remove one of them"
    return [FieldError(pointer="/sinkcredential", code="header_conflict", detail=detail)]


assert not SECRET_FIELDS & set(ShownCredential.model_fields)
