"""The verbs of commands: one for each meaning, over all nouns. Other verbs work too, and stand in no list."""

from collections.abc import Mapping
from typing import Any

from typer.core import TyperGroup

VERBS: Mapping[str, tuple[str, ...]] = {
    "add": ("create", "register", "new"),
    "list": ("ls",),
    "show": ("get",),
    "edit": ("update", "set"),
    "remove": ("delete", "rm"),
}
"""Each verb, and others that mean the same with every noun."""

OF_NOUNS: Mapping[str, Mapping[str, str]] = {
    "jobs": {"track": "add", "untrack": "remove"},
    "tokens": {"revoke": "remove"},
    "intents": {"dismiss": "remove"},
    "deliveries": {"settle": "resolve"},
}
"""Verbs of one noun, and its command that they stand for."""

LISTED = ("sources", "accounts", "audit")
"""Nouns that are a command by themselves: `relay sources --json` is `relay sources list --json`."""


def command_of(noun: str, verb: str) -> str | None:
    """The command that another verb stands for; None if it is none."""
    general = (command for command, others in VERBS.items() if verb in others)
    return OF_NOUNS.get(noun, {}).get(verb) or next(general, None)


class Noun(TyperGroup):
    """The commands of one noun."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """With `list` before the options of a noun that has no verb."""
        bare = not args or args[0].startswith("-")
        if self.name in LISTED and bare and not (ctx.resilient_parsing or set(args) & set(ctx.help_option_names)):
            args = ["list", *args]  # not while a shell completes the verb
        return super().parse_args(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, or the one that it stands for."""
        found = super().get_command(ctx, cmd_name)
        meant = command_of(self.name or "", cmd_name)
        return super().get_command(ctx, meant) if found is None and meant is not None else found
