"""`relay check`: every kind of problem, and its explanation."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from relay.bus.publishers import Publishers
from relay.cli import run
from relay.cli.node import checks
from relay.cli.node.checks import sink_problem
from relay.config.keyring import load_or_create_keyring, new_key
from relay.core.access.netguard import GuardPolicy
from relay.core.deliveries.broker import Broker, Message, Published
from relay.core.deliveries.credentials import SinkCredential
from relay.core.jobs.connect_accounts import ListedAccount, Listing
from relay.core.subscriptions.signing import new_secret
from relay.core.subscriptions.subscription import Subscription
from relay.installation import install_command
from relay.private_files import default_state_dir
from relay.sources import definition as definition_module
from relay.sources.client import PollResult, UpstreamClient
from relay.store.databases.sqlite import HolderLock
from relay.store.store import open_store
from tests.support.extras import without_templates

SOURCES = Path(definition_module.__file__).parent


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("REVOR_API_KEY", "sk-revor-default")


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    said = {"kind": "observed"}

    async def list_accounts(self: UpstreamClient, api_key: str) -> PollResult:
        return PollResult(
            kind=said["kind"],  # type: ignore[arg-type]
            listing=LISTINGS[said.get("accounts", "none")],
            sent_at=0,
            received_at=0,
            duration_ms=1,
            detail="answered 401",
        )

    monkeypatch.setattr(UpstreamClient, "list_accounts", list_accounts)
    return said


def listing(*states: str) -> Listing:
    accounts = (ListedAccount(id=f"acc_{n}", name=None if n else "Ada", state=one) for n, one in enumerate(states))
    return Listing(accounts={one.id: one for one in accounts})


LISTINGS = {
    "none": listing(),
    "well": listing("ok", "ok"),
    "one": listing("needs_reconnect", "ok"),
    "many": listing(*["cannot_send"] * 7),
}


def checked(capsys: pytest.CaptureFixture[str], code: int) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["check", "--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is (code == 0)
    return {check["name"]: check for check in answer["checks"]}


def test_check_passes_and_creates_nothing(
    upstream: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = checked(capsys, 0)
    assert found["database"]["state"] == "skipped"
    assert list(tmp_path.iterdir()) == []
    assert run(["migrate"]) == 0
    found = checked(capsys, 0)
    assert found["database"]["state"] == "ok"
    assert found["sinks"]["detail"] == "0 subscriptions, all allowed"


def test_wrong_settings_end_the_checks(capsys: pytest.CaptureFixture[str]) -> None:
    Path("relay.yaml").write_text("server: {port: many}\n")
    found = checked(capsys, 2)
    assert list(found) == ["settings"]
    assert "relay.yaml:1" in found["settings"]["detail"]


def test_credits_that_the_definition_does_not_have_are_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    Path("relay.yaml").write_text("sources:\n  gpt: {preset: openai-batch, credits_low: 500}\n")
    found = checked(capsys, 2)["source gpt"]
    assert found["state"] == "problem"
    assert found["detail"].startswith(
        "relay.yaml:2: sources.gpt.credits_low: the definition of OpenAI has no `credits`"
    )


def test_definition_in_a_file_is_checked(upstream: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("relay.yaml").write_text("sources: {mine: {file: mine.yaml, accounts: {default: {api_key: sk-1}}}}\n")
    text = (SOURCES / "revor" / "definition.yaml").read_text()
    Path("mine.yaml").write_text(text)
    found = checked(capsys, 0)
    assert found["source mine"]["detail"].startswith("mine.yaml: Revor, jobs")
    assert "accepted by https://revor.ai" in found["key mine/default"]["detail"]
    Path("mine.yaml").write_text(text.replace("probe:", "prob:"))
    found = checked(capsys, 2)
    assert found["source mine"]["detail"].startswith("relay.yaml:1: sources.mine.file: mine.yaml:")
    assert found["source mine"]["detail"].endswith(": prob: is not a known key: is it probe?")
    assert "key mine/default" not in found
    assert found["sinks"]["state"] == "skipped"


def test_missing_key_is_a_problem(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("REVOR_API_KEY")
    assert "REVOR_API_KEY" in checked(capsys, 2)["key revor/default"]["detail"]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        *((kind, 2) for kind in ("unauthorized", "forbidden", "unavailable", "not_found", "malformed")),
        ("rate_limited", 0),
    ],
)
def test_each_key_error_of_the_upstream_is_explained(
    kind: str, code: int, upstream: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    upstream["kind"] = kind
    assert "revor.ai" in checked(capsys, code)["key revor/default"]["detail"]


def checked_acme(probe: str, capsys: pytest.CaptureFixture[str]) -> str:
    text = (SOURCES / "openai-batch" / "definition.yaml").read_text()
    Path("acme.yaml").write_text(text.replace("probe: /v1/models\n", probe))
    Path("relay.yaml").write_text("sources: {acme: {file: ./acme.yaml, accounts: {default: {api_key: sk-acme-key}}}}\n")
    return str(checked(capsys, 2 if probe else 0)["key acme/default"]["detail"])


def test_probe_that_is_not_found_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    poll = PollResult(kind="not_found", sent_at=0, received_at=0, duration_ms=1, detail="answered 404")
    monkeypatch.setattr(UpstreamClient, "probe", AsyncMock(return_value=poll))
    assert checked_acme("probe: /v1/me\n", capsys) == (
        "GET https://api.openai.com/v1/me answered 404: check sources.acme.base_url and the `probe`"
    )


def test_key_of_a_definition_without_a_probe_is_not_tried(
    upstream: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked_acme("", capsys) == "set, and not tried: the definition has no `probe`"


def test_database_in_use_is_not_a_problem(upstream: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["migrate"]) == 0
    lock = HolderLock(Path("relay.db.lock").resolve())
    lock.acquire()
    try:
        found = checked(capsys, 0)
    finally:
        lock.release()
    assert "pid" in found["database"]["detail"]
    assert found["sinks"]["state"] == "skipped"


async def _store(*subscriptions: Subscription, secret: bool = False) -> None:
    keyring = load_or_create_keyring((), state_dir=default_state_dir(os.environ))
    store = await open_store("sqlite:///relay.db", keyring, now=1.0)
    try:
        for one in subscriptions:
            await store.subscriptions.create(one)
            if secret:
                await store.secrets.add_secret(one.id, new_secret(bytes(32)), 1.0)
    finally:
        await store.close()


def subscription(sink: str = "https://receiver.example/hook", nth: int = 1, **fields: Any) -> Subscription:
    return Subscription(**{"id": f"sub_{nth:026}", "sink": sink, "created_at": 1.0, **fields})


OLD_TEMPLATE = {"template": {"tags": "{% for tag in metadata.tags %}{{ tag }}{% endfor %}"}}
NO_LOOPS = "/config/template/tags: there is no tag 'for'"
OF_OLDER_VERSIONS: list[tuple[dict[str, Any], str]] = [
    ({"filters": ({"cel": "data.metadata.deal > 40"},)}, "filters cannot be read, so its events wait: filters[0].cel"),
    ({"filters": ({"cel": "true"},), "state": "paused"}, "Correct them, then run `relay subscriptions resume {id}`"),
    ({"options": OLD_TEMPLATE}, f"its template cannot be read, so its events wait: {NO_LOOPS}"),
    ({"options": OLD_TEMPLATE, "state": "disabled"}, "Correct it, then run `relay subscriptions resume {id}`"),
    ({"state": "disabled", "state_reason": "http_410"}, "Fix it, then run `relay subscriptions resume {id}`"),
    ({"state": "pending"}, "Run `relay subscriptions resume {id}` to ask again"),
]


def test_each_subscription_that_does_not_work_is_named_with_what_to_do(
    upstream: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [subscription(nth=n, **fields) for n, (fields, _) in enumerate(OF_OLDER_VERSIONS)]
    asyncio.run(_store(*given))
    found = checked(capsys, 2)
    for one, (_, words) in zip(given, OF_OLDER_VERSIONS, strict=True):
        assert found[f"sink {one.id}"]["state"] == "problem"
        assert words.format(id=one.id) in found[f"sink {one.id}"]["detail"]


@pytest.mark.parametrize(
    "fields",
    [
        {"options": {"template": "{{ event.id }}"}},
        {"kind": "nats", "sink": "tls://n.example", "options": {"protocolsettings": {"subject": "{{ event.id }}"}}},
    ],
)
def test_missing_extra_of_a_template_is_a_problem(monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]) -> None:
    one = subscription(**fields)
    assert sink_problem(one, GuardPolicy()) is None
    without_templates(monkeypatch)
    problem = sink_problem(one, GuardPolicy()) or ""
    assert problem.endswith(f"events wait: templates need the extra templates: {install_command('templates')}")


def test_sink_refused_by_the_guard_is_a_problem(upstream: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(_store(subscription("http://10.0.0.1/hook?token=hidden")))
    found = checked(capsys, 2)["sink sub_00000000000000000000000001"]
    assert found["state"] == "problem"
    assert "hidden" not in found["detail"]


def test_wrong_encryption_key_is_a_problem(
    upstream: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(_store(subscription(), secret=True))
    assert checked(capsys, 0)["sinks"]["state"] == "ok"
    monkeypatch.setenv("RELAY_ENCRYPTION_KEY", new_key())
    found = checked(capsys, 2)["sinks"]
    assert found["state"] == "problem"
    assert "encryption.keys" in found["detail"]


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        (GuardPolicy(), None),
        (GuardPolicy(allow_hosts=("receiver.example",)), "its token endpoint: the host is not in security.allow_hosts"),
        (GuardPolicy(deny_hosts=("id.*",)), "its token endpoint: the host is in security.deny_hosts"),
        (
            GuardPolicy(deny_hosts=("receiver.example",)),
            "https://receiver.example/hook: the host is in security.deny_h",
        ),
    ],
)
def test_sinks_and_token_endpoints_that_the_lists_no_longer_allow_are_named(
    policy: GuardPolicy, problem: str | None
) -> None:
    fields = {"credentialtype": "CLIENTCREDENTIALS", "token_url": "https://id.example/token"}
    credential = SinkCredential(id="cred_1", origin="https://receiver.example:443", fields=fields)
    found = sink_problem(Subscription(id="sub_1", sink="https://receiver.example/hook", credential=credential), policy)
    assert (found or "") == "" if problem is None else problem in (found or "")


async def test_each_broker_is_dialled_once_and_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[str] = []

    async def dial(self: Publishers, broker: Broker, place: Message | None) -> Published:
        dialled.append(broker.shown)
        if broker.protocol == "KAFKA":
            return Published(error="extra_missing", detail="pip install 'revor-relay[kafka]'")
        return Published()

    monkeypatch.setattr(Publishers, "dial", dial)
    kafka = {"kind": "kafka", "sink": "kafkas://a.example", "options": {"protocolsettings": {"topicname": "jobs"}}}
    nats = {"kind": "nats", "sink": "tls://n.example", "options": {"protocolsettings": {"subject": "jobs.all"}}}
    given = [Subscription(id=f"sub_{n}", **one) for n, one in enumerate((kafka, kafka, nats))]
    found = await checks.dialled(given, GuardPolicy())
    assert [(one.name, one.state, one.detail) for one in found] == [
        (f"sink sub_{n}", "problem", "kafkas://a.example: pip install 'revor-relay[kafka]'") for n in range(2)
    ]
    assert dialled == ["a.example:9093", "n.example:4222"]
