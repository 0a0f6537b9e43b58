"""The help of commands: `relay --help` in sections, each command as one whole line, and two examples at the end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

EXAMPLES: Mapping[str, str] = {
    name.removeprefix("relay").lstrip(): lines
    for name, _, lines in (
        block.partition(":\n")
        for block in Path(__file__).with_name("examples.txt").read_text(encoding="utf-8").strip().split("\n\n")
    )
}
"""Two lines for each command, by its words after `relay`."""


def explain(name: str, command: Any) -> None:
    """Gives a command, and those below it, its line in lists and its examples."""
    command.short_help = line_of(command)
    command.epilog = examples(name)
    for child, below in getattr(command, "commands", {}).items():
        explain(f"{name} {child}", below)


def line_of(command: Any) -> str:
    """The first sentence of a command's help, without its full stop."""
    return " ".join((command.help or "").split("\n\n")[0].split()).partition(". ")[0].rstrip(".")


def examples(name: str) -> str | None:
    """The examples of a command as the end of its help; None if it has none."""
    if name not in EXAMPLES:
        return None
    return f"\b\nExamples:\n{EXAMPLES[name]}"
