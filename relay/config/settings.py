"""The settings: defaults, overridden by relay.yaml, overridden by variables; read once into frozen models.

`Settings()` is the defaults; `load_settings` reads a file and the environment. Every setting is declared once, below,
with its type, default and meaning. `describe_settings` lists them for the documentation, which tests compare with it.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf, model_validator

from relay.config.binding import (
    Misplaced,
    SettingDoc,
    Written,
    bind,
    describe,
    effective,
    is_reloaded,
    settings_in,
    written_in,
)
from relay.config.declared import Declared
from relay.config.fields import (
    MAX_LIST,
    ApiKey,
    DatabaseUrl,
    Days,
    Duration,
    EncryptionKey,
    Form,
    Host,
    HostPattern,
    Name,
    Network,
    PingUrl,
    Port,
    ProxyUrl,
    Seconds,
    Section,
    SigningSecrets,
    Token,
    UpstreamUrl,
    Url,
    YamlFile,
    internal,
    setting,
)
from relay.config.loader import PREFIX, Value, overlay, overlay_environment, read_file, read_secret_file, resolve
from relay.core.access import netguard
from relay.core.access.tokens import MAX_SCOPE, PUBLISH, SCOPE_FORM, SCOPE_PATTERN, SCOPES, weakness_of
from relay.core.jobs.job import DEFAULT_SOURCE
from relay.core.subscriptions.declared import MAX_DECLARED
from relay.core.values import DEFAULT, EffectiveSetting
from relay.errors import SettingsError

TOKEN_FILE_VARIABLE = "RELAY_TOKEN_FILE"  # noqa: S105 (a name)
DEFAULT_ACCOUNT = "default"
KEY_VARIABLE = "REVOR_API_KEY"
LOOPBACK_NETWORKS: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

VARIABLES = {
    "DATABASE_URL": "database.url",
    KEY_VARIABLE: "the upstream key of the account `default`",
    "REVOR_BASE_URL": f"the base URL of the source `{DEFAULT_SOURCE}`",
    "RELAY_ENCRYPTION_KEY": "the only encryption key, if encryption.keys is not set",
    "RELAY_TOKEN_FILE": "a file with an admin token, in addition to auth.tokens",
}
"""The variables read besides RELAY_SECTION__KEY, and what each sets. An empty one counts as unset."""


class ServerSettings(Section):
    host: Host = setting("127.0.0.1", "address to listen on")
    port: Annotated[int, Field(ge=0, le=65535)] = setting(8080, "port to listen on; 0 chooses a free one")
    public_url: Url | None = setting(None, "URL at which others reach the relay, used in links and event schemas")
    trusted_proxies: Annotated[tuple[Network, ...], Field(max_length=MAX_LIST)] = setting(
        (), "networks of the proxies in front, whose X-Forwarded-For or Forwarded names the caller's address"
    )
    shutdown_seconds: Annotated[float, Field(ge=0, le=3600)] = setting(
        20.0, "time to finish requests and deliveries in flight after SIGTERM"
    )


class DatabaseSettings(Section):
    url: DatabaseUrl = setting(
        "sqlite:///relay.db",
        "where jobs, events and deliveries are stored",
        secret=True,  # it may contain a password
    )
    pool_size: Annotated[int, Field(ge=1, le=1000)] = setting(
        10, "PostgreSQL: read connections per node; four more write and listen"
    )


Scope = Annotated[str, Form(SCOPE_FORM), Field(pattern=f"^{SCOPE_PATTERN}$", max_length=MAX_SCOPE)]


class TokenSettings(Section):
    """One API token."""

    name: Name = setting(..., "name shown in logs", reloaded=True)
    token: Token = setting(..., "the secret that callers send", secret=True, reloaded=True)
    scopes: Annotated[
        tuple[Scope, ...],
        Form(f"a list of {', '.join(SCOPES)}, or {PUBLISH}:PREFIX.", text=False),
        Field(max_length=MAX_LIST),
    ] = setting(
        ...,
        "permissions; proxy is the drop-in only, admin everything",
        reloaded=True,
    )

    @model_validator(mode="after")
    def _check_scopes(self) -> "TokenSettings":
        if not self.scopes:
            raise ValueError(f"has no scopes: give it some of {', '.join(SCOPES)}")
        return self


def _check_tokens(tokens: tuple[TokenSettings, ...]) -> tuple[TokenSettings, ...]:
    for index, token in enumerate(tokens):
        for other in tokens[:index]:
            if token.name == other.name:
                raise Misplaced(index, f"has the name {token.name}, which an earlier token has: names must differ")
            if token.token == other.token:
                raise Misplaced(index, "is the same token as an earlier one: create another")
    return tokens


class AuthSettings(Section):
    tokens: Annotated[
        tuple[TokenSettings, ...],
        Form("a list of {name, token, scopes}", text=False),
        Field(max_length=MAX_LIST),
        AfterValidator(_check_tokens),
    ] = setting(
        (),
        "who may use the API; without any, and without RELAY_TOKEN_FILE, SQLite nodes create an admin token in a file",
        reloaded=True,
    )
    max_callback_hosts_per_token: Annotated[int, Field(ge=1, le=10_000)] = setting(
        20, "maximum hosts that the callbacks of one token, or of one account's key, go to", reloaded=True
    )
    max_subscriptions_per_token: Annotated[int, Field(ge=1, le=100_000)] = setting(
        1_000, "maximum subscriptions that one token may have made, callbacks not counted", reloaded=True
    )


class EncryptionSettings(Section):
    keys: Annotated[tuple[EncryptionKey, ...], Field(max_length=20)] = setting(
        (),
        "keys that encrypt the secrets in the database: the first encrypts, all decrypt; without any, SQLite nodes "
        "create one in a file and PostgreSQL nodes do not start",
        secret=True,
        reloaded=True,
        shown_default='["${RELAY_ENCRYPTION_KEY}"]',
    )


class AccountSettings(Section):
    """One upstream account. `api_key_file` is the file that the key came from, to read it again."""

    name: str = internal(DEFAULT_ACCOUNT)
    api_key: Annotated[ApiKey | None, BeforeValidator(lambda key: None if key == "" else key)] = setting(
        None,
        "the account's upstream key; without one the relay starts but is not ready",
        secret=True,
        reloaded=True,
        shown_default='"${REVOR_API_KEY}"',
    )
    api_key_file: str | None = internal(None)


class PollingSettings(Section):
    reserve: Annotated[float, Field(ge=0, lt=1)] = setting(
        0.3, "share of the upstream's rate limit reserved for other programs", reloaded=True
    )
    max_requests_per_second: Annotated[float, Field(gt=0)] | None = setting(
        None, "limit on requests; null: only the upstream's rate limit applies", reloaded=True
    )
    min_interval_seconds: Seconds = setting(1.0, "minimum time between two polls of a job", reloaded=True)
    max_interval_seconds: Seconds = setting(
        900.0,
        "maximum time between two polls of a job; up to five times as long if no change is expected and requests are "
        "scarce",
        reloaded=True,
    )
    deadline_seconds: Seconds = setting(604800.0, "age at which an open job is reported overdue", reloaded=True)
    connect_accounts_interval_seconds: Seconds = setting(
        300.0,
        "time between two listings of the accounts that jobs are sent from, and between two readings of credits; "
        "longer if they would take more than a hundredth of the requests",
        reloaded=True,
    )

    @model_validator(mode="after")
    def _check_intervals(self) -> "PollingSettings":
        low, high = self.min_interval_seconds, self.max_interval_seconds
        if high < low:
            written = "max" if "max_interval_seconds" in self.model_fields_set else "min"
            problem = f"makes max_interval_seconds ({high:g}) smaller than min_interval_seconds ({low:g})"
            raise Misplaced(f"{written}_interval_seconds", problem)
        return self


class SourceSettings(Section):
    """One upstream, its accounts by name, and how it is polled."""

    name: str = internal(DEFAULT_SOURCE)
    preset: Name = setting(DEFAULT_SOURCE, "definition of the upstream, shipped in relay/sources/")
    file: YamlFile | None = setting(
        None, "in place of preset: a YAML file with the definition; a relative path begins at the settings file"
    )
    base_url: UpstreamUrl = setting(
        "", "base URL of the upstream; default: the one in its definition", shown_default="that of the definition"
    )
    allow_http: bool = setting(
        False, "allow a base_url with plain http beyond this machine; the upstream key then travels unencrypted"
    )
    credits_low: Annotated[int, Field(ge=1, le=10**15)] | None = setting(
        None,
        "watch what each account has left to spend: with fewer credits than this, relay.credits.low is sent once; "
        "null: it is not read",
        reloaded=True,
    )
    accounts: Mapping[str, AccountSettings] = Field(default_factory=lambda: {DEFAULT_ACCOUNT: AccountSettings()})
    polling: PollingSettings = PollingSettings()


Captured = Literal["recipient.address", "recipient.profile_url", "recipient.phone"]
CAPTURED: tuple[Captured, ...] = get_args(Captured)


class ProxySettings(Section):
    enabled: bool = setting(
        True, "forward /api/v1/ and /api/v2/ to the upstream, and track the jobs that creates return"
    )
    adopt_unknown_keys: bool = setting(False, "add an account for each unknown key that a create succeeds with")
    capture: Annotated[
        tuple[Captured, ...], Form(f"a list of {', '.join(CAPTURED)}", text=False), Field(max_length=MAX_LIST)
    ] = setting(
        (),
        "parts of a create's recipient to keep, encrypted, so that a CRM subscription can look the person up",
        reloaded=True,
    )
    capture_shown: bool = setting(
        False,
        "show the kept parts of an unknown send's recipient to people with the scope jobs:write; each look is in the "
        "audit",
        reloaded=True,
    )


class DeliverySettings(Section):
    concurrency: Annotated[int, Field(ge=1, le=100_000)] = setting(256, "maximum deliveries in flight", reloaded=True)
    per_host: Annotated[int, Field(ge=1, le=100_000)] = setting(
        64, "maximum deliveries in flight to one host", reloaded=True
    )
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = setting(
        15.0, "time limit of one attempt, including the answer", reloaded=True
    )
    retry_schedule: Annotated[tuple[Duration, ...], Field(max_length=50)] = setting(
        (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0),
        "pauses between attempts; after the last attempt the delivery is dead",
        reloaded=True,
        shown_default="[5s, 5m, 30m, 2h, 5h, 10h, 14h, 20h, 24h]",
    )
    jitter: Annotated[float, Field(ge=0, le=1)] = setting(
        0.2, "share by which each pause is randomly lengthened or shortened", reloaded=True
    )
    disable_after_seconds: Seconds = setting(
        432000.0, "a subscription that has only failed for this long is disabled", reloaded=True
    )
    max_callbacks_per_job: Annotated[int, Field(ge=1, le=1_000)] = setting(
        8, "maximum callbacks of one job", reloaded=True
    )
    callback_secret: SigningSecrets | None = setting(
        None,
        "secret that signs events for callback_url, or several during a rotation, the newest first; null: one is "
        "created and stored in the database",
        secret=True,
        reloaded=True,
    )


Handshake = Literal["off", "required"]


class SecuritySettings(Section):
    allow_http: bool = setting(False, "allow plain http to sinks inside allow_networks")
    allow_networks: Annotated[tuple[Network, ...], Field(max_length=MAX_LIST)] = setting(
        (), "private networks that may contain sinks, on any port"
    )
    allow_ports: Annotated[tuple[Port, ...], Field(max_length=MAX_LIST)] = setting(
        (443,), "ports that public sinks may use"
    )
    allow_hosts: Annotated[tuple[HostPattern, ...], Field(max_length=MAX_LIST)] = setting(
        (), "the only hosts that sinks, callbacks and token URLs may have; empty: all"
    )
    deny_hosts: Annotated[tuple[HostPattern, ...], Field(max_length=MAX_LIST)] = setting(
        (), "hosts and addresses that they may not have, also if allow_hosts contains them"
    )
    egress_proxy: ProxyUrl | None = setting(
        None,
        "proxy (CONNECT) for all requests to sinks, callbacks and token URLs; it resolves and filters their names",
        secret=True,  # it may contain a password
    )
    handshake: Handshake = setting(
        "off", "whether a sink must agree before the first event, at least: see config.handshake of a subscription"
    )


class RetentionSettings(Section):
    events_days: Days = setting(30, "days that events are kept")
    attempts_days: Days = setting(14, "days that delivery attempts are kept")
    jobs_days: Days = setting(30, "days that closed jobs are kept")
    audit_days: Days = setting(365, "days that entries of the audit are kept")


class GroupSettings(Section):
    settle_seconds: Annotated[float, Field(ge=0, le=31_536_000)] = setting(
        900.0, "a group finishes if nothing came for this long and all of its jobs have ended, unless it is closed"
    )


SearchKey = Annotated[
    str, Form("the name of a metadata key, up to 64 printable characters"), Field(pattern=r"^[^\x00-\x1f\x7f]{1,64}$")
]
NO_USERS = frozenset({"authorization", "cookie", "forwarded", "host", "proxy-authorization", "x-forwarded-for"})
"""Headers that name no user. Some hold secrets, and a user's name is written to the audit."""


def _names_a_user(header: str) -> str:
    if header.lower() in NO_USERS:
        raise ValueError("names no user: choose the header that the proxy writes the user's name into")
    return header


HeaderName = Annotated[
    str,
    Form("the name of a header, such as X-Forwarded-User"),
    Field(pattern=r"^[A-Za-z0-9-]{1,64}$"),
    AfterValidator(_names_a_user),
]


class WebSettings(Section):
    enabled: bool = setting(True, "serve the dashboard at /ui")
    search_keys: Annotated[
        tuple[SearchKey, ...], Form("a list of up to 8 metadata keys", text=False), Field(max_length=8)
    ] = setting((), "keys in the metadata of jobs whose values can be searched for; applies to jobs that follow")
    user_header: HeaderName | None = setting(
        None, "header in which an authenticating proxy names the user; believed from server.trusted_proxies only"
    )
    user_scopes: Annotated[
        tuple[Scope, ...],
        Form(f"a list of {', '.join(SCOPES)}, or {PUBLISH}:PREFIX.", text=False),
        Field(max_length=MAX_LIST),
    ] = setting(("read",), "permissions of those users")


class HeartbeatSettings(Section):
    url: PingUrl | None = setting(
        None,
        "URL that gets a GET every minute while polling and delivery move and the database answers; null: none does",
        secret=True,
    )


class TracingSettings(Section):
    enabled: bool = setting(
        False,
        "makes spans and exports them over OTLP, as set by OpenTelemetry's `OTEL_` variables; needs the extra `otel`",
    )


def _check_declared(entries: tuple[Declared, ...]) -> tuple[Declared, ...]:
    known: set[str] = set()
    for index, entry in enumerate(entries):
        if entry.id in known:
            raise Misplaced(index, f"has the id of an earlier one, {entry.id!r:.70}: each needs its own")
        known.add(entry.id)
    return entries


DEV_RETRY_SCHEDULE = (1.0, 2.0, 3.0, 5.0, 5.0, 10.0, 10.0, 30.0, 60.0)
"""The default with --dev, so that trying out a receiver does not take five minutes."""


class Settings(Section):
    """All settings. `dev` is not a setting but `relay serve --dev`, which opens `security` to loopback; `written` says
    where each of them was written."""

    server: ServerSettings = ServerSettings()
    database: DatabaseSettings = DatabaseSettings()
    auth: AuthSettings = AuthSettings()
    encryption: EncryptionSettings = EncryptionSettings()
    sources: Mapping[str, SourceSettings] = Field(default_factory=lambda: {DEFAULT_SOURCE: SourceSettings()})
    proxy: ProxySettings = ProxySettings()
    delivery: DeliverySettings = DeliverySettings()
    security: SecuritySettings = SecuritySettings()
    retention: RetentionSettings = RetentionSettings()
    groups: GroupSettings = GroupSettings()
    web: WebSettings = WebSettings()
    heartbeat: HeartbeatSettings = HeartbeatSettings()
    tracing: TracingSettings = TracingSettings()
    subscriptions: Annotated[
        tuple[InstanceOf[Declared], ...],
        Form("a list of subscriptions as in the API, each with an id of your own choice", shown=False, text=False),
        Field(max_length=MAX_DECLARED),
        AfterValidator(_check_declared),
    ] = setting(
        (),
        "declared subscriptions, which `relay apply` adds, changes and removes; their secrets must be given",
        secret=True,
        reloaded=True,
    )
    dev: bool = internal(False)
    written: InstanceOf[Written] = internal(Written())


def load_settings(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    dev: bool = False,
    host: str | None = None,
    port: int | None = None,
) -> Settings:
    """The settings of this file (None: no file) and environment. `host` and `port` override both.

    Raises SettingsError with one line: place, key, problem and remedy.
    """
    tree = Value(data={}, where="defaults", key="") if path is None else read_file(path)
    _overlay_named_variables(tree, environ)
    overlay_environment(tree, environ)
    for key, given in (("host", host), ("port", port)):
        if given is not None:
            overlay(tree, ["server", key], Value(data=given, where=f"--{key}", key=f"server.{key}"))
    written_keys = _find(tree, "encryption", "keys")
    if written_keys is None and environ.get("RELAY_ENCRYPTION_KEY"):
        given_key = Value(data=environ["RELAY_ENCRYPTION_KEY"], where="RELAY_ENCRYPTION_KEY", key="encryption.keys[0]")
        overlay(tree, ["encryption", "keys"], replace(given_key, data=[given_key], key="encryption.keys"))
    written = written_in(tree)
    tree = resolve(tree, environ)
    settings = bind(Settings, tree, dev=dev, written=written)
    settings = _with_files(settings, Path() if path is None else path.parent)
    _check_sources(settings)
    _require_proxy(settings)
    settings = _with_token_file(settings, environ)
    return _opened_for_development(settings) if dev else settings


def misnamed_variables(environ: Mapping[str, str]) -> list[str]:
    """A warning for each variable that is named like a setting, but with single underscores, and so is not read.
    Kubernetes sets such names to the addresses of services: those are no mistake."""
    keys = [one.key for one in describe_settings() if "[]" not in one.key]
    forms = {key: re.compile(key.replace(".", "_").replace("NAME", "([a-z0-9_]+?)")) for key in keys}
    found = []
    for name in sorted(environ):
        rest = name.removeprefix(PREFIX)
        if rest == name or "__" in rest or name in VARIABLES or environ[name].startswith("tcp://"):
            continue
        for key, form in forms.items():
            if match := form.fullmatch(rest.lower()):
                right = key.replace("NAME", "{}").format(*match.groups()).replace(".", "__").upper()
                found.append(
                    f"{name} is not read. Parts of a setting are joined by two underscores: set {PREFIX}{right}"
                )
                break
    return found


def describe_settings() -> list[SettingDoc]:
    """Every setting: key, type, default, meaning, and whether SIGHUP applies a change."""
    return list(describe(Settings))


def effective_settings(settings: Settings) -> list[EffectiveSetting]:
    """Every setting as it is in force, with the place that it comes from, and without secrets."""
    return list(effective(settings, settings.written))


def _opened_for_development(settings: Settings) -> Settings:
    networks = tuple(dict.fromkeys((*settings.security.allow_networks, *LOOPBACK_NETWORKS)))
    security = settings.security.replace(allow_http=True, allow_networks=networks)
    delivery, changed = settings.delivery, ["security.allow_http", "security.allow_networks"]
    if "retry_schedule" not in delivery.model_fields_set:
        delivery = delivery.replace(retry_schedule=DEV_RETRY_SCHEDULE)
        changed.append("delivery.retry_schedule")
    written = settings.written.opened(changed, "--dev")
    return settings.replace(security=security, delivery=delivery, written=written)


def require_strong_access(settings: Settings) -> None:
    """Raises SettingsError if others can reach the relay with --dev, or, without it, for a token that can be
    guessed."""
    if settings.dev:
        if not netguard.is_loopback_host(settings.server.host):
            where = f"server.host is {settings.server.host}, which others can reach"
            what = "--dev needs no token from this machine: listen on 127.0.0.1, or drop --dev"
            raise SettingsError(f"{where}, and {what}")
        return
    for index, token in enumerate(settings.auth.tokens):
        weakness = weakness_of(token.token)
        if weakness is not None:
            place = settings.written.place(f"auth.tokens[{index}].token")
            what = f"{place}: auth.tokens[{index}]: the token {token.name} {weakness}"
            raise SettingsError(f"{what}: create one with `openssl rand -hex 32`")


def takes_over(old: Settings, new: Settings) -> Settings:
    """The old settings with the new upstream and encryption keys, tokens, polling, delivery, capture and declared
    subscriptions, which SIGHUP applies."""
    sources = {}
    for name, source in old.sources.items():
        after = new.sources.get(name)
        if after is not None:
            accounts = {one: after.accounts.get(one, account) for one, account in source.accounts.items()}
            source = source.replace(polling=after.polling, credits_low=after.credits_low, accounts=accounts)
        sources[name] = source
    taken = old.replace(
        auth=new.auth,
        delivery=new.delivery,
        encryption=new.encryption,
        proxy=old.proxy.replace(capture=new.proxy.capture, capture_shown=new.proxy.capture_shown),
        sources=sources,
        subscriptions=new.subscriptions,
    )
    reloaded = frozenset(key for key, _, field in settings_in(taken) if is_reloaded(field))
    return taken.replace(written=old.written.reread(new.written, reloaded))


def changed_keys(old: Settings, new: Settings) -> list[str]:
    """The keys whose values differ. Their values may be secrets."""
    before = {key: value for key, value, _ in settings_in(old)}
    return sorted(key for key, value, _ in settings_in(new) if key not in before or before[key] != value)


def needs_restart(old: Settings, new: Settings) -> list[str]:
    """The changed keys that SIGHUP does not apply, including added and removed sources and accounts."""
    before = {key: value for key, value, field in settings_in(old) if not is_reloaded(field)}
    changed = [key for key, value, _ in settings_in(new) if key in before and before[key] != value]
    return [*changed, *sorted(_accounts(old) ^ _accounts(new))]


def _accounts(settings: Settings) -> set[str]:
    return {
        f"sources.{name}.accounts.{account}" for name, source in settings.sources.items() for account in source.accounts
    }


def _overlay_named_variables(tree: Value, environ: Mapping[str, str]) -> None:
    source = _source_of_variables(tree)
    targets = (
        ("DATABASE_URL", ["database", "url"]),
        (KEY_VARIABLE, ["sources", source, "accounts", DEFAULT_ACCOUNT, "api_key"]),
        ("REVOR_BASE_URL", ["sources", source, "base_url"]),
    )
    for name, keys in targets:
        if environ.get(name):
            overlay(tree, keys, Value(data=environ[name], where=name, key=".".join(keys), untyped=True))


def _with_token_file(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Adds the admin token of RELAY_TOKEN_FILE."""
    given = environ.get(TOKEN_FILE_VARIABLE)
    if not given:
        return settings
    try:
        text = read_secret_file(str(Path(given).absolute()))
    except ValueError as error:
        raise SettingsError(f"{TOKEN_FILE_VARIABLE}: {given} {error}") from None
    entry = {"token": Value(data=text, where=TOKEN_FILE_VARIABLE, key=given)}
    token = Value(data=entry, where=TOKEN_FILE_VARIABLE, key="")
    added = bind(TokenSettings, token, name=TOKEN_FILE_VARIABLE, scopes=("admin",))
    for other in settings.auth.tokens:
        if other.token == added.token:
            place = f"{TOKEN_FILE_VARIABLE}: {given}"
            raise SettingsError(f"{place} contains the token {other.name} of auth.tokens: remove one of the two")
    return with_token(settings, added, place=f"{TOKEN_FILE_VARIABLE} ({given})")


def with_token(settings: Settings, token: TokenSettings, *, place: str) -> Settings:
    """The settings with one more API token, which was written at `place`."""
    tokens = settings.auth.tokens
    written = settings.written.including({f"auth.tokens[{len(tokens)}]": place})
    return settings.replace(auth=settings.auth.replace(tokens=(*tokens, token)), written=written)


def _source_of_variables(tree: Value) -> str:
    """The source that REVOR_API_KEY and REVOR_BASE_URL set: `revor`, else the only one with that preset."""
    written = _find(tree, "sources")
    names = written.data if written is not None and isinstance(written.data, dict) else {}
    of_preset = [
        name
        for name in names
        if (preset := _find(tree, "sources", name, "preset")) is not None and preset.data == DEFAULT_SOURCE
    ]
    return of_preset[0] if DEFAULT_SOURCE not in names and len(of_preset) == 1 else DEFAULT_SOURCE


def _find(tree: Value, *keys: str) -> Value | None:
    here: Value | None = tree
    for key in keys:
        here = here.data.get(key) if here is not None and isinstance(here.data, dict) else None
    return here


def _with_files(settings: Settings, folder: Path) -> Settings:
    """Sources with a file have no preset, and the path of the file begins at this folder."""
    sources = {}
    for name, source in settings.sources.items():
        if source.file is not None:
            if "preset" in source.model_fields_set:
                place = settings.written.place(f"sources.{name}.file")
                raise SettingsError(f"{place}: sources.{name} has both a preset and a file: remove one of the two")
            source = source.replace(preset="", file=str(folder / source.file))
        sources[name] = source
    return settings.replace(sources=sources)


def _check_sources(settings: Settings) -> None:
    for name, source in settings.sources.items():
        place = settings.written.place(f"sources.{name}")
        if name != DEFAULT_SOURCE and source.file is None and "preset" not in source.model_fields_set:
            problem = f"has no preset: name one, such as `preset: {DEFAULT_SOURCE}`, or a `file` with its definition"
            raise SettingsError(f"{place}: sources.{name} {problem}")  # a key goes to no default
        if source.base_url:
            check_base_url(settings, name, source.base_url)


def check_base_url(settings: Settings, name: str, base_url: str) -> None:
    """Raises SettingsError if this base URL of a source is the relay's own, or would send the key unencrypted."""
    server, written, source = settings.server, settings.written, settings.sources[name]
    place = written.place(f"sources.{name}.base_url")
    shown = f"sources.{name}.base_url ({base_url})"
    whose = None
    if netguard.is_bound_address(base_url, host=server.host, port=server.port):
        whose = "the address that this relay listens on"
    elif server.public_url is not None and netguard.is_within(base_url, server.public_url):
        whose = "this relay's own server.public_url"
    if whose is not None:  # it would poll itself for ever
        place = written.place("server.public_url") if place == DEFAULT else place
        raise SettingsError(f"{place}: {shown} is {whose}: it must be the upstream's")
    parts = urlsplit(base_url)
    if not (parts.scheme == "https" or source.allow_http or netguard.is_loopback_host(parts.hostname or "")):
        raise SettingsError(
            f"{place}: {shown} is plain http, which would send the upstream key unencrypted: use https, or allow "
            f"it with sources.{name}.allow_http: true"
        )


def _require_proxy(settings: Settings) -> None:
    """Without a proxy to believe, the header would be ignored without a word."""
    if settings.web.user_header is not None and not settings.server.trusted_proxies:
        raise SettingsError(
            f"{settings.written.place('web.user_header')}: web.user_header is believed from server.trusted_proxies "
            "only, which is empty: list the address of the proxy there"
        )
