"""The help of every command: sections, one whole line each, and two examples that the command understands."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from relay.cli import SECTIONS, app, run
from relay.cli.help import EXAMPLES, line_of

WIDTH = 80


def _named(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    yield " ".join(words), command
    for name, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            yield from _named(below, (*words, name))


ROOT = get_command(app)
COMMANDS = dict(_named(ROOT))


def _help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    assert run([*name.split(), "--help"]) == 0
    return capsys.readouterr().out.splitlines()


def test_help_shows_each_command_on_one_whole_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for group, command in COMMANDS.items():
        lines = _help(group, monkeypatch, capsys)
        for name, below in getattr(command, "commands", {}).items():
            if not below.hidden:
                (line,) = [line for line in lines if line.startswith(f"  {name} ")]
                said = line.removeprefix(f"  {name}").strip()
                assert len(line) <= WIDTH
                assert said == line_of(below), line
    assert [f"{title}:" for title in SECTIONS] == [
        line for line in _help("", monkeypatch, capsys) if line[:-1] in SECTIONS
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_two_examples(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [line.removeprefix("  ") for line in _help(name, monkeypatch, capsys)[-2:]]
    assert shown == EXAMPLES[name].splitlines()


def test_no_example_is_of_a_command_that_does_not_exist() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys()


@pytest.mark.parametrize(
    "example", [line.strip().removeprefix("$ ") for two in EXAMPLES.values() for line in two.splitlines()]
)
def test_example_is_understood(example: str) -> None:
    words = [word.lstrip("$(") for word in shlex.split(example.replace("=$(", " ").replace(")", ""))]
    words = words[len(words) - words[::-1].index("relay") :]
    arguments = words[: words.index(">")] if ">" in words else words
    command, name = ROOT, "relay"
    while arguments and arguments[0] in getattr(command, "commands", {}):
        name = arguments.pop(0)
        command = command.commands[name]
    command.make_context(name, arguments)


@pytest.mark.verify
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_options(shell: str) -> None:
    def answer(instruction: str, **variables: str) -> str:
        environ = {**os.environ, **variables, "_RELAY_COMPLETE": f"{instruction}_{shell}"}
        command = [sys.executable, "-m", "relay"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert f"_RELAY_COMPLETE=complete_{shell}" in answer("source")
    for line, expected in (
        ("relay subs", "subscriptions"),
        ("relay jobs wa", "wait"),
        ("relay sources te", "test"),
        ("relay tokens rem", "remove"),
        ("relay jobs wait --ti", "--timeout"),
    ):
        count = str(len(line.split()) - 1)
        found = answer(
            "complete",
            COMP_WORDS=line,
            COMP_CWORD=count,
            _TYPER_COMPLETE_ARGS=line,
            _TYPER_COMPLETE_FISH_ACTION="get-args",
            _TYPER_COMPLETE_WORD_TO_COMPLETE=line.split()[-1],
        )
        assert expected in found
