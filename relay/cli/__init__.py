"""The command `relay`. Each group of commands has its own module, imported when one of them is asked for. Slow imports
happen inside the commands."""

import os
import sys
import traceback
from collections import UserDict
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from relay.cli.help import examples, explain, line_of
from relay.cli.verbs import Noun
from relay.errors import RelayError, SettingsError

DEBUG_VARIABLE = "RELAY_DEBUG"

SECTIONS: Mapping[str, Mapping[str, str]] = {
    "Run": {
        "demo": "demo:demo",
        "init": "node.local:init",
        "check": "node.local:check",
        "serve": "node.serve:serve",
        "migrate": "node.local:migrate",
        "sandbox": "node.sandbox:sandbox",
        "status": "node.status:status",
        "doctor": "node.doctor:doctor",
        "settings": "node.status:settings",
    },
    "Jobs and campaigns": {
        "jobs": "jobs.jobs:app",
        "groups": "jobs.groups:app",
        "accounts": "sources:accounts_app",
        "incidents": "incidents:app",
        "intents": "jobs.jobs:intents_app",
        "sources": "sources:app",
        "figures": "figures:figures",
        "erase": "jobs.jobs:erase",
    },
    "Subscriptions and deliveries": {
        "subscriptions": "subscriptions.subscriptions:app",
        "events": "events.events:app",
        "deliveries": "deliveries.deliveries:app",
        "replays": "deliveries.replays:app",
        "listen": "events.listen:listen",
        "verify": "node.local:verify",
        "signing-secret": "subscriptions.subscriptions:signing_secret",
    },
    "People and keys": {"ui": "tokens:ui", "tokens": "tokens:app", "keys": "keys:app", "audit": "audit:app"},
    "Tools": {
        "apply": "subscriptions.apply:apply",
        "export": "subscriptions.apply:export",
        "salesforce-definition": "subscriptions.crm:salesforce_definition",
    },
}
"""The commands in the sections of `relay --help`, and where each is: the module of this package, and the function or
group in it."""
PLACES = {name: place for places in SECTIONS.values() for name, place in places.items()}

UNLISTED = {"support": "node.support:support"}
"""Commands that a listed one replaces. They go on working."""


class _Commands(UserDict[str, Any]):
    """The commands by name. The module of one is imported when it is first read."""

    def __getitem__(self, name: str) -> Any:
        found = self.data[name]
        if isinstance(found, str):
            found = self.data[name] = _command(name, found)
        return found


def _command(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    found = getattr(import_module(f"relay.cli.{module}"), attribute)
    alone = typer.Typer(rich_markup_mode=None)
    if isinstance(found, typer.Typer):
        alone.add_typer(found, name=name, cls=Noun)
    else:
        alone.command(name)(found)
    made = typer.main.get_group(alone).commands[name]
    explain(name, made)
    return made


class _Root(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "commands": _Commands(PLACES)})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in UNLISTED:
            return _command(cmd_name, UNLISTED[cmd_name])
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, PLACES))
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", line_of(self.commands[name])) for name in names])

    def get_params(self, ctx: Any) -> Any:
        """The options with a default: to convert None, Typer would import pydantic, which takes half of `--version`."""
        params = super().get_params(ctx)
        for param in params:
            param.default = False
        return params


app = typer.Typer(
    name="relay",
    cls=_Root,
    help="Turns APIs that can only be polled into events. Try `relay demo`, then `relay init` and `relay serve`.",
    epilog=examples(""),
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from relay import __version__, build

        typer.echo(f"relay {__version__} ({build()})")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits. Exit code 0: success, 1: failure, 2: wrong settings or usage."""
    _open_missing_streams()
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def _open_missing_streams() -> None:
    """Opens the standard streams that the caller has closed, as in `relay … <&-`: Python has None in their place, which
    nothing expects."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - open until the end


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code. An error is one line on stderr, never a traceback."""
    try:
        code = typer.main.get_command(app).main(args=list(arguments), prog_name="relay", standalone_mode=False)
        sys.stdout.flush()
    except SettingsError as error:  # a line for each fault
        for line in error.lines:
            _failed(line, error.exit_code)
        return error.exit_code
    except RelayError as error:
        return _failed(str(error), error.exit_code)
    except typer.Exit as ended:
        return ended.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except TyperException as error:
        return _misused(error, arguments)
    except BrokenPipeError:  # such as `relay events list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return _failed(f"unexpected error: {reason} (set {DEBUG_VARIABLE}=1 to see where)", 1)
    return code if isinstance(code, int) else 0


def _misused(error: TyperException, arguments: Sequence[str]) -> int:
    from relay.core.requirements import requirement

    context = getattr(error, "ctx", None)
    text = error.format_message().replace(": Value error, ", ": ")
    faults: list[Any] = getattr(error.__cause__, "errors", list)()  # pydantic's, of an option's value
    if faults and (needed := requirement(faults[0]["type"], faults[0].get("ctx", {}))) is not None:
        text = text.replace(faults[0]["msg"], f"it {needed}, not {faults[0]['input']!r:.60}")
    if type(error).__name__ == "NoArgsIsHelpError":
        if text.strip():
            typer.echo(text, err=True)
        return 2
    text = text.strip().rstrip(".")
    between = " " if text.endswith("?") else ". "
    return _failed(f"{text}{between}See `{_path_of(arguments) if context is None else context.command_path} --help`", 2)


def _path_of(arguments: Sequence[str]) -> str:
    """The command that these arguments begin with."""
    command, words = typer.main.get_command(app), ["relay"]
    for word in arguments:
        found = command.get_command(None, word) if isinstance(command, TyperGroup) else None  # type: ignore[arg-type]
        if found is None:
            break
        command, words = found, [*words, found.name or word]
    return " ".join(words)


def _failed(text: str, code: int) -> int:
    from relay.redaction import printable, redact_text

    typer.echo(f"relay: {redact_text(printable(' '.join(text.split())))}", err=True)
    return code
