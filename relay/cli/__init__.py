"""The command `relay`. Each group of commands has its own module. Slow imports happen inside the commands."""

import os
import sys
import traceback
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from relay.cli.audit import app as audit_app
from relay.cli.deliveries.deliveries import app as deliveries_app
from relay.cli.deliveries.replays import app as replays_app
from relay.cli.demo import demo as demo_command
from relay.cli.events.events import app as events_app
from relay.cli.events.listen import listen as listen_command
from relay.cli.incidents import app as incidents_app
from relay.cli.jobs.groups import app as groups_app
from relay.cli.jobs.jobs import app as jobs_app
from relay.cli.jobs.jobs import erase as erase_command
from relay.cli.jobs.jobs import intents_app
from relay.cli.keys import app as keys_app
from relay.cli.node.local import check, init, migrate, sandbox, verify
from relay.cli.node.serve import serve as serve_command
from relay.cli.node.status import settings as settings_command
from relay.cli.node.status import status as status_command
from relay.cli.node.support import support as support_command
from relay.cli.sources import accounts as accounts_command
from relay.cli.sources import figures as figures_command
from relay.cli.sources import sources as sources_command
from relay.cli.subscriptions.apply import apply as apply_command
from relay.cli.subscriptions.apply import export as export_command
from relay.cli.subscriptions.crm import salesforce_definition
from relay.cli.subscriptions.subscriptions import app as subscriptions_app
from relay.cli.subscriptions.subscriptions import signing_secret
from relay.cli.tokens import app as tokens_app
from relay.cli.tokens import ui as ui_command
from relay.errors import RelayError

DEBUG_VARIABLE = "RELAY_DEBUG"

app = typer.Typer(
    name="relay",
    help="Turns Revor's job API into signed events. Try `relay demo`, then `relay init` and `relay serve`.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo_command)
app.command("serve")(serve_command)
app.command()(init)
app.command()(migrate)
app.command()(check)
app.command()(sandbox)
app.add_typer(jobs_app, name="jobs")
app.add_typer(groups_app, name="groups")
app.add_typer(subscriptions_app, name="subscriptions")
app.add_typer(events_app, name="events")
app.add_typer(deliveries_app, name="deliveries")
app.add_typer(replays_app, name="replays")
app.add_typer(incidents_app, name="incidents")
app.add_typer(intents_app, name="intents")
app.add_typer(tokens_app, name="tokens")
app.add_typer(keys_app, name="keys")
app.add_typer(audit_app, name="audit")
app.command("apply")(apply_command)
app.command("export")(export_command)
app.command("sources")(sources_command)
app.command("status")(status_command)
app.command("settings")(settings_command)
app.command("ui")(ui_command)
app.command("figures")(figures_command)
app.command("accounts")(accounts_command)
app.command("erase")(erase_command)
app.command("support")(support_command)
app.command("signing-secret")(signing_secret)
app.command()(salesforce_definition)
app.command("listen")(listen_command)
app.command()(verify)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from relay import __version__

        typer.echo(f"relay {__version__}")
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
    except RelayError as error:
        return _failed(str(error), error.exit_code)
    except typer.Exit as ended:
        return ended.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except TyperException as error:
        return _misused(error)
    except BrokenPipeError:  # such as `relay events list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return _failed(f"unexpected error: {reason} (set {DEBUG_VARIABLE}=1 to see where)", 1)
    return code if isinstance(code, int) else 0


def _misused(error: TyperException) -> int:
    context = getattr(error, "ctx", None)
    text = error.format_message().replace(": Value error, ", ": ")
    if type(error).__name__ == "NoArgsIsHelpError":
        if text.strip():
            typer.echo(text, err=True)
        return 2
    command = context.command_path if context is not None else "relay"
    return _failed(f"{text.strip().rstrip('.')}: see `{command} --help`", 2)


def _failed(text: str, code: int) -> int:
    from relay.redaction import printable, redact_text

    typer.echo(f"relay: {redact_text(printable(' '.join(text.split())))}", err=True)
    return code
