"""Each problem in a settings file is one line with place, key and remedy, and never shows a secret."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.loader import parse_yaml
from relay.config.settings import load_settings
from relay.errors import SettingsError


def problem(tmp_path: Path, text: str | bytes | None = None, **environ: str) -> str:
    path = None
    if text is not None:
        path = tmp_path / "relay.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError) as caught:
        load_settings(path, environ)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path}/")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server:\n  prot: 1", "relay.yaml:2: unknown key server.prot: did you mean server.port? Known here: host,"),
        ("port: 1", "relay.yaml:1: unknown key port: did you mean server.port?"),
        ("\n\nproxy: {enabled: 1}", "relay.yaml:3: proxy.enabled"),
        ("proxy:\n  capture: [recipient.name]", "relay.yaml:2: proxy.capture[0] must be one of recipient.address, "),
        ("proxy: {capture: [recipient.phone,\n  address]}", 'recipient.phone, not "address"'),
        ("proxy: {capture: true}", "relay.yaml:1: proxy.capture must be a list of recipient.address, recipient."),
        ("subscriptions: {}", "relay.yaml:1: subscriptions must be a list of subscriptions as in the API, each with"),
        ("subscriptions:\n  - hidden", "relay.yaml:2: subscriptions[0] must be a mapping such as {id: crm, sink: "),
        ("subscriptions:\n  - sink: x", "relay.yaml:2: subscriptions[0] needs an id of your own choice, such as `id:"),
        ("subscriptions:\n  - sink: x\n    id: 5", "relay.yaml:3: subscriptions[0].id needs an id of your own choice"),
        ("subscriptions:\n  - id: a\n  - id: a", "relay.yaml:3: subscriptions[1] has the id of an earlier one"),
        ("subscriptions: [" + "{id: a}," * 1001 + "]", "relay.yaml:1: subscriptions has 1001 entries: at most 1000"),
        ("sources:\n revor:\n  accounts:\n   a:\n    apikey: x", "yaml:5: unknown key sources.revor.accounts.a.apikey"),
        ("server: {port: 1,\n port: 2}", "relay.yaml:2: server.port is set twice, first at"),
        ("server: {port: 1\nport: 2", "relay.yaml:2: not YAML: expected ',' or '}'"),
        ("a:\n\tb: 1", "relay.yaml:2: not YAML: a tab: indent with spaces"),
        ("a: 1\n  b: 2", "relay.yaml:2: not YAML: mapping values are not allowed here (line 2 is indented otherwise"),
        ("a: b: c", "relay.yaml:1: not YAML: mapping values are not allowed here"),
        ("auth: *hidden", "relay.yaml:1: not YAML: found undefined alias '…' (text that begins with * or &"),
        ("a: 1\n--- \nb: 2", "not YAML: but found another document"),
        ("a: \x00", "relay.yaml:1: YAML does not allow control characters"),
        ("- a", "relay.yaml:1: expected a mapping of keys"),
        ("a: &a {port: 1}\nserver:\n  <<: *a", "relay.yaml:3: merge keys (<<) are not supported"),
        ("server: !!python/object:os.system {}\nport: !!python/name:os.system x", "port has a YAML tag or form"),
        ("server: {port: !!binary aGk=}", "relay.yaml:1: server.port has the YAML type binary"),
        ("server: {port: '80'}", 'server.port must be a whole number from 0 to 65535, not "80"'),
        ("server: {port: true}", "server.port must be a whole number from 0 to 65535, not true"),
        ("server: {port: }", "not null (nothing)"),
        ("server: [1]", "relay.yaml:1: server must be a section, with one `key: value` a line, not a list"),
        ("server: {host: 1}", "server.host must be a host name or an address (put it in quotes), not 1"),
        ("server: {host: ''}", "server.host is empty"),
        ("server: {shutdown_seconds: -1}", "must be a number from 0 to 3600, not -1"),
        ("server: {public_url: 'https://x/?a'}", "server.public_url must not have a query"),
        ("server: {public_url: 2020-01-01}", "must be an absolute URL such as"),
        ("server: {public_url: 'https://x:99999'}", "its host or port makes no sense"),
        ("database: {url: 'mysql://x'}", "database.url must be sqlite:/// and a path"),
        ("delivery: {timeout_seconds: .nan}", "must be a number above 0"),
        ("delivery: {timeout_seconds: .inf}", "must be a number above 0"),
        ("delivery: {retry_schedule: 5s}", "must be a list of at most 50, each a duration"),
        ("delivery: {retry_schedule: [5x]}", "delivery.retry_schedule[0] must be a duration such as 5s"),
        (f"delivery: {{retry_schedule: [{'1s,' * 51}]}}", "has 51 entries: at most 50 are possible"),
        ("delivery: {callback_secret: hidden}", "must be whsec_ and the base64 of 24 to 64 bytes"),
        ("security: {allow_networks: [10.0.0.1/8]}", "or fd00::/8 without host bits, like 10.0.0.0/8"),
        ("security: {allow_http: 1}", "must be true or false, not 1"),
        ("security: {allow_hosts: ['https://x.example']}", "security.allow_hosts[0] must be a host name or an addr"),
        ("security: {allow_hosts: ['bücher.example']}", "write an international name in ASCII"),
        ("security: {deny_hosts: ['']}", "security.deny_hosts[0] is empty"),
        ("security: {deny_hosts: '*.example.com'}", "must be a list of at most 1000"),
        ("security: {egress_proxy: 'proxy:3128'}", "must be the URL of a proxy that takes CONNECT, such as"),
        ("security: {egress_proxy: 'socks5://hidden@proxy:1'}", "must be the URL of a proxy that takes CONNECT"),
        ("security: {egress_proxy: 'http://:hidden@:3128'}", "must be the URL of a proxy that takes CONNECT"),
        ("security: {egress_proxy: 'http://hidden@proxy:99999'}", "must be the URL of a proxy that takes CONNECT"),
        ("security: {egress_proxy: 'http://hidden@proxy:0'}", "must be the URL of a proxy that takes CONNECT"),
        ("security: {egress_proxy: 'http://a:hidden hidden@proxy'}", "must be the URL of a proxy that takes CONNECT"),
        ("security: {egress_proxy: 'http://a:hidden@proxy:3128/path'}", "must end behind the port"),
        ("security: {egress_proxy: 'http://a:hidden@proxy:3128?'}", "must end behind the port"),
        ("security: {egress_proxy: 'http://hid%3Aden:x@proxy'}", "has a colon in its user name"),
        ("sources: {revor: {base_url: 'http://upstream.example'}}", "relay.yaml:1: sources.revor.base_url (http://up"),
        ("sources: {revor: {base_url: 'http://10.0.0.5:9000'}}", "allow it with sources.revor.allow_http: true"),
        ("retention: {jobs_days: 0}", "must be a whole number from 1"),
        ("sources: {revor: {polling: {min_interval_seconds: 0}}}", "must be a number above 0"),
        ("sources: {revor: {polling: {reserve: 1}}}", "must be a number from 0 to below 1, not 1"),
        ("sources: {revor: {polling: {max_requests_per_second: 0}}}", "must be a number above 0, not 0"),
        (
            "sources:\n revor:\n  polling:\n   min_interval_seconds: 5\n   max_interval_seconds: 4",
            "relay.yaml:5: sources.revor.polling.max_interval_seconds makes max_interval_seconds (4) smaller than",
        ),
        ("sources: {revor: {polling: {min_interval_seconds: 901}}}", "min_interval_seconds makes max_interval_seconds"),
        ("sources: {'a b': {}}", "a key of sources must be a name"),
        ("sources: {acme: {}}", "sources.acme has no preset: name one, such as `preset: revor`"),
        ("sources: {acme: {preset: acme, file: x}}", "sources.acme has both a preset and a file: remove one"),
        ("sources: {acme: {file: 5}}", "sources.acme.file must be the path of a YAML file"),
        ("sources: {revor: {base_url: 'ftp://x'}}", "must be an absolute URL such as https://host.example"),
        ("sources: {revor: {accounts: {a: {api_key: 'hidden hidden'}}}}", "has white space or other characters"),
        ("sources: {revor: {accounts: {a: {api_key: 1234}}}}", "must be the upstream's key (put it in quotes)"),
        ("auth: {tokens: [{name: a, scopes: [read]}]}", "auth.tokens[0] has no token: it needs name, token, scopes"),
        ("auth: {tokens: [{name: a, token: hidden, scopes: []}]}", "auth.tokens[0] has no scopes"),
        (
            "auth: {tokens: [{name: a, token: hidden, scopes: [root]}]}",
            "must be one of read, jobs:write, subscriptions:write, deliveries:write, events:write, metrics, proxy, "
            "admin",
        ),
        ("auth: {tokens: [{name: a, token: '', scopes: [read]}]}", "auth.tokens[0].token is empty"),
        (
            "auth: {tokens: [{name: a, token: hidden, scopes: [read]}, {name: a, token: hidden2, scopes: [read]}]}",
            "auth.tokens[1] has the name a, which an earlier token has",
        ),
        (
            "auth: {tokens: [{name: a, token: hidden, scopes: [read]}, {name: b, token: hidden, scopes: [read]}]}",
            "auth.tokens[1] is the same token as an earlier one",
        ),
        ("auth: {tokens: {a: b}}", "auth.tokens must be a list of {name, token, scopes}, not a mapping"),
        ("encryption: {keys: [hidden]}", "encryption.keys[0] must be 32 random bytes as URL-safe base64"),
        ("web: {user_header: 'X User'}", "web.user_header must be the name of a header"),
        ("web: {user_header: aUthorization}", "web.user_header names no user"),
        ("web: {user_header: X-Forwarded-User}", "is believed from server.trusted_proxies only, which is empty"),
        ("web: {user_scopes: [root]}", "must be one of read, jobs:write"),
        ("server: {host: '${NOT_SET}'}", "server.host refers to the variable NOT_SET, which is not set"),
        ("server: {host: '${a b}'}", "neither ${NAME} nor ${file:/path}"),
        ("server: {host: '${A'}", "has a ${ without its }"),
        ("server: {host: '${file:relative}'}", "refers to the file relative, which is not an absolute path"),
        ("server: {host: '${file:/nowhere/at/all}'}", "which does not exist"),
        ("server: {host: '${file:/}'}", "which is not a file"),
        (b"a: \xff", "relay.yaml:1: not UTF-8 text"),
        (b"#" * ((1 << 20) + 1), "relay.yaml: larger than 1 MiB"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "[" * 30 + "]" * 30, "nested deeper than 16 levels"),
        ("a: &a [*a]", "nested deeper than 16 levels"),
    ],
)  # fmt: skip
def test_each_problem_is_one_line_with_place_key_and_remedy(tmp_path: Path, text: str | bytes, message: str) -> None:
    said = problem(tmp_path, text)
    assert message in said
    assert "hidden" not in said


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * 70000])
def test_secret_file_without_a_secret(tmp_path: Path, content: bytes) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(content)
    said = problem(tmp_path, REVOR_API_KEY=f"${{file:{secret}}}")
    assert said.startswith("REVOR_API_KEY: sources.revor.accounts.default.api_key refers to the file ")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("RELAY_SERVER__PROT", "1", "RELAY_SERVER__PROT: unknown key server.prot: did you mean server.port?"),
        ("RELAY_SERVER__PORT", "x", 'RELAY_SERVER__PORT: server.port must be a whole number from 0 to 65535, not "x"'),
        ("RELAY_SERVER__PORT", "{", "RELAY_SERVER__PORT: server.port is neither YAML nor JSON"),
        ("RELAY_SERVER____PORT", "1", "settings in variables are named RELAY_SECTION__KEY"),
        ("RELAY_SERVER__PORT__X", "1", "RELAY_SERVER__PORT__X: server.port must be a whole number"),
        ("DATABASE_URL", "postgresql://u:hidden@h", "DATABASE_URL: database.url must name a database, such as"),
        ("DATABASE_URL", "mysql://u:hidden@h/d", "or postgresql://user:password@host/database"),
        ("DATABASE_URL", "mysql://u:hidden@h/d", "database.url must be sqlite:/// and a path"),
        ("REVOR_BASE_URL", "https://u:hidden@revor.ai", "must not have a user name or password in it"),
        ("REVOR_BASE_URL", "http://localhost:8080/api/v1", "is the address that this relay listens on"),
        ("REVOR_BASE_URL", "http://[::1]:8080/", "is the address that this relay listens on"),
        ("REVOR_BASE_URL", "http://sandbox:9000", "is plain http, which would send the upstream key unencrypted"),
        ("REVOR_BASE_URL", "http://127.0.0.1.example", "is plain http, which would send the upstream key unencrypted"),
        ("REVOR_BASE_URL", "http://0.0.0.0:9000", "is plain http, which would send the upstream key unencrypted"),
        ("RELAY_ENCRYPTION_KEY", "hidden", "RELAY_ENCRYPTION_KEY: encryption.keys[0] must be 32 random bytes"),
    ],
)
def test_problems_in_variables(tmp_path: Path, name: str, given: str, message: str) -> None:
    said = problem(tmp_path, None, **{name: given})
    assert message in said
    assert "hidden" not in said


def test_upstream_on_another_port_of_this_machine_is_accepted() -> None:
    for environ in (
        {"REVOR_BASE_URL": "http://127.0.0.1:8081"},
        {"REVOR_BASE_URL": "http://127.8.9.1:9000"},
        {"REVOR_BASE_URL": "http://localhost.:9000"},
        {"REVOR_BASE_URL": "http://[::1]:9000"},
        {"REVOR_BASE_URL": "http://sandbox:9000", "RELAY_SOURCES__REVOR__ALLOW_HTTP": "true"},
        {"REVOR_BASE_URL": "http://localhost:8080", "RELAY_SERVER__PORT": "8081"},
        {"REVOR_BASE_URL": "https://host.example/revor", "RELAY_SERVER__PUBLIC_URL": "https://host.example/relay"},
    ):
        load_settings(None, environ)
    with pytest.raises(SettingsError, match=r"own server\.public_url"):
        load_settings(
            None,
            {"REVOR_BASE_URL": "https://h.example/relay", "RELAY_SERVER__PUBLIC_URL": "https://H.example:443/relay/"},
        )
    with pytest.raises(SettingsError, match="listens on"):
        load_settings(None, {"REVOR_BASE_URL": "http://10.1.1.1:80", "RELAY_SERVER__HOST": "10.1.1.1"}, port=80)


def test_value_of_a_reference_is_never_shown(tmp_path: Path) -> None:
    for key in ("server: {port: '${S}'}", "server: {host: '/${S}'}", "security: {allow_networks: ['${S}']}"):
        assert "hidden" not in problem(tmp_path, key, S="hidden")
    assert "hidden" not in problem(tmp_path, "server: {port: sk-revor-hidden}")


@given(st.text(max_size=200))
def test_any_text_is_a_tree_or_a_settings_error(text: str) -> None:
    said = ""
    try:
        parse_yaml(text, name="relay.yaml")
    except SettingsError as error:
        said = str(error)
    assert "\n" not in said


@given(st.dictionaries(st.sampled_from(["port", "host", "public_url", "shutdown_seconds", "x"]), st.text(max_size=30)))
def test_any_variable_is_settings_or_a_settings_error(values: dict[str, str]) -> None:
    said = "RELAY_SERVER__"
    try:
        load_settings(None, {f"RELAY_SERVER__{key.upper()}": value for key, value in values.items()})
    except SettingsError as error:
        said = str(error)
    assert said.startswith("RELAY_SERVER__")
