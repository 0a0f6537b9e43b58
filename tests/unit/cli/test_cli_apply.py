"""`relay apply` and `relay export`, on a database of their own and through a relay."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
import yaml

from relay.cli import run
from relay.cli.client import Api
from relay.cli.node.checks import run_checks
from relay.cli.node.direct import opened
from relay.cli.subscriptions.exporting import as_yaml
from relay.config.settings import load_settings
from relay.node.declared import log_differing
from relay.store.schema import migrations
from tests.support.store_kit import poll, track

SECRET, OTHER = "whsec_" + "A" * 32, "whsec_" + "B" * 32
SLACK = "https://hooks.slack.com/services/T000/B000/verysecret"
DECLARED = f"""\
subscriptions:
  - id: crm
    sink: https://crm.example/hooks?token=verysecret
    types: [failed, succeeded]
    protocolsettings: {{headers: {{X-Team: sales, X-Api-Key: verysecret}}, method: PUT}}
    sinkcredential: {{credentialtype: PLAIN, identifier: me, secret: verysecret}}
    config: {{secret: "${{file:SECRETS/crm}}", rate_per_second: 5, retry_schedule: [5s, 1m], start: earliest}}
    filters: [{{exact: {{channel: linkedin}}}}, {{range: {{/data/metadata/deal: {{gt: 40}}}}}}]
    description: costs $${{5}}
  - id: slack-alerts
    sink: {SLACK}
    config: {{metadata_keys: [deal], incidents: "off"}}
  - id: plain
    sink: https://plain.example/hook
    owner: revor/default
    config: {{secret: {OTHER}}}
"""

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in a folder with an empty database and DECLARED. Returns its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("relay.log.configure", lambda **_: None)  # other tests of this process read the log
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("RELAY_URL", "RELAY_TOKEN", "DATABASE_URL", "REVOR_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "crm").write_text(f"{SECRET}\n")
    (tmp_path / "relay.db").touch(0o600)
    write(DECLARED)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def write(text: str) -> None:
    Path("relay.yaml").write_text(text.replace("SECRETS", os.getcwd()))


def shown(cli: Cli) -> Any:
    return orjson.loads(cli("export", "--json")[1])["subscriptions"]


def test_plan_apply_and_nothing_more_to_do(cli: Cli) -> None:
    planned = cli("apply", "--dry-run")
    code, out, err = cli("apply")
    assert (code, err) == (0, "")
    assert planned == (1, out.replace("done: ", "would be: "), "")
    assert out.splitlines() == [
        "+ add crm → https://crm.example/hooks?…",
        "+ add slack-alerts → https://hooks.slack.com/…",
        "+ add plain → https://plain.example/hook",
        "done: 3 added, 0 changed, 0 removed, 0 unchanged",
    ]
    assert cli("apply") == (0, "nothing to change: 3 as declared\n", "")
    assert cli("apply", "--dry-run", "--prune")[0] == 0


def test_a_plan_shows_each_change_and_no_secret(cli: Cli) -> None:
    cli("apply")
    changed = DECLARED.replace("types: [failed, succeeded]", "types: [failed]").replace("rate_per_second: 5, ", "")
    changed = changed.replace("verysecret}, method: PUT", "othersecret}").replace(
        ", secret: verysecret", ", secret: new"
    )
    changed = changed.replace(OTHER, SECRET)
    write(changed[: changed.index("  - id: slack")] + changed[changed.index("  - id: plain") :])

    code, out, _ = cli("apply", "--dry-run", "--prune")

    assert code == 1, "something would change"
    assert out.splitlines() == [
        "~ change crm: types: failed, ai.revor.webset.failed, succeeded, ai.revor.webset.completed → failed, "
        "ai.revor.webset.failed; protocolsettings.method: PUT → POST; "
        "protocolsettings.headers; config.rate_per_second: 5 → nothing; sinkcredential",
        "~ change plain: config.secret",
        "- remove slack-alerts → https://hooks.slack.com/…",
        "would be: 0 added, 2 changed, 1 removed, 0 unchanged",
    ]
    code, out, _ = cli("apply", "--prune", "--json")
    assert code == 0
    assert orjson.loads(out)["removed"] == 1
    assert [one["id"] for one in shown(cli)] == ["crm", "plain"]


def test_removal_is_asked_for_on_a_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("apply")
    write("subscriptions: []")
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    asked: list[str] = []

    def answer(question: str, **_: Any) -> bool:
        asked.append(question)
        return len(asked) > 1

    monkeypatch.setattr("typer.confirm", answer)
    code, out, err = cli("apply", "--prune")
    assert (code, err) == (2, "relay: nothing was changed\n")
    assert "- remove crm" in out
    assert cli("apply", "--prune")[0] == 0
    assert asked == ["Remove 3?"] * 2
    assert shown(cli) == []


def backlog(subscription_id: str, count: int) -> None:
    """Deliveries that wait for a subscription."""

    async def make() -> None:
        async with opened(load_settings(None, {}), creates=True, writes=False) as database:
            for number in range(count):
                await database.store.jobs.record(poll(await track(database.store, f"job {number}"), 0, "failed"))

    asyncio.run(make())


def pending(subscription_id: str) -> int:
    async def read() -> int:
        async with opened(load_settings(None, {}), creates=True, writes=False) as database:
            return await database.store.subscriptions.pending(subscription_id)

    return asyncio.run(read())


@pytest.mark.parametrize("options", [(), ("--yes",), ("--json",), ("--yes", "--json")], ids=str)
def test_renamed_id_cancels_no_backlog_unless_it_is_said(cli: Cli, options: tuple[str, ...]) -> None:
    write(MINIMAL)
    cli("apply")
    backlog("crm", 5)
    before = shown(cli)
    write(MINIMAL.replace("id: crm", "id: customers"))

    code, out, err = cli("apply", "--prune", "--dry-run")
    assert (code, err) == (1, "")
    assert "- remove crm → https://crm.example/…: 5 pending deliveries will be cancelled" in out.splitlines()
    planned = orjson.loads(cli("apply", "--prune", "--dry-run", "--json")[1])["changes"]
    assert [(one["id"], one["pending"]) for one in planned] == [("customers", 0), ("crm", 5)]

    code, out, err = cli("apply", "--prune", *options)
    assert (code, out) == (2, "")
    assert err.startswith(
        "relay: 5 pending deliveries of the subscription crm would be cancelled, so nothing was changed"
    )
    assert "--cancel-pending" in err
    assert (shown(cli), pending("crm")) == (before, 5)

    assert cli("apply", *options)[0] == 0, "without --prune nothing is removed"
    assert pending("crm") == 5
    assert cli("apply", "--prune", "--cancel-pending", *options)[0] == 0
    assert [one["id"] for one in shown(cli)] == ["customers"]
    assert pending("crm") == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("types: [failed, succeeded]", "types: [failed, suceeded]",
         "relay.yaml:4: in subscriptions[0].types[1], 'suceeded' is no event type: did you mean ai.revor.job.succe"),
        ("    description:", "    descriptoin:",
         "relay.yaml:9: in subscriptions[0].descriptoin, there is no field 'descriptoin': did you mean description?"),
        (OTHER, "whsec_verysecret", "relay.yaml:16: in subscriptions[2].config.secret, "),
        ('secret: "${file:SECRETS/crm}", ', "",
         "relay.yaml:7: in subscriptions[0].config.secret, a declared subscription needs its signing secret"),
        ("crm.example", "10.0.0.1", "relay.yaml:3: in subscriptions[0].sink, "),
        ("SECRETS/crm", "SECRETS/nowhere", "relay.yaml:7: subscriptions[0].config.secret refers to the file "),
        ("revor/default", "revor/default2",
         "relay.yaml:15: in subscriptions[2].owner, no account 'revor/default2' is configured: did you mean "),
    ],
)  # fmt: skip
def test_a_mistake_has_its_file_and_line(cli: Cli, old: str, new: str, message: str) -> None:
    assert old in DECLARED
    write(DECLARED.replace(old, new))

    code, out, err = cli("apply")

    assert (code, out) == (2, "")
    assert err.startswith(f"relay: {message}")
    assert "verysecret" not in err


def test_an_export_into_an_empty_database_gives_the_same_list(cli: Cli, tmp_path: Path) -> None:
    cli("apply")
    _, before, _ = cli("export", "--with-secrets")
    assert "verysecret" in before
    assert before.startswith("# Written by `relay export`")
    assert "It has secrets in plain text" in before

    (tmp_path / "relay.db").unlink()
    (tmp_path / "relay.db").touch(0o600)
    Path("relay.yaml").write_text(before)
    assert cli("apply")[0] == 0

    assert cli("export", "--with-secrets")[1] == before
    assert cli("apply") == (0, "nothing to change: 3 as declared\n", "")


BREAKS = "\x85\u2028\u2029\r\n\x0b\x0c\x1c\x1e\x00\x7f\x9f\xa0\ufeff\ufffe\ufffd\u200b\u3000😀"
"""Line breaks, as YAML or another reader sees them, and characters that are written in their own ways."""


def test_an_export_keeps_every_character() -> None:
    forms = ("a{}b", "{}a", "a{}", "a {} b", "a\n{}b", "{0}{0}", "# {}", "'{}\"", "- {}: a")
    texts = [form.format(one) for one in (*BREAKS, BREAKS) for form in forms]
    documents = [{"id": f"s{number}", "description": text, text: [text]} for number, text in enumerate(texts)]
    assert yaml.safe_load(as_yaml(documents, paused=[]))["subscriptions"] == documents


def test_an_export_is_applied_with_the_same_text(cli: Cli) -> None:
    text = "a\x85b\u2028c\u2029 d ${e}"
    write(MINIMAL + f"    description: {json.dumps(text.replace('${', '$${'))}\n")
    assert cli("apply")[0] == 0
    exported = cli("export", "--with-secrets")[1]
    assert shown(cli)[0]["description"] == text.replace("${", "$${")
    Path("relay.yaml").write_text(exported, encoding="utf-8")
    assert cli("apply") == (0, "nothing to change: 1 as declared\n", "")


def test_an_export_has_placeholders_for_what_is_secret(cli: Cli) -> None:
    cli("apply")
    _, out, _ = cli("export")
    assert "verysecret" not in out
    assert SECRET not in out
    assert "stands for a value that is not shown" in out
    crm, plain, slack = shown(cli)
    assert crm == {
        "id": "crm",
        "sink": "${file:/run/secrets/crm-sink}",
        "types": [f"ai.revor.{one}" for one in ("job.failed", "webset.failed", "job.succeeded", "webset.completed")],
        "filters": [{"exact": {"channel": "linkedin"}}, {"range": {"/data/metadata/deal": {"gt": 40}}}],
        "protocolsettings": {
            "headers": {"X-Team": "sales", "X-Api-Key": "${file:/run/secrets/crm-x-api-key}"}, "method": "PUT"
        },
        "sinkcredential": {
            "credentialtype": "PLAIN", "identifier": "me", "secret": "${file:/run/secrets/crm-secret}"
        },
        "config": {
            "start": "earliest", "retry_schedule": [5.0, 60.0], "rate_per_second": 5.0,
            "secret": f"${{file:{os.getcwd()}/crm}}",
        },
        "description": "costs $${5}",
    }  # fmt: skip
    assert plain["owner"] == "revor/default"
    assert slack["sink"] == "${file:/run/secrets/slack-alerts-sink}"
    assert slack["config"] == {"metadata_keys": ["deal"], "incidents": "off"}


CANARY = "canary-5ecret-value"
MINIMAL = """\
subscriptions:
  - id: crm
    sink: https://crm.example/hooks
    config: {secret: whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA}
"""


@pytest.fixture(params=["variable", "file"])
def reference(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A reference to CANARY."""
    monkeypatch.setenv("CANARY", CANARY)
    monkeypatch.setenv("SIGNING", OTHER)
    (tmp_path / "canary").write_text(CANARY)
    return "${CANARY}" if request.param == "variable" else f"${{file:{tmp_path}/canary}}"


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ('description: "REF"', "description"),
        ("description: about REF.", "description"),
        ('types: ["REF"]', "types[0]"),
        ('types: "REF"', "types"),
        ('source: "REF"', "source"),
        ('protocol: "REF"', "protocol"),
        ('owner: "REF"', "owner"),
        ('filters: [{exact: {type: "REF"}}]', "filters[0].exact.type"),
        ('filters: "REF"', "filters"),
        ('protocolsettings: {method: "REF"}', "protocolsettings.method"),
        ('protocolsettings: "REF"', "protocolsettings"),
        ('config: {kind: "REF"}', "config.kind"),
        ('config: {rate_per_second: "REF"}', "config.rate_per_second"),
        ('config: {channel: "REF"}', "config.channel"),
        ('config: "REF"', "config"),
        ('id: "REF"', "id"),
        ('unknown: {deep: ["REF"]}', "unknown.deep[0]"),
    ],
)
@pytest.mark.parametrize("arguments", [("apply", "--dry-run"), ("apply", "--json"), ("export",)], ids=str)
def test_reference_where_none_may_be_is_refused_with_its_place(
    cli: Cli, reference: str, field: str, key: str, arguments: tuple[str, ...]
) -> None:
    name = field.partition(":")[0]
    lines = [line for line in MINIMAL.splitlines() if not line.strip(" -").startswith(f"{name}:")]
    place, indent = (1, "  - ") if name == "id" else (3, "    ")
    lines.insert(place, indent + field.replace("REF", reference))
    write("\n".join(lines))
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    where = f"relay.yaml:{place + 1}: subscriptions[0].{key}"
    assert err.startswith(
        f"relay: {where} has a ${{…}}, which only sink, headers, sinkcredential, secret and template "
    )
    assert CANARY not in err


def test_escaped_reference_may_be_anywhere(cli: Cli) -> None:
    write(MINIMAL.replace("    sink:", "    description: costs $${5}\n    sink:"))
    assert cli("apply")[0] == 0
    assert shown(cli)[0]["description"] == "costs $${5}"


def test_a_relay_exports_no_secrets(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("apply")
    listed = [{"id": "crm", "sink": "https://hooks.slack.com/…", "state": "enabled", "owner": None, "types": None,
               "source": None, "protocol": "HTTP", "description": None,
               "protocolsettings": {"headers": {}, "method": "POST"},
               "sinkcredential": {"credentialtype": "REFRESHTOKEN", "client_id": "me",
                                  "accesstokenexpiresutc": "2026-05-20T10:00:00Z"},
               "config": {"kind": "webhook", "signature": "v1a", "incidents": "off", "timeout_seconds": 15.0,
                          "start": "now", "content_mode": "structured", "handshake": "off", "ordering": "job"}}
    ]  # fmt: skip
    monkeypatch.setattr(Api, "items", lambda *_: listed)
    monkeypatch.setenv("RELAY_URL", "http://relay.example")
    code, out, _ = cli("export", "--json")
    assert code == 0
    assert orjson.loads(out)["subscriptions"] == [
        {"id": "crm", "sink": "${file:/run/secrets/crm-sink}",
         "sinkcredential": {"credentialtype": "REFRESHTOKEN", "client_id": "me",
                            "refreshtoken": "${file:/run/secrets/crm-refreshtoken}",
                            "client_secret": "${file:/run/secrets/crm-client_secret}"},
         "config": {"kind": "webhook", "signature": "v1a", "timeout_seconds": 15.0}}
    ]  # fmt: skip
    code, _, err = cli("export", "--with-secrets")
    assert code == 2
    assert "shows no secrets" in err


def test_check_says_how_many_differ_and_what_is_wrong(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    migrations.upgrade(f"sqlite:///{os.getcwd()}/relay.db")

    def found() -> Any:
        findings = asyncio.run(run_checks(Path("relay.yaml"), os.environ))
        return next((one.state, one.detail) for one in findings if one.name == "declared subscriptions")

    monkeypatch.setattr("relay.cli.node.checks._key", lambda *_: asyncio.sleep(0, "fine"))
    assert found() == ("ok", "3 declared, 3 not as in the database. `relay apply --dry-run` shows how they differ")
    cli("apply")
    assert found() == ("ok", "3 declared, all applied")
    write(DECLARED.replace("[failed,", "[faild,"))
    assert found()[0] == "problem"
    assert found()[1].startswith("relay.yaml:4: in subscriptions[0].types[0], 'faild' is no event type")


def test_a_node_logs_how_many_differ_and_changes_nothing(cli: Cli) -> None:
    def logged(text: str) -> list[tuple[str, Any]]:
        async def compare() -> None:
            settings = load_settings(Path("relay.yaml"), {})
            async with opened(settings, creates=True, writes=False) as database:
                await log_differing(settings, await database.context())

        write(text)
        with structlog.testing.capture_logs() as logs:
            asyncio.run(compare())
        return [(one["event"], one.get("count")) for one in logs if one["event"].startswith("declared_")]

    assert logged(DECLARED) == [("declared_subscriptions_differ", 3)]
    assert cli("apply")[0] == 0
    assert logged(DECLARED) == []
    assert logged(DECLARED.replace("rate_per_second: 5", "rate_per_second: 6")) == [
        ("declared_subscriptions_differ", 1)
    ]
    assert logged("subscriptions: []") == []
    assert logged(DECLARED.replace("[failed,", "[faild,")) == [("declared_subscriptions_wrong", None)]
