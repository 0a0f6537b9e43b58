"""Commands that need no running relay: init, migrate, check, verify."""

import asyncio
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from relay import private_files
from relay.cli.node.direct import database_path, has_database, require_database, settings_of
from relay.cli.node.serve import DEFAULT_FILE, ConfigFile, settings_file
from relay.cli.options import Json, read_input
from relay.cli.output import is_terminal, note, print_result, say, working
from relay.core.jobs.job import DEFAULT_SOURCE
from relay.errors import UsageError

KEY_FILE = f"{DEFAULT_SOURCE}.key"
SECRET_VARIABLE = "WEBHOOK_SECRET"  # noqa: S105 (a name)
"""Also read by the receivers in the README."""
KEYS_PATH = "/.well-known/webhook-keys.json"
MAX_REQUEST_BYTES = 64 << 20
_KEY_LINES = '    # accounts:\n    #   default: {api_key: "${REVOR_API_KEY}"}\n'


def init(
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing relay.yaml.")] = False,
) -> None:
    """Write a commented relay.yaml here. On a terminal, ask for the API key and store it in revor.key (0600)."""
    from relay import resources

    path = Path(DEFAULT_FILE)
    if is_there(path) and not force:
        raise UsageError(f"{path} exists already. Overwrite it with --force")
    text = resources.default_settings_file().read_text(encoding="utf-8")
    key = _asked_key() if is_terminal() else ""
    if key:
        text = _with_key_file(text, write_file(Path(KEY_FILE).absolute(), f"{key}\n", force=force))
    write_file(path, text, force=force, mode=0o666 & ~umask())
    say(f"wrote {path}" + (f", and the key to {KEY_FILE}, readable only by you" if key else ""))
    if not key and not os.environ.get("REVOR_API_KEY"):
        say("next: export REVOR_API_KEY=…, then `relay check` and `relay serve`")
    else:
        say("next: `relay check`, then `relay serve`")


def migrate(
    config: ConfigFile = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEMA", help="Go back to the schema of an older version, such as 0029. No node may run."
        ),
    ] = None,
) -> None:
    """Migrate the database to the newest schema. No node may use a SQLite file meanwhile."""
    from relay.store.schema import migrations

    settings = settings_of(config)
    if to is not None:
        require_database(settings)
        with working("migrating"):
            removed = migrations.go_back(settings.database.url, to)
        lost = ", ".join(f"{name} ({count:,})" for name, count in removed.items())
        say(f"the database has schema {to}" + (f". Removed: {lost}" if lost else ""))
        return
    is_there = has_database(settings)
    with working("migrating"):
        revision = migrations.migrate(settings.database.url)
    if is_there:
        say(f"the database has the newest schema, {revision}")
    else:
        say(f"there was no database: created {database_path(settings)} with the newest schema, {revision}")


def check(config: ConfigFile = None, json: Json = False) -> None:
    """Check settings, database, keys and sinks. Explains how to fix problems. Exit code 2: there are problems."""
    from relay.cli.node.checks import print_findings, run_checks

    with working("checking"):
        findings = asyncio.run(run_checks(settings_file(config), os.environ))
    print_findings(findings, json=json)
    raise typer.Exit(2 if any(finding.state == "problem" for finding in findings) else 0)


def verify(
    secret: Annotated[
        str | None,
        typer.Option(
            help=f"The signing secret, whsec_…, or a public key, whpk_…. Default: {SECRET_VARIABLE}, or a prompt on a "
            "terminal."
        ),
    ] = None,
    relay: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Verify the v1a signature with the public keys of the relay at this URL."),
    ] = None,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The raw request. Default: standard input.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Maximum age of the timestamp, in seconds.")] = 300.0,
    now: Annotated[str | None, typer.Option(help="Verify as of this time: epoch seconds or RFC 3339.")] = None,
    json: Json = False,
) -> None:
    """Verify the signature of a raw HTTP request. Explains a failure. Exit code 1: it does not verify."""
    from relay.core.subscriptions import signing

    if relay is not None and secret is not None:
        raise UsageError("--relay and --secret exclude each other. Give the one to verify with")
    secrets = [_signing_secret(secret, file)] if relay is None else _public_keys(relay)
    headers, body = parse_request(read_input("-" if file is None else str(file), MAX_REQUEST_BYTES))
    at = _read_time(now)
    try:
        results = [signing.verify(one, headers, body, now=at, tolerance_seconds=tolerance) for one in secrets]
    except ValueError as error:
        raise UsageError(f"invalid signing secret: {error}") from error
    # Of several keys one signs. The others only say that it is not theirs.
    result = min(results, key=lambda one: (not one.ok, one.reason == "wrong_key" or "also," in one.detail))
    document = {"ok": result.ok, "reason": result.reason, "detail": result.detail}
    verdict = "ok" if result.ok else f"does not verify ({result.reason})"
    print_result(document, f"{verdict}: {result.detail}", json=json)
    raise typer.Exit(0 if result.ok else 1)


def parse_request(raw: bytes) -> tuple[dict[str, str], bytes]:
    """Headers and body of a raw HTTP request. The request line is optional. Raises UsageError if it is malformed."""
    ends = [(raw.find(mark), mark) for mark in (b"\r\n\r\n", b"\n\n")]
    found = min((pair for pair in ends if pair[0] >= 0), default=None)
    if found is None:
        raise UsageError("this is not a raw HTTP request. It needs headers, an empty line, and the body")
    at, mark = found
    lines = raw[:at].decode("latin-1").replace("\r\n", "\n").split("\n")
    headers: dict[str, str] = {}
    for number, line in enumerate(lines):
        name, colon, value = line.partition(":")
        if number == 0 and " " in name.strip():
            continue  # the request line
        if not colon or not name.strip():
            raise UsageError(f"line {number + 1} of the request is not a header. Write `name: value`")
        headers[name.strip().lower()] = value.strip()
    return headers, _body(headers, raw[at + len(mark) :])


def _body(headers: dict[str, str], rest: bytes) -> bytes:
    """The body, without a final line end that an editor or shell added: Content-Length shows where the body ends."""
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and len(length) < 12:
        extra = rest[int(length) :]
        if extra in (b"\n", b"\r\n"):
            return rest[: int(length)]
    return rest


def _signing_secret(given: str | None, file: Path | None) -> str:
    """The secret from --secret, the environment or a prompt. Every user of a machine can see a command line."""
    secret = given or os.environ.get(SECRET_VARIABLE)
    if secret:
        return secret
    if file is None or not is_terminal():
        raise UsageError(f"no signing secret. Set {SECRET_VARIABLE}, or use --secret")
    prompted: str = typer.prompt("Signing secret (whsec_…)", hide_input=True)
    return prompted.strip()


def _public_keys(url: str) -> list[str]:
    """The public keys of the relay at this URL. Raises UsageError if it lists none."""
    from relay.cli.client import Api

    document = Api(url.removesuffix(KEYS_PATH), None).get(KEYS_PATH)
    listed = document.get("keys") if isinstance(document, dict) else None
    keys = [str(key.get("public_key")) for key in listed if isinstance(key, dict)] if isinstance(listed, list) else []
    if not keys:
        raise UsageError(f"{url} lists no public keys. Give the URL of a relay, such as https://relay.example.com")
    return keys


def _read_time(text: str | None) -> float:
    if text is None:
        return time.time()
    from relay.clock import from_rfc3339

    try:
        return float(text) if text.replace(".", "", 1).isdecimal() else from_rfc3339(text)
    except ValueError:
        raise UsageError(
            f"invalid --now {text!r:.40}. Write epoch seconds, or a time such as 2026-05-20T10:00:08Z"
        ) from None


def _asked_key() -> str:
    given: str = typer.prompt(
        f"API key of {DEFAULT_SOURCE} (leave empty to set it later)", default="", hide_input=True, show_default=False
    )
    return given.strip()


def write_file(path: Path, text: str, *, force: bool, mode: int = private_files.PRIVATE) -> Path:
    """Creates a file. `force` replaces an existing one. Never follows a link."""
    try:
        if force:
            private_files.write_over(path, text, mode=mode)
        elif not private_files.create(path, text, mode=mode):
            raise UsageError(f"{path.name} exists already. Overwrite it with --force")
    except OSError as error:
        raise UsageError(f"cannot write {path} ({error.strerror}). Change to a folder that you can write to") from error
    return path


def is_there(path: Path) -> bool:
    """True if something has this name, also a link that leads nowhere."""
    return path.exists() or path.is_symlink()


def umask() -> int:
    """The process's umask."""
    found = os.umask(0o077)
    os.umask(found)
    return found


def _with_key_file(text: str, path: Path) -> str:
    import yaml

    reference = yaml.safe_dump("${file:" + str(path) + "}", default_style='"', allow_unicode=True, width=10_000).strip()
    if _KEY_LINES not in text or "}" in str(path):
        note(f"relay: add this to {DEFAULT_FILE} yourself: accounts: {{default: {{api_key: {reference}}}}}")
        return text
    return text.replace(_KEY_LINES, f"    accounts:\n      default: {{api_key: {reference}}}\n")
