"""The types of settings: pydantic types with the phrase that messages and the documentation use for them.

A validator raises ValueError with the rest of the sentence `relay.yaml:12: server.host …`; in it `{expected}` stands
for the phrase. `binding.py` reads values from a file's tree and finds the line of an error.
"""

import base64
import binascii
import ipaddress
import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from relay.core.access.client_address import network_of
from relay.core.access.tokens import NAME_FORM, NAME_PATTERN, is_token_name
from relay.core.subscriptions.signing import SECRET_FORMAT, parse_secret
from relay.core.values import MAX_DURATION_SECONDS, duration_seconds

MAX_LIST = 1000
MAX_TEXT = 4096
MAX_SIGNING_SECRETS = 10
URL_PARAMETERS = ("host", "port", "user", "password", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey")
"""Parameters of a PostgreSQL URL that both of the driver's ways to connect understand."""

KEY_FORMAT = "32 random bytes as URL-safe base64 (44 characters)"

_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\\\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_HOST_PATTERN = re.compile(r"[a-z0-9_*.:-]{1,253}")
_API_SUFFIX = re.compile(r"/api/v[0-9]+\Z")


class Section(BaseModel):
    """A section of the settings. Fields that the relay fills in, and a user cannot set, are `internal`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    def replace(self, **changes: Any) -> Self:
        """A copy with other values, which are not validated again."""
        return self.model_copy(update=changes)


@dataclass(frozen=True, slots=True)
class Form:
    """The required form of a value: `expected` completes "must be …". Values that may be secret are not `shown`. `text`
    is taken literally, anything else is parsed as YAML where it comes from a variable."""

    expected: str
    shown: bool = True
    text: bool = True


def setting(
    default: Any,
    meaning: str,
    *,
    secret: bool = False,
    reloaded: bool = False,
    shown_default: str | None = None,
) -> Any:
    """One setting. `secret` keeps it out of reprs; `reloaded`: SIGHUP applies a change.

    `shown_default` replaces the default in the documentation. A field with the same name and `_file` gets the path if
    the value is `${file:/path}`.
    """
    shown = shown_default or ("(needed)" if default is ... else _yaml(default))
    extra: dict[str, Any] = {"reloaded": reloaded, "default": shown}
    return Field(default, description=meaning, repr=not secret, json_schema_extra=extra)


def internal(default: Any) -> Any:
    """A field that is not a setting."""
    return Field(default, exclude=True)


def is_name(text: str) -> bool:
    """True if this can name a source, an account or a token."""
    return is_token_name(text)


def parse_duration(written: object) -> float:
    """The seconds of `5s`, `5m`, `2h`, `1d`, `500ms` or of a number of seconds. Raises ValueError."""
    seconds = math.nan
    if isinstance(written, int | float) and not isinstance(written, bool):
        seconds = float(written) if abs(written) <= MAX_DURATION_SECONDS else math.inf
    elif isinstance(written, str):
        with suppress(ValueError):
            seconds = duration_seconds(written.strip())
    if not 0 <= seconds <= MAX_DURATION_SECONDS:
        raise ValueError(f"must be {DURATION.expected}")
    return seconds


def decode_encryption_key(text: str) -> bytes:
    """The 32 bytes of a key in Fernet's format. Raises ValueError without quoting the key."""
    try:
        raw = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raw = b""
    if len(raw) != 32 or "+" in text or "/" in text:
        raise ValueError(f"must be {KEY_FORMAT}")
    return raw


def split_url(text: str, *, allow_query: bool = False) -> SplitResult:
    """The parts of an http or https URL. Raises ValueError without quoting the URL: it may contain a password."""
    if _UNPRINTABLE.search(text):
        raise ValueError("has white space, a backslash or a control character in it")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is not a URL: its host or port makes no sense") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("must be an absolute URL such as https://host.example")
    if "@" in parts.netloc:
        raise ValueError("must not have a user name or password in it")
    if "#" in text or ("?" in text and not allow_query):
        raise ValueError(f"must not have a {'' if allow_query else 'query or a '}fragment")
    return parts


def _checked(check: Callable[[str], object]) -> AfterValidator:
    """A validator that only checks the text."""

    def validate(text: str) -> str:
        check(text)
        return text

    return AfterValidator(validate)


def _check_host(text: str) -> None:
    if any(sign in text for sign in "/@ ") or not text.isprintable():
        raise ValueError("must be {expected}, such as 127.0.0.1")


def is_header_text(text: str) -> bool:
    """True if a header can carry it: printable ASCII without white space and backslashes."""
    return text.isascii() and not _UNPRINTABLE.search(text)


def _check_header_text(text: str) -> None:
    if not is_header_text(text):
        raise ValueError("has white space or other characters that no header can carry: it must be {expected}")


def _signing_secrets(written: object) -> tuple[object, ...]:
    """One secret, or a list of them, as a tuple."""
    secrets = written if isinstance(written, tuple) else (written,)
    if not 0 < len(secrets) <= MAX_SIGNING_SECRETS:
        raise ValueError("must be {expected}")
    for secret in secrets:
        try:
            parse_secret(secret if isinstance(secret, str) else "")
        except ValueError:
            raise ValueError("must be {expected}") from None
    return secrets


def _check_database_url(text: str) -> None:
    if text.startswith(("postgres://", "postgresql://", "postgresql+asyncpg://")):
        rest, _, query = text.partition("://")[2].partition("?")
        host, _, database = rest.rpartition("@")[2].partition("/")
        if not database:
            raise ValueError("must name a database, such as postgresql://user@host/relay")
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
            example = "postgresql://user@host:5432/relay"
            raise ValueError(f"must have a port from 1 to 65535, or none, such as {example}")
        if any(name not in URL_PARAMETERS for name, _ in parse_qsl(query, keep_blank_values=True)):
            raise ValueError(f"takes no parameters but {', '.join(URL_PARAMETERS)}")
    elif not text.startswith("sqlite:///") or text == "sqlite:///" or "?" in text or "#" in text:
        raise ValueError(
            "must be sqlite:/// and a path, such as sqlite:///relay.db (from here) or sqlite:////var/lib/relay.db, "
            "or postgresql://user:password@host/database"
        )


def _normal_url(text: str) -> str:
    parts = split_url(text)
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def upstream_url(text: str) -> str:
    """The base URL of an upstream in its normal form. Raises ValueError without quoting it."""
    return _API_SUFFIX.sub("", _normal_url(text)).rstrip("/")


def _network(written: object) -> object:
    if not isinstance(written, str):
        return written
    try:
        return network_of(written)
    except ValueError as error:
        raise ValueError(f"must be {{expected}}{error}") from None


def _host_pattern(text: str) -> str:
    pattern = text.lower().removesuffix(".")
    if not _HOST_PATTERN.fullmatch(pattern):
        raise ValueError("must be {expected}; write an international name in ASCII (xn--…)")
    return pattern


def _check_proxy_url(text: str) -> None:
    """Raises ValueError without quoting the URL, which may contain a password."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not is_header_text(text) or not usable:
        raise ValueError("must be {expected}")
    if parts.path not in ("", "/") or "?" in text or "#" in text:
        raise ValueError("must end behind the port: {expected}")
    if parts.username is not None and ":" in unquote(parts.username):
        raise ValueError("has a colon in its user name, which Basic authentication cannot send")


def _yaml(default: object) -> str:
    if isinstance(default, tuple):
        return f"[{', '.join(_yaml(item) for item in default)}]"
    if isinstance(default, float):
        return f"{default:g}" if default < 1e6 and default != int(default) else str(int(default))
    return json.dumps(default)


NAME = Form(NAME_FORM)
DURATION = Form("a duration such as 5s, 5m, 2h or 1d, or a number of seconds", text=False)

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
YamlFile = Annotated[Text, Form("the path of a YAML file")]
Name = Annotated[str, NAME, Field(pattern=f"^{NAME_PATTERN}$")]
Host = Annotated[Text, Form("a host name or an address"), _checked(_check_host)]
Url = Annotated[Text, Form("a URL such as https://host.example", shown=False), AfterValidator(_normal_url)]
PingUrl = Annotated[
    Text,
    Form("a URL such as https://hc.example/ping/your-id", shown=False),
    _checked(partial(split_url, allow_query=True)),
]
UpstreamUrl = Annotated[
    Text,
    Form("a URL such as https://host.example (a trailing /api/v1 is removed)", shown=False),
    AfterValidator(upstream_url),
]
DatabaseUrl = Annotated[
    Text, Form("sqlite:/// and a path, or postgresql://…", shown=False), _checked(_check_database_url)
]
Token = Annotated[
    Text,
    Form("a random token of at least 32 characters, 10 of them different", shown=False),
    _checked(_check_header_text),
]
ApiKey = Annotated[Text, Form("the upstream's key", shown=False), _checked(_check_header_text)]
EncryptionKey = Annotated[Text, Form(KEY_FORMAT, shown=False), _checked(decode_encryption_key)]
SigningSecrets = Annotated[
    tuple[str, ...],
    Form(f"{SECRET_FORMAT}, or a list of up to {MAX_SIGNING_SECRETS} of these", shown=False, text=False),
    BeforeValidator(_signing_secrets),
]
Duration = Annotated[float, DURATION, BeforeValidator(parse_duration)]
Seconds = Annotated[
    float, Form("a number above 0 and at most 31622400 (a year)", text=False), Field(gt=0, le=MAX_DURATION_SECONDS)
]
Days = Annotated[int, Field(ge=1, le=36500)]
Port = Annotated[int, Field(ge=1, le=65535)]
Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    Form("a network such as 10.0.0.0/8 or fd00::/8"),
    BeforeValidator(_network),
]
HostPattern = Annotated[
    Text,
    Form("a host name or an address, in which * stands for any characters, such as *.example.com"),
    AfterValidator(_host_pattern),
]
ProxyUrl = Annotated[
    Text,
    Form("the URL of a proxy that takes CONNECT, such as http://user:password@proxy:3128", shown=False),
    _checked(_check_proxy_url),
]
