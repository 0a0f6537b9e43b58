"""The settings: defaults, overridden by relay.yaml, overridden by variables; read once into frozen values.

`Settings()` is the defaults. `load_settings` reads a file and the environment. Every setting is declared once, below,
with its kind, default and meaning; `describe` lists them for the documentation, which tests hold to it.
"""
# ruff: noqa: RUF009 (what `setting` and `section` return are dataclass fields)

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl

from relay.config import kinds
from relay.config.kinds import Kind, Network
from relay.config.loader import Value, overlay, overlay_environment, read_file, read_secret_file, resolve
from relay.config.sections import SettingDoc, describe_section, needed, read_section, section, sections, setting, walk
from relay.core import urls
from relay.errors import SettingsError

SCOPES = ("admin", "jobs:write", "read")
MIN_EXPOSED_TOKEN_CHARS = 16
TOKEN_FILE_VARIABLE = "RELAY_TOKEN_FILE"  # noqa: S105 (a name)
DEFAULT_SOURCE = "revor"
DEFAULT_ACCOUNT = "default"
REVOR_BASE_URL = "https://revor.ai"
URL_PARAMETERS = ("host", "port", "user", "password", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey")
"""Of a PostgreSQL URL: those that both of the driver's ways to connect understand."""
LOOPBACK_NETWORKS: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

VARIABLES = {
    "DATABASE_URL": "database.url",
    "REVOR_API_KEY": "the upstream key of the account `default`",
    "REVOR_BASE_URL": "the base URL of the source `revor`",
    "RELAY_ENCRYPTION_KEY": "the one encryption key, when encryption.keys is not set",
    "RELAY_TOKEN_FILE": "a file with an admin token, beside those of auth.tokens",
}
"""The variables that are read beside RELAY_SECTION__KEY, and what each sets. An empty one counts as unset."""

_seconds = kinds.number("above 0 and at most 31622400 (a year)", lambda given: 0 < given <= 31622400)
_days = kinds.integer(1, 36500)


def _host_problem(given: str) -> str | None:
    if any(sign in given for sign in "/@ ") or not given.isprintable():
        return "must be a host name or an address, such as 127.0.0.1"
    return None


def _database_problem(given: str) -> str | None:
    if given.startswith(("postgres://", "postgresql://", "postgresql+asyncpg://")):
        rest, _, query = given.partition("://")[2].partition("?")
        host, _, database = rest.rpartition("@")[2].partition("/")
        if not database:
            return "must name a database, such as postgresql://relay@db.example/relay"
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
            return "must have a port from 1 to 65535, or none, such as postgresql://relay@db.example:5432/relay"
        if any(name not in URL_PARAMETERS for name, _ in parse_qsl(query, keep_blank_values=True)):
            known = ", ".join(URL_PARAMETERS)
            return f"takes no parameters but {known}"
        return None
    if not given.startswith("sqlite:///") or given == "sqlite:///" or "?" in given or "#" in given:
        return (
            "must be sqlite:/// and a path, such as sqlite:///relay.db (from here) or sqlite:////var/lib/relay.db, "
            "or postgresql://user:password@host/database"
        )
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    host: str = setting(kinds.text("a host name or an address", _host_problem), "127.0.0.1", "address to listen on")
    port: int = setting(kinds.integer(0, 65535), 8080, "port to listen on; 0 chooses a free one")
    public_url: str | None = setting(
        kinds.optional(kinds.http_url), None, "URL at which others reach the relay, used in links and event schemas"
    )
    shutdown_seconds: float = setting(
        kinds.number("from 0 to 3600", lambda given: 0 <= given <= 3600),
        20.0,
        "time to finish requests and deliveries in flight after SIGTERM",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    # A database URL can hold a password, hence no repr and no quoting in messages.
    url: str = setting(
        kinds.text("sqlite:/// and a path, or postgresql://…", _database_problem, secret=True),
        "sqlite:///relay.db",
        "where jobs, events and deliveries are stored",
        secret=True,
    )
    pool_size: int = setting(
        kinds.integer(1, 1000), 10, "PostgreSQL: read connections per node; three more write and listen"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """One API token: its name in logs, the token itself, and what it may do."""

    name: str = needed(kinds.name_text, "name shown in logs")
    token: str = needed(kinds.secret_text("a random token"), "the secret that callers send", secret=True)
    scopes: tuple[str, ...] = needed(
        Kind(
            name="a list of admin, read, jobs:write",
            read=lambda value: tuple(kinds.one_of(SCOPES, item) for item in kinds.items(value, "a list of scopes")),
        ),
        "permissions: admin (everything), read, jobs:write",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    tokens: tuple[TokenSettings, ...] = setting(
        Kind(name="a list of {name, token, scopes}", read=lambda value: _read_tokens(value)),
        (),
        "who may use the API; without any, and without RELAY_TOKEN_FILE, SQLite nodes create an admin token in a file",
        reloaded=True,
        entry=TokenSettings,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionSettings:
    keys: tuple[str, ...] = setting(
        kinds.list_of(kinds.encryption_key, at_most=20),
        (),
        "keys that encrypt the secrets in the database: the first encrypts, all decrypt; without any, SQLite nodes "
        "create one in a file and PostgreSQL nodes do not start",
        secret=True,
        shown_default='["${RELAY_ENCRYPTION_KEY}"]',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSettings:
    """One upstream account. `api_key` is None when none is set; `api_key_file` is the file to read it from again."""

    name: str = "default"
    api_key: str | None = setting(
        Kind(name="the upstream's key, or null", read=lambda value: _read_api_key(value)),
        None,
        "the account's upstream key; without one the relay starts but is not ready",
        secret=True,
        reloaded=True,
        shown_default='"${REVOR_API_KEY}"',
        file_field="api_key_file",
    )
    api_key_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PollingSettings:
    reserve: float = setting(
        kinds.number("from 0 to below 1", lambda given: 0 <= given < 1),
        0.3,
        "share of the upstream's rate limit reserved for other programs",
        reloaded=True,
    )
    max_requests_per_second: float | None = setting(
        kinds.optional(kinds.number("above 0", lambda given: given > 0)),
        None,
        "limit on requests; null: only the upstream's rate limit applies",
        reloaded=True,
    )
    min_interval_seconds: float = setting(_seconds, 1.0, "minimum time between two polls of a job", reloaded=True)
    max_interval_seconds: float = setting(
        _seconds,
        900.0,
        "maximum time between two polls of a job; up to five times as long if no change is expected and requests are "
        "scarce",
        reloaded=True,
    )
    deadline_seconds: float = setting(_seconds, 604800.0, "age at which an open job is reported overdue", reloaded=True)

    def check(self, value: Value) -> None:
        """Raises SettingsError when the longest interval is shorter than the shortest."""
        if self.max_interval_seconds < self.min_interval_seconds:
            low, high = self.min_interval_seconds, self.max_interval_seconds
            written = kinds.mapping(value)
            at = written.get("max_interval_seconds") or written["min_interval_seconds"]
            raise at.error(f"makes max_interval_seconds ({high:g}) smaller than min_interval_seconds ({low:g})")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """One upstream, its accounts by name, and how it is polled."""

    name: str = "revor"
    preset: str = setting(kinds.name_text, "revor", "definition of the upstream, shipped in relay/sources/")
    base_url: str = setting(kinds.upstream_url, REVOR_BASE_URL, "base URL of the upstream")
    accounts: Mapping[str, AccountSettings] = sections(AccountSettings, DEFAULT_ACCOUNT)
    polling: PollingSettings = section(PollingSettings)

    def check(self, value: Value) -> None:
        """Raises SettingsError when a default would send another upstream's keys to Revor."""
        written = kinds.mapping(value)
        if "preset" not in written and self.name != DEFAULT_SOURCE:
            raise value.error("has no preset: write `preset: revor` if it is a Revor")
        if "base_url" not in written and self.preset != DEFAULT_SOURCE:
            raise value.error("has no base_url: only the preset revor has a default one")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    enabled: bool = setting(
        kinds.boolean, True, "forward /api/v1/ and /api/v2/ to the upstream, and track the jobs that creates return"
    )
    adopt_unknown_keys: bool = setting(
        kinds.boolean,
        False,
        "add an account for each unknown key that a create succeeds with",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    concurrency: int = setting(kinds.integer(1, 100_000), 256, "maximum deliveries in flight", reloaded=True)
    per_host: int = setting(kinds.integer(1, 100_000), 64, "maximum deliveries in flight to one host", reloaded=True)
    timeout_seconds: float = setting(
        kinds.number("above 0 and at most 60", lambda given: 0 < given <= 60),
        15.0,
        "time limit of one attempt, including the answer",
        reloaded=True,
    )
    retry_schedule: tuple[float, ...] = setting(
        kinds.list_of(kinds.duration, at_most=50),
        (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0),
        "pauses between attempts; after the last attempt the delivery is dead",
        reloaded=True,
        shown_default="[5s, 5m, 30m, 2h, 5h, 10h, 14h, 20h, 24h]",
    )
    jitter: float = setting(
        kinds.number("from 0 to 1", lambda given: 0 <= given <= 1),
        0.2,
        "share by which each pause is randomly lengthened or shortened",
        reloaded=True,
    )
    disable_after_seconds: float = setting(
        _seconds, 432000.0, "a subscription that has only failed for this long is disabled", reloaded=True
    )
    callback_secret: str | None = setting(
        kinds.optional(kinds.signing_secret),
        None,
        "secret that signs events for callback_url; null: one is created and stored in the database",
        secret=True,
        reloaded=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuritySettings:
    allow_http: bool = setting(kinds.boolean, False, "allow plain http to sinks inside allow_networks")
    allow_networks: tuple[Network, ...] = setting(
        kinds.list_of(kinds.network), (), "private networks that may contain sinks, on any port"
    )
    allow_ports: tuple[int, ...] = setting(
        kinds.list_of(kinds.integer(1, 65535)), (443,), "ports that public sinks may use"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionSettings:
    events_days: int = setting(_days, 30, "days that events are kept")
    attempts_days: int = setting(_days, 14, "days that delivery attempts are kept")
    jobs_days: int = setting(_days, 30, "days that closed jobs are kept")


DEV_RETRY_SCHEDULE = (1.0, 2.0, 3.0, 5.0, 5.0, 10.0, 10.0, 30.0, 60.0)
"""With --dev, unless one is written: who tries a receiver out does not wait for five minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings. `dev` is not written anywhere: it is `relay serve --dev`, which opens `security` to loopback."""

    server: ServerSettings = section(ServerSettings)
    database: DatabaseSettings = section(DatabaseSettings)
    auth: AuthSettings = section(AuthSettings)
    encryption: EncryptionSettings = section(EncryptionSettings)
    sources: Mapping[str, SourceSettings] = sections(SourceSettings, DEFAULT_SOURCE)
    proxy: ProxySettings = section(ProxySettings)
    delivery: DeliverySettings = section(DeliverySettings)
    security: SecuritySettings = section(SecuritySettings)
    retention: RetentionSettings = section(RetentionSettings)
    dev: bool = False


def load_settings(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    dev: bool = False,
    host: str | None = None,
    port: int | None = None,
) -> Settings:
    """The settings of this file (None: of no file) and this environment; `host` and `port` of a command line win.

    Raises SettingsError, one line that says where, which key, what is wrong and what to do.
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
    tree = resolve(tree, environ)
    settings = read_section(Settings, tree, known=[doc.key for doc in describe()], dev=dev)
    _refuse_ourselves(settings, tree)
    settings = _with_token_file(settings, environ)
    if dev:
        networks = (*settings.security.allow_networks, *LOOPBACK_NETWORKS)
        security = replace(settings.security, allow_http=True, allow_networks=tuple(dict.fromkeys(networks)))
        delivery = settings.delivery
        if _find(tree, "delivery", "retry_schedule") is None:
            delivery = replace(delivery, retry_schedule=DEV_RETRY_SCHEDULE)
        settings = replace(settings, security=security, delivery=delivery)
    return settings


def describe() -> list[SettingDoc]:
    """Every setting: key, type, default, meaning, and whether SIGHUP suffices for a change."""
    return list(describe_section(Settings))


def require_token_beyond_loopback(settings: Settings) -> None:
    """Raises SettingsError when others can reach the relay, and --dev lets callers in without a token or a token is
    so short that it can be guessed."""
    if urls.is_loopback_host(settings.server.host):
        return
    where = f"server.host is {settings.server.host}, which others can reach"
    if settings.dev:
        raise SettingsError(f"{where}, and --dev asks this machine for no token: listen on 127.0.0.1, or drop --dev")
    for token in settings.auth.tokens:
        if len(token.token) < MIN_EXPOSED_TOKEN_CHARS:
            raise SettingsError(
                f"{where}, and the token {token.name} in auth.tokens is shorter than {MIN_EXPOSED_TOKEN_CHARS} "
                "characters: make one with `openssl rand -hex 32`"
            )


def changed_needs_restart(old: Settings, new: Settings) -> list[str]:
    """The keys that differ and that SIGHUP does not take over: all but upstream keys, tokens, polling and delivery."""
    before = {key: value for key, value, reloaded in walk(old) if not reloaded}
    after = {key: value for key, value, reloaded in walk(new) if not reloaded}
    return [key for key, value in after.items() if key in before and before[key] != value]


def _overlay_named_variables(tree: Value, environ: Mapping[str, str]) -> None:
    source = _revor_source(tree)
    targets = (
        ("DATABASE_URL", ["database", "url"]),
        ("REVOR_API_KEY", ["sources", source, "accounts", DEFAULT_ACCOUNT, "api_key"]),
        ("REVOR_BASE_URL", ["sources", source, "base_url"]),
    )
    for name, keys in targets:
        if environ.get(name):
            overlay(tree, keys, Value(data=environ[name], where=name, key=".".join(keys), untyped=True))


def _with_token_file(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """With the admin token of RELAY_TOKEN_FILE."""
    given = environ.get(TOKEN_FILE_VARIABLE)
    if not given:
        return settings
    try:
        text = read_secret_file(str(Path(given).absolute()))
    except ValueError as error:
        raise SettingsError(f"{TOKEN_FILE_VARIABLE}: {given} {error}") from None
    kind = kinds.secret_text("a random token")
    token = kind.read(Value(data=text, where=TOKEN_FILE_VARIABLE, key=given))
    tokens = settings.auth.tokens
    same = next((one for one in tokens if one.token == token), None)
    if same is not None:
        raise SettingsError(
            f"{TOKEN_FILE_VARIABLE}: {given} holds the token {same.name} of auth.tokens: keep it in one of the places"
        )
    added = TokenSettings(name=TOKEN_FILE_VARIABLE, token=token, scopes=("admin",))
    return replace(settings, auth=replace(settings.auth, tokens=(*tokens, added)))


def _revor_source(tree: Value) -> str:
    """The source that REVOR_API_KEY and REVOR_BASE_URL are about: `revor`, else the one whose preset that is."""
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


def _read_tokens(value: Value) -> tuple[TokenSettings, ...]:
    known = [doc.key for doc in describe_section(TokenSettings)]
    made: list[TokenSettings] = []
    for item in kinds.items(value, "a list of {name, token, scopes}"):
        token = read_section(TokenSettings, item, known=known)
        if not token.scopes:
            raise item.error("has no scopes: give it admin, read or jobs:write")
        if any(token.name == other.name for other in made):
            raise item.error(
                f"has the name {token.name}, which an earlier token has: names are there to tell them apart"
            )
        if any(token.token == other.token for other in made):
            raise item.error("is the same token as an earlier one: make another")
        made.append(token)
    return tuple(made)


def _read_api_key(value: Value) -> str | None:
    if value.data is None or value.data == "":
        return None
    return kinds.secret_text("the upstream's key").read(value)


def _refuse_ourselves(settings: Settings, tree: Value) -> None:
    """A relay that polls itself would answer its own questions for ever."""
    server = settings.server
    for source in settings.sources.values():
        whose = None
        if urls.is_bound_address(source.base_url, host=server.host, port=server.port):
            whose = "the address that this relay listens on"
        elif server.public_url is not None and urls.is_within(source.base_url, server.public_url):
            whose = "this relay's own server.public_url"
        if whose is not None:
            written = _find(tree, "sources", source.name, "base_url") or _find(tree, "server", "public_url") or tree
            raise SettingsError(
                f"{written.where}: sources.{source.name}.base_url ({source.base_url}) is {whose}: "
                "it must be the upstream's, such as https://revor.ai"
            )
