"""Sink credentials, which a sink asks for besides the signature, and the OAuth 2.0 requests for a token. No I/O.

The fields are those of `sinkcredential` in the CloudEvents Subscriptions API (`PLAIN`, `ACCESSTOKEN`, `REFRESHTOKEN`),
and of three more types, `CLIENTCREDENTIALS`, `HEADER` and `NKEY`. Answers of token endpoints (RFC 6749 section 5) are
untrusted.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeGuard
from urllib.parse import quote_plus, urlencode

from relay.clock import from_rfc3339, to_rfc3339
from relay.core import jsontext
from relay.core.access.netguard import origin_of
from relay.core.deliveries.broker import origin_of_broker
from relay.core.deliveries.delivery import PROXY_ERROR, OutboundRequest, Response
from relay.core.deliveries.retry import parse_retry_after

if TYPE_CHECKING:
    from relay.core.subscriptions.subscription import Subscription

SECRET_FIELDS = frozenset({"secret", "accesstoken", "refreshtoken", "client_secret", "value", "seed"})
"""Fields that are never shown."""
FETCHED = {"CLIENTCREDENTIALS": "token_url", "REFRESHTOKEN": "refreshtokenendpoint"}
"""The types whose token is fetched, and their field with the URL of the token endpoint."""

MAX_TOKEN_CHARACTERS = 8192
RENEW_BEFORE_SECONDS = 60.0
"""A token is renewed this long before it expires, or for the last tenth of a shorter life."""
MIN_TOKEN_SECONDS = 10.0
"""A token is used for at least this time, whatever its answer says: `expires_in: 0` would mean a request per event."""
MAX_TOKEN_SECONDS = 86_400.0
UNKNOWN_TOKEN_SECONDS = 3600.0
"""Life of a token whose answer does not tell it."""
FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 300.0

_TOKEN = re.compile(r"[\x21-\x7e]+", re.ASCII)
_HOST = re.compile(r"[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){0,5}\.(?:salesforce\.(?:com|mil)|force\.com)", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,15}", re.ASCII)
_FORM = ("Content-Type", "application/x-www-form-urlencoded")
# RFC 6749 sections 4.1.2.1 and 5.2, RFC 8707. Any other text could be the secret, echoed.
_ERROR_CODES = (
    *("invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type"),
    *("invalid_scope", "invalid_target", "access_denied", "server_error", "temporarily_unavailable"),
    # Salesforce, OAuth 2.0 Authorization Errors
    *("invalid_client_id", "invalid_client_credentials", "invalid_app_access", "inactive_user", "inactive_org"),
    "rate_limit_exceeded",
)
_OTHER_METHOD = frozenset({"invalid_client", "unauthorized_client"})
_TELL_INSTANCES = ("salesforce",)
"""Kinds of sinks whose token endpoint says in `instance_url` where its token is valid. A webhook may belong to the same
vendor and take the token elsewhere."""

TOKEN_HERE = "{token}"  # noqa: S105  (a placeholder)
"""The value of a request's header that takes the bare access token, for sinks that read no Authorization."""

Header = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkCredential:
    """The credential of one subscription.

    id      names the credential that was given: a new token keeps it, another credential gets another one
    origin  scheme, host and port of the sink it was given for; it is sent nowhere else
    fields  as in the API
    """

    id: str
    origin: str
    fields: Mapping[str, str] = field(repr=False)

    @property
    def type(self) -> str:
        """The value of `credentialtype`."""
        return self.fields["credentialtype"]

    @property
    def shown(self) -> dict[str, str]:
        """The fields that are not secret."""
        return {name: value for name, value in self.fields.items() if name not in SECRET_FIELDS}

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every text that is secret, also as the header contains it."""
        found = {value for name, value in self.fields.items() if name in SECRET_FIELDS}
        if self.type == "PLAIN":
            found.add(_basic(self.fields["identifier"], self.fields["secret"]))
        if "client_secret" in self.fields:
            found |= {_basic(*_client(self)), quote_plus(self.fields["client_secret"])}
        return tuple(found)

    @property
    def token_url(self) -> str | None:
        """The URL of the token endpoint; None if no token is fetched."""
        return self.fields.get(FETCHED.get(self.type, ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An access token. `stale_at`: when it is renewed. `refresh_token`: the next one, if the endpoint sent one."""

    value: str = field(repr=False)
    stale_at: float
    refresh_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoToken:
    """The reason why there is no token.

    detail               a sentence without secrets
    retry_after_seconds  pause that the endpoint asked for
    other_method         the endpoint may accept another way to send the client's secret
    by_proxy             the egress proxy made no connection
    """

    detail: str
    retry_after_seconds: float | None = None
    other_method: bool = False
    by_proxy: bool = False


def origin_text(url: str) -> str:
    """The origin that a credential for this sink is bound to; of a broker, all its addresses."""
    origin = origin_of(url)
    if origin is None:
        return origin_of_broker(url) or ""
    return "{}://{}:{}".format(*origin)


def header_name(fields: Mapping[str, str]) -> str:
    """The header that a credential of these fields sets."""
    return fields["name"] if fields["credentialtype"] == "HEADER" else "Authorization"


def fixed_header(credential: SinkCredential, now: float) -> Header | NoToken:
    """The header of a credential whose token is not fetched."""
    fields = credential.fields
    match credential.type:
        case "HEADER":
            return fields["name"], fields["value"]
        case "PLAIN":
            return "Authorization", "Basic " + _basic(fields["identifier"], fields["secret"])
    expires = fields.get("accesstokenexpiresutc")
    if expires is not None and from_rfc3339(expires) <= now:
        return NoToken(detail=f"the access token expired at {expires}: give the subscription a new sinkcredential")
    return bearer(fields["accesstoken"])


def bearer(token: str) -> Header:
    """The header of an access token (RFC 6750)."""
    return "Authorization", f"Bearer {token}"


def placed(request: OutboundRequest, header: Header) -> Header:
    """The credential's header where the request wants it: in a header whose value is TOKEN_HERE, if it has one."""
    wanted = next((name for name, value in request.headers if value == TOKEN_HERE), None)
    return header if wanted is None else (wanted, header[1].removeprefix("Bearer "))


def stored_token(credential: SinkCredential) -> Token | None:
    """The access token that a REFRESHTOKEN holds; None if there is none."""
    value, expires = credential.fields.get("accesstoken"), credential.fields.get("accesstokenexpiresutc")
    if credential.type != "REFRESHTOKEN" or value is None:
        return None
    return Token(value=value, stale_at=float("inf") if expires is None else from_rfc3339(expires))


def renewed(credential: SinkCredential, token: Token) -> SinkCredential:
    """The REFRESHTOKEN with a new access token, and the new refresh token if there is one."""
    fields = {**credential.fields, "accesstoken": token.value, "accesstokenexpiresutc": to_rfc3339(token.stale_at)}
    if token.refresh_token is not None:
        fields["refreshtoken"] = token.refresh_token
    return replace(credential, fields=fields)


def token_request(credential: SinkCredential, *, secret_in_body: bool = False) -> OutboundRequest:
    """The request for a token (RFC 6749 sections 4.4.2 and 6). The client's secret goes into the Authorization header
    or, as some endpoints want it, into the body."""
    fields, url = credential.fields, credential.token_url
    assert url is not None
    if credential.type == "REFRESHTOKEN":
        form = {"grant_type": "refresh_token", "refresh_token": fields["refreshtoken"]}
    else:
        form = {"grant_type": "client_credentials"}
    form |= {name: fields[name] for name in ("scope", "audience") if name in fields}
    headers: tuple[Header, ...] = (_FORM, ("Accept", "application/json"))
    if "client_secret" in fields and not secret_in_body:
        headers = (*headers, ("Authorization", "Basic " + _basic(*_client(credential))))
    else:
        form |= {name: fields[name] for name in ("client_id", "client_secret") if name in fields}
    return OutboundRequest(url=url, headers=headers, body=urlencode(form).encode())


def instance_of(subscription: "Subscription") -> str | None:
    """The origin that a fetched token must be valid at, where the token endpoint says so; None: it says nothing."""
    credential = subscription.credential
    return None if credential is None or subscription.kind not in _TELL_INSTANCES else credential.origin


def read_token(response: Response, now: float, instance: str | None) -> Token | NoToken:
    """The token in an answer of a token endpoint.

    instance  the origin that `instance_url` of the answer must have, if there is one. It is compared only, and never
              requested. None: it is not checked
    """
    if response.error is not None or response.status_code is None:
        why = f"{response.error}: {response.detail}" if response.detail else str(response.error)
        return NoToken(detail=f"the token endpoint gave no answer ({why})", by_proxy=response.error == PROXY_ERROR)
    answer = _object(response.excerpt)
    if response.status_code != 200:
        return _refusal(response, answer, now)
    if answer is None:
        broken = f" ({response.detail})" if response.detail else ""
        return NoToken(detail=f"the token endpoint's answer is not a JSON object{broken}")
    value, kind = answer.get("access_token"), answer.get("token_type", "bearer")
    if not _is_token(value):
        return NoToken(detail=f"the token endpoint's access_token is {_what_is_wrong(value)}")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        return NoToken(detail="the token endpoint's token_type is not bearer, the only one that can be sent")
    life_seconds = _life_seconds(answer.get("expires_in"))
    if life_seconds is None:
        return NoToken(detail="the token endpoint's expires_in is not a number of seconds")
    renew_seconds = max(life_seconds - min(RENEW_BEFORE_SECONDS, life_seconds / 10), MIN_TOKEN_SECONDS)
    given = answer.get("instance_url")
    if None not in (instance, given) and not (isinstance(given, str) and origin_text(given) == instance):
        return NoToken(
            detail=f"the token is valid at {_shown_origin(given)}, which is not the sink's: correct the sink"
        )
    following = answer.get("refresh_token")
    return Token(value=value, stale_at=now + renew_seconds, refresh_token=following if _is_token(following) else None)


def pause_seconds(failures: int, retry_after_seconds: float | None) -> float:
    """Pause of requests to the token endpoint after this many failures in a row, from 1."""
    own = min(FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 30), MAX_PAUSE_SECONDS)
    return max(own, retry_after_seconds or 0.0)


def _refusal(response: Response, answer: Mapping[str, object] | None, now: float) -> NoToken:
    given = None if answer is None else answer.get("error")
    code = next((known for known in _ERROR_CODES if known == given), None)
    named = "" if code is None else f" ({code})"
    pause = parse_retry_after(response.header("retry-after"), now=now, received_date=response.header("date"))
    return NoToken(
        detail=f"the token endpoint answered {response.status_code}{named}",
        retry_after_seconds=pause,
        # HubSpot names no code of RFC 6749 if the client is not in the body
        other_method=response.status_code == 401 or (response.status_code == 400 and code in (None, *_OTHER_METHOD)),
    )


def _object(body: bytes) -> Mapping[str, object] | None:
    try:
        value = jsontext.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_token(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= MAX_TOKEN_CHARACTERS and _TOKEN.fullmatch(value) is not None


def _what_is_wrong(value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, str) and len(value) > MAX_TOKEN_CHARACTERS:
        return f"longer than {MAX_TOKEN_CHARACTERS} characters"
    return "not text of printable ASCII characters without spaces"


def _shown_origin(instance: object) -> str:
    """The origin of `instance_url`, if it has nothing but the name of a host: the rest could be a secret, echoed."""
    origin = origin_of(instance) if isinstance(instance, str) else None
    return f"https://{origin[1]}" if origin is not None and _HOST.fullmatch(origin[1]) else "another origin"


def _life_seconds(given: object) -> float | None:
    """The seconds that a token lives, within limits; None if the value is no number. Some endpoints send a string."""
    if given is None:
        return UNKNOWN_TOKEN_SECONDS
    if isinstance(given, str):
        given = int(given) if _SECONDS.fullmatch(given) else None
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    return float(min(max(given, 0), MAX_TOKEN_SECONDS))


def _client(credential: SinkCredential) -> tuple[str, str]:
    """RFC 6749 section 2.3.1: both are form-encoded before they are joined."""
    return quote_plus(credential.fields["client_id"]), quote_plus(credential.fields["client_secret"])


def _basic(identifier: str, secret: str) -> str:
    return b64encode(f"{identifier}:{secret}".encode()).decode()
