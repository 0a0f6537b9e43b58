"""Settings: precedence, references, ranges, and errors that say where, which key and what to do."""

import ipaddress
import json
from pathlib import Path

import pytest

from relay.config.fields import parse_duration
from relay.config.settings import (
    Settings,
    describe_settings,
    load_settings,
    misnamed_variables,
    needs_restart,
    require_strong_access,
    takes_over,
)
from relay.errors import SettingsError
from relay.node.component_settings import ComponentSettings
from relay.resources import default_settings_file
from relay.sources.definition import load_definition

KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
OTHER_KEY = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXowMTIzNDU="
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TOKEN = "0123456789abcdef"


def load(tmp_path: Path, text: str | None = None, **environ: str) -> Settings:
    path = None
    if text is not None:
        path = tmp_path / "relay.yaml"
        path.write_text(text)
    return load_settings(path, environ)


def problem(tmp_path: Path, text: str | None = None, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text, **environ)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path}/")


def test_defaults_match_the_contract(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings == Settings() == load(tmp_path, "") == load(tmp_path, "server:\nsources: {revor: }\n")
    assert (settings.server.host, settings.server.port, settings.server.public_url) == ("127.0.0.1", 8080, None)
    assert settings.server.shutdown_seconds == 20
    assert (settings.database.url, settings.database.pool_size) == ("sqlite:///relay.db", 10)
    assert settings.auth.tokens == ()
    assert settings.encryption.keys == ()
    assert list(settings.sources) == ["revor"]
    revor = settings.sources["revor"]
    assert (revor.name, revor.preset, revor.base_url) == ("revor", "revor", "")
    assert list(revor.accounts) == ["default"]
    assert revor.accounts["default"].name == "default"
    assert revor.accounts["default"].api_key is None
    polling = revor.polling
    assert (polling.reserve, polling.max_requests_per_second) == (0.3, None)
    assert (polling.min_interval_seconds, polling.max_interval_seconds, polling.deadline_seconds) == (1, 900, 604800)
    delivery = settings.delivery
    assert (delivery.concurrency, delivery.per_host, delivery.timeout_seconds) == (256, 64, 15)
    assert delivery.retry_schedule == (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    assert (delivery.jitter, delivery.disable_after_seconds, delivery.callback_secret) == (0.2, 432000, None)
    security = settings.security
    assert (security.allow_http, security.allow_networks, security.allow_ports) == (False, (), (443,))
    assert (security.allow_hosts, security.deny_hosts, security.egress_proxy) == ((), (), None)
    assert tuple(settings.retention.model_dump().values()) == (30, 14, 30, 365)


def test_shipped_file_has_every_setting_at_its_default() -> None:
    path = default_settings_file()
    assert load_settings(path, {}) == Settings()
    text = path.read_text()
    for doc in describe_settings():
        assert f"{doc.key.rpartition('.')[2]}:" in text, doc.key


def test_variables_override_the_file_and_options_override_both(tmp_path: Path) -> None:
    text = (
        "server: {host: 10.0.0.1, port: 1}\ndelivery: {timeout_seconds: 3}\nsources: {revor: {polling: {reserve: 0.1}}}"
    )
    settings = load(
        tmp_path,
        text,
        RELAY_SERVER__PORT="9000",
        RELAY_DELIVERY__TIMEOUT_SECONDS="5",
        RELAY_SOURCES__REVOR__BASE_URL="https://Upstream.Example/api/v1/",
        RELAY_SECURITY__ALLOW_NETWORKS='["10.0.0.0/8", "fd00::/8"]',
        RELAY_DELIVERY__RETRY_SCHEDULE="[1s, 2.5]",
        RELAY_SERVER__PUBLIC_URL="null",
    )
    assert (settings.server.host, settings.server.port, settings.server.public_url) == ("10.0.0.1", 9000, None)
    assert settings.delivery.timeout_seconds == 5
    assert settings.delivery.retry_schedule == (1.0, 2.5)
    assert settings.sources["revor"].base_url == "https://upstream.example"
    assert settings.sources["revor"].polling.reserve == 0.1
    assert settings.security.allow_networks == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
    flagged = load_settings(tmp_path / "relay.yaml", {"RELAY_SERVER__PORT": "9000"}, host="::1", port=0)
    assert (flagged.server.host, flagged.server.port) == ("::1", 0)


def test_revor_variables_work_without_a_file_and_override_it(tmp_path: Path) -> None:
    text = (
        "sources: {revor: {base_url: https://a.example, accounts: {default: {api_key: old}, team: {api_key: other}}}}"
    )
    for given in (None, text):
        settings = load(tmp_path, given, REVOR_API_KEY="sk-revor-1", REVOR_BASE_URL="http://127.0.0.1:9999/api/v1")
        revor = settings.sources["revor"]
        assert revor.accounts["default"].api_key == "sk-revor-1"
        assert revor.base_url == "http://127.0.0.1:9999"
    assert revor.accounts["team"].api_key == "other"
    elsewhere = load(tmp_path, "sources: {eu: {preset: revor}}", REVOR_API_KEY="sk-revor-1")
    assert list(elsewhere.sources) == ["eu"]
    assert elsewhere.sources["eu"].accounts["default"].api_key == "sk-revor-1"
    assert (
        load(tmp_path, "database: {url: 'sqlite:///a.db'}", DATABASE_URL="sqlite:////b.db").database.url[-5:] == "/b.db"
    )


def test_references_are_replaced(tmp_path: Path) -> None:
    secret = tmp_path / "key file"
    secret.write_text("sk-revor-from-file\n")
    text = f"""
        server: {{port: "${{PORT}}", host: "a$${{b}}-${{PART}}"}}
        sources:
          revor:
            accounts: {{default: {{api_key: "${{file:{secret}}}"}}, two: {{api_key: 'sk-${{PART}}'}}}}
    """
    settings = load(tmp_path, text, PORT="81", PART="x")
    assert (settings.server.port, settings.server.host) == (81, "a${b}-x")
    accounts = settings.sources["revor"].accounts
    assert (accounts["default"].api_key, accounts["default"].api_key_file) == ("sk-revor-from-file", str(secret))
    assert (accounts["two"].api_key, accounts["two"].api_key_file) == ("sk-x", None)
    from_variable = load(tmp_path, REVOR_API_KEY=f"${{file:{secret}}}").sources["revor"].accounts["default"]
    assert (from_variable.api_key, from_variable.api_key_file) == ("sk-revor-from-file", str(secret))


def test_unset_reference_is_an_error_in_a_value_and_absent_in_a_default(tmp_path: Path) -> None:
    text = 'server: {}\nencryption:\n  keys:\n    - "${RELAY_ENCRYPTION_KEY}"\n'
    assert load(tmp_path).encryption.keys == ()
    assert load(tmp_path, RELAY_ENCRYPTION_KEY=KEY).encryption.keys == (KEY,)
    assert load(tmp_path, text, RELAY_ENCRYPTION_KEY=KEY).encryption.keys == (KEY,)
    assert problem(tmp_path, text) == (
        "relay.yaml:4: encryption.keys[0] refers to the variable RELAY_ENCRYPTION_KEY, which is not set: "
        "set it, or remove this line"
    )
    assert load(tmp_path, f"encryption: {{keys: [{KEY}, {OTHER_KEY}]}}", RELAY_ENCRYPTION_KEY="x").encryption.keys == (
        KEY,
        OTHER_KEY,
    )


@pytest.mark.parametrize(
    ("token", "weakness"),
    [
        ("a", "has fewer than 32 characters"),
        ("0123456789abcdef0123456789abcde", "has fewer than 32 characters"),
        ("abcdefghi" * 10, "has fewer than 10 different characters"),
        ("abcdefghij" * 3 + "ab", None),
        ("5f2b1c0d9e8a7463" * 4, None),
    ],
)
@pytest.mark.parametrize("where", ["file", "variable", "reference", "token file"])
def test_token_that_can_be_guessed_is_refused_wherever_it_is_set(
    tmp_path: Path, where: str, token: str, weakness: str | None
) -> None:
    path, kept = tmp_path / "relay.yaml", tmp_path / "kept"
    kept.write_text(f"{token}\n")
    kept.chmod(0o600)
    entry = f"- {{name: crm, token: '{token if where == 'file' else '${OF_CRM}'}', scopes: [read]}}"
    path.write_text(f"auth:\n  tokens:\n    {entry}\n" if where in ("file", "reference") else "")
    environ = {
        "file": {},
        "reference": {"OF_CRM": token},
        "variable": {"RELAY_AUTH__TOKENS": json.dumps([{"name": "crm", "token": token, "scopes": ["read"]}])},
        "token file": {"RELAY_TOKEN_FILE": str(kept)},
    }[where]
    require_strong_access(load_settings(path, environ, dev=True))
    settings = load_settings(path, environ)
    if weakness is None:
        require_strong_access(settings)
        return
    with pytest.raises(SettingsError) as caught:
        require_strong_access(settings)
    said = str(caught.value)
    place, name = {
        "file": (f"{path.name}:3", "crm"),
        "reference": (f"{path.name}:3", "crm"),
        "variable": ("RELAY_AUTH__TOKENS", "crm"),
        "token file": (f"RELAY_TOKEN_FILE ({kept})", "RELAY_TOKEN_FILE"),
    }[where]
    assert place in said
    assert f"auth.tokens[0]: the token {name} {weakness}: create one with `openssl rand -hex 32`" in said
    assert f" {token} " not in said


def test_dev_retries_within_seconds_unless_a_schedule_is_set() -> None:
    assert max(load_settings(None, {}, dev=True).delivery.retry_schedule) <= 60
    assert load_settings(None, {}).delivery.retry_schedule[1] == 300
    written = load_settings(None, {"RELAY_DELIVERY__RETRY_SCHEDULE": "[2h]"}, dev=True)
    assert written.delivery.retry_schedule == (7200,)


def test_callback_secrets_are_one_or_several(tmp_path: Path) -> None:
    other = "whsec_" + "B" * 32
    assert load(tmp_path).delivery.callback_secret is None
    for written in (f'"{WHSEC}"', f'["{WHSEC}"]'):
        settings = load(tmp_path, f"delivery: {{callback_secret: {written}}}")
        assert settings.delivery.callback_secret == (WHSEC,)
    assert load(tmp_path, f'delivery: {{callback_secret: ["{WHSEC}", "{other}"]}}').delivery.callback_secret == (
        WHSEC,
        other,
    )
    for variable in (f'["{WHSEC}", "{other}"]', f"[{WHSEC}, {other}]"):
        found = load(tmp_path, RELAY_DELIVERY__CALLBACK_SECRET=variable).delivery.callback_secret
        assert found == (WHSEC, other)
    assert load(tmp_path, RELAY_DELIVERY__CALLBACK_SECRET=WHSEC).delivery.callback_secret == (WHSEC,)
    for wrong in ("[]", "5", "[5]", "{a: b}", f'["{WHSEC}", hidden]', f"[{', '.join([WHSEC] * 11)}]"):
        with pytest.raises(SettingsError, match="24 to 64 bytes, or a list of up to 10 of these") as caught:
            load(tmp_path, f"delivery: {{callback_secret: {wrong}}}")
        assert "hidden" not in str(caught.value)
        assert WHSEC not in str(caught.value)


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    secrets = {"K": "sk-revor-hidden", "T": "token-hidden-0123456789", "D": "sqlite:////hidden-db"}
    text = f"""
        database: {{url: "${{D}}"}}
        auth: {{tokens: [{{name: a, token: "${{T}}", scopes: [admin]}}]}}
        encryption: {{keys: ["{KEY}"]}}
        delivery: {{callback_secret: "{WHSEC}"}}
    """
    settings = load(tmp_path, text, REVOR_API_KEY="sk-revor-hidden", **secrets)
    assert settings.delivery.callback_secret == (WHSEC,)
    for secret in (*secrets.values(), KEY, WHSEC):
        assert secret not in repr(settings)


def test_settings_applied_by_sighup_need_no_restart(tmp_path: Path) -> None:
    old = load(tmp_path, REVOR_API_KEY="sk-1")
    reread = load(
        tmp_path,
        f"auth: {{tokens: [{{name: a, token: {TOKEN}, scopes: [read]}}]}}\n"
        "sources: {revor: {polling: {reserve: 0}, credits_low: 500}}",
        REVOR_API_KEY="sk-2",
        RELAY_DELIVERY__JITTER="0",
        RELAY_PROXY__CAPTURE='["recipient.phone", "recipient.address"]',
        RELAY_PROXY__CAPTURE_SHOWN="true",
    )
    assert needs_restart(old, reread) == []
    taken = takes_over(old, reread)
    assert taken.sources["revor"].credits_low == 500
    assert (taken.proxy.capture, taken.proxy.enabled) == (("recipient.phone", "recipient.address"), True)
    components = ComponentSettings(settings=taken, base_url="", definitions={})
    assert components.of_capture() == ("address", "phone")
    assert (taken.proxy.capture_shown, old.proxy.capture_shown) == (True, False)
    rest = load(
        tmp_path,
        f"server: {{port: 1}}\nencryption: {{keys: [{KEY}]}}\nretention: {{jobs_days: 1}}\n"
        "sources: {revor: {base_url: 'https://b.example', accounts: {default: , more: }}, second: {preset: revor}}",
    )
    assert needs_restart(old, rest) == [
        "server.port",
        "sources.revor.base_url",
        "retention.jobs_days",
        "sources.revor.accounts.more",
        "sources.second.accounts.default",
    ]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("5s", 5),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("500ms", 0.5),
        ("1.5 h", 5400),
        (7, 7),
        (0, 0),
        (0.25, 0.25),
    ],
)
def test_durations(written: object, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written",
    ["", "5", "5w", "-5s", "s", "5s5s", "1e3s", "9999d", -1, True, None, [], 10**400, float("nan"), float("inf")],
)
def test_invalid_durations(written: object) -> None:
    with pytest.raises(ValueError, match="must be a duration such as 5s"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("text", "linked"),
    [
        ("server: {public_url: 'https://relay.example'}", "https://relay.example"),
        ("server: {public_url: 'https://relay.example'}\nweb: {enabled: false}", None),
        ("web: {enabled: true}", None),
    ],
)
def test_messages_link_to_pages_that_can_be_opened(tmp_path: Path, text: str, linked: str | None) -> None:
    settings = load(tmp_path, f"{text}\nsources: {{revor: {{accounts: {{default: }}}}}}")
    made = ComponentSettings(settings=settings, base_url="https://relay.example", definitions={}).of_dispatcher()
    assert made.public_url == linked


def test_messages_explain_error_codes_by_the_hints_of_their_source(tmp_path: Path) -> None:
    definitions = {"revor": load_definition("revor")}
    made = ComponentSettings(settings=load(tmp_path), base_url="", definitions=definitions).of_dispatcher()
    explain = made.explain
    assert made.titles == {"revor": "Revor"}
    hint = explain("revor", "insufficient_credits")
    assert hint is not None
    assert (hint.meaning, hint.fix) == ("The Revor account has too few credits", "Add credits in Revor")
    without_code = explain("revor", "")
    assert without_code is not None
    assert without_code.meaning == "Revor gives no reason"
    assert explain("gone", "insufficient_credits") is None


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("RELAY_SERVER_PORT", "9999", "RELAY_SERVER__PORT"),
        ("RELAY_DATABASE_URL", "sqlite:///a.db", "RELAY_DATABASE__URL"),
        ("RELAY_SOURCES_REVOR_POLLING_RESERVE", "0.5", "RELAY_SOURCES__REVOR__POLLING__RESERVE"),
        ("RELAY_SOURCES_REVOR_ACCOUNTS_MAIN_API_KEY", "k", "RELAY_SOURCES__REVOR__ACCOUNTS__MAIN__API_KEY"),
        ("RELAY_SERVER__PORT", "9999", None),
        ("RELAY_SERVER_PORT", "tcp://10.0.0.1:80", None),
        ("RELAY_TOKEN_FILE", "/run/token", None),
        ("RELAY_TOKEN", "t", None),
        ("RELAY_SERVICE_HOST", "10.0.0.1", None),
        ("SERVER_PORT", "1", None),
    ],
)
def test_variable_that_looks_like_a_setting_is_named(name: str, value: str, right: str | None) -> None:
    found = misnamed_variables({name: value, "PATH": "/bin"})
    assert [line.split()[0] for line in found] == ([] if right is None else [name])
    assert all(line.endswith(f" set {right}") for line in found)
