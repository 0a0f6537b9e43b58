"""One verb for each meaning, over all nouns: names of the contract and common synonyms work, and stand in no list."""

import json
import shlex
from typing import Any

import pytest
from typer.main import get_command

from relay.cli import app, run
from relay.cli.verbs import OF_NOUNS, VERBS, command_of
from tests.unit.cli.test_cli_client import Stub, stub

__all__ = ["stub"]

ROOT = get_command(app)
NOUNS = {name: noun for name, noun in ROOT.commands.items() if hasattr(noun, "commands")}
SAME_MEANING = {other: verb for verb, others in VERBS.items() for other in others}
OWN_MEANING = {"sources new": "writes a file; the relay gets no source by it"}


@pytest.mark.parametrize(
    ("typed", "runs"),
    [
        ("jobs untrack 7f0c", "jobs remove"),
        ("jobs delete 7f0c", "jobs remove"),
        ("jobs rm 7f0c", "jobs remove"),
        ("jobs register 7f0c", "jobs add"),
        ("jobs get 7f0c", "jobs show"),
        ("jobs ls --open", "jobs list"),
        ("tokens create crm --scopes read", "tokens add"),
        ("tokens revoke crm", "tokens remove"),
        ("intents dismiss int_1", "intents remove"),
        ("deliveries settle dlv_1 --fate sent", "deliveries resolve"),
        ("subscriptions create https://example.com", "subscriptions add"),
        ("subscriptions update sub_1 --types failed", "subscriptions edit"),
        ("subscriptions delete sub_1", "subscriptions remove"),
        ("groups get spring", "groups show"),
        ("sources", "sources list"),
        ("sources --json", "sources list"),
        ("sources new https://api.example.com/1", "sources new"),
        ("accounts --state ok", "accounts list"),
        ("audit --since 1d", "audit list"),
        ("audit verify", "audit verify"),
    ],
)
def test_other_verbs_run_the_same_command(typed: str, runs: str) -> None:
    noun, *words = shlex.split(typed)
    context = ROOT.commands[noun].make_context(noun, words)
    rest = [*context._protected_args, *context.args]
    name, found, arguments = context.command.resolve_command(context, rest)
    assert found is ROOT.commands[noun].commands[runs.split()[1]]
    found.make_context(name, arguments, parent=context)


def test_each_meaning_has_one_listed_verb() -> None:
    listed = {f"{noun} {verb}" for noun, group in NOUNS.items() for verb in group.commands}
    hidden = {f"{noun} {verb}" for noun, verbs in OF_NOUNS.items() for verb in verbs}
    assert {one for one in listed if one.split()[1] in SAME_MEANING} == set(OWN_MEANING)
    assert not listed & hidden
    for noun, verbs in OF_NOUNS.items():
        assert all(f"{noun} {verb}" in listed for verb in verbs.values())
    assert command_of("jobs", "explain") is None


@pytest.mark.parametrize("noun", NOUNS)
def test_lists_and_completion_do_not_name_other_verbs(noun: str, capsys: pytest.CaptureFixture[str]) -> None:
    group = NOUNS[noun]
    context = group.make_context(noun, [], resilient_parsing=True)
    completed = {item.value for item in group.shell_complete(context, "")}
    assert completed == set(group.commands)
    assert run([noun, "--help"]) == 0
    shown = {
        line.split()[0] for line in capsys.readouterr().out.partition("Commands:")[2].splitlines() if line[:2] == "  "
    }
    assert shown >= set(group.commands)
    assert not shown & (set(SAME_MEANING) - set(group.commands)) - {"$"}


def test_replays_are_listed(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    counts: dict[str, Any] = {"matched": 1200, "delivered": 600, "dead": 0, "left": 600}
    replay = {"id": "rpl_1", "subscription_id": "sub_1", "state": "running", "only": "all", **counts}
    replay["created_at"] = "2026-05-20T10:00:00.000Z"
    for items in ([replay], [replay], []):
        stub.says("GET /v1/replays", {"items": items, "next_cursor": None})
    assert run(["replays", "list"]) == 0
    head, row = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert dict(zip(head, row, strict=True))["LEFT"] == "600"
    assert run(["replays", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [replay]
    assert run(["replays", "ls"]) == 0
    assert "`relay subscriptions replay ID --since 1d` starts one" in capsys.readouterr().err
