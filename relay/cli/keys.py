"""`relay keys`: creates an encryption key, and rotates the relay's own keys.

A rotation goes through the relay where RELAY_URL names another machine or a node holds the SQLite file. Otherwise it
works on the database itself, also while nodes use the same PostgreSQL database.
"""

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from relay.cli.client import Api, Unreachable, api
from relay.cli.direct import NoDatabase, asked_instead, own_url, recorded, require_database
from relay.cli.options import Json, given
from relay.cli.output import note, print_json, print_result, say
from relay.cli.serve import ConfigFile, settings_file
from relay.core.sentences import counted
from relay.errors import DatabaseHeld, RelayError, UsageError

if TYPE_CHECKING:
    from relay.config.settings import Settings
    from relay.node.encryption_keys import EncryptionKeys
    from relay.store.store import Store

app = typer.Typer(help="Create and rotate the relay's own keys.", no_args_is_help=True)

What = Literal["encryption", "signing", "callback-secret"]
DEFAULT_OVERLAP_SECONDS = 86_400
MAX_OVERLAP_SECONDS = 30 * 86_400
POLL_SECONDS = 0.2
PATIENCE_SECONDS = 60.0


@app.command()
def generate(json: Json = False) -> None:
    """Print a new encryption key, for encryption.keys or RELAY_ENCRYPTION_KEY. Nothing is stored."""
    from relay.config.keyring import key_id, new_key

    key = new_key()
    if json:
        print_json({"key": key, "id": key_id(key)})
        return
    say(key)
    note(
        f"relay: this key encrypts the secrets in the database. Its id is {key_id(key)}. Keep a copy. To replace a "
        "key, add it as the last of encryption.keys on every node, then make it the first, then run `relay keys rotate`"
    )


@app.command()
def rotate(
    what: Annotated[
        What,
        typer.Argument(
            help="encryption: encrypts every stored secret again with the first key. signing: a new key pair for v1a. "
            "callback-secret: a new secret for callbacks."
        ),
    ] = "encryption",
    overlap: Annotated[
        int | None,
        typer.Option(
            min=0, max=MAX_OVERLAP_SECONDS, help="signing, callback-secret: seconds in which the old one still signs."
        ),
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Rotate a key while the relay runs. Cut off, a rotation of the encryption key continues when it is run again."""
    if what == "encryption" and overlap is not None:
        raise UsageError("--overlap is for signing and callback-secret. Encryption keys overlap until you remove one")
    from relay.config.settings import load_settings
    from relay.core.own_address import is_loopback_host

    relay = api()
    if not is_loopback_host(relay.host):
        _through(relay, what, overlap, json)
        return
    settings = load_settings(settings_file(config), os.environ)
    try:
        asyncio.run(_direct(settings, what, DEFAULT_OVERLAP_SECONDS if overlap is None else overlap, json))
    except NoDatabase as missing:
        asked_instead(settings, lambda relay: _through(relay, what, overlap, json), missing)
    except DatabaseHeld:
        _through(relay if os.environ.get("RELAY_URL") else api(own_url(settings)), what, overlap, json)


# --- through a running node


def _through(client: Api, what: What, overlap: int | None, json: bool) -> None:
    path = f"/v1/keys/{what}/rotate"
    if what != "encryption":
        _print(what, client.post(path, given({"overlap_seconds": overlap})), json)
        return
    rotation, answered_at = client.post(path), time.monotonic()
    place = client.get("/v1/keys")["encryption"]["place"]
    with _progress() as show:
        while rotation["state"] == "running":
            show(rotation)
            time.sleep(POLL_SECONDS)
            try:
                rotation, answered_at = client.get("/v1/keys")["encryption"]["rotation"], time.monotonic()
            except Unreachable as error:
                if time.monotonic() - answered_at > PATIENCE_SECONDS:
                    raise RelayError(f"{error}. Continue with `relay keys rotate`") from None
                continue
            if rotation is None:  # the node was restarted
                rotation = client.post(path)
        show(rotation)
    _print_rotation(rotation, place, json)


# --- on the database


async def _direct(settings: "Settings", what: What, overlap: int, json: bool) -> None:
    from relay import log
    from relay.clock import wall_clock
    from relay.config.keyring import KeyFile, Keyring
    from relay.node.encryption_keys import EncryptionKeys
    from relay.node.opening import NO_KEY
    from relay.private_files import default_state_dir
    from relay.store.postgres_engine import is_postgres
    from relay.store.store import open_store

    log.configure(dev=False, level="critical")  # what goes wrong is printed as the result
    url = settings.database.url
    if is_postgres(url) and not settings.encryption.keys:
        raise UsageError(NO_KEY)
    require_database(settings)
    file = None if settings.encryption.keys else KeyFile(default_state_dir(os.environ))
    keyring = Keyring(settings.encryption.keys if file is None else file.read_or_create())
    store = await open_store(url, keyring, now=wall_clock(), pool_size=2)
    clock = store.clock(wall_clock)
    keys = EncryptionKeys(keyring, store.ciphertexts, clock=clock, file=file)
    try:
        await keys.start()
        async with recorded(store.database, settings, f"keys.rotate_{what.replace('-', '_')}"):
            if what == "encryption":
                await _rotate_encryption(keys, json)
            else:
                _print(what, await _rotate_secret(store, settings, what, clock(), overlap), json)
    finally:
        await keys.close()
        await store.close()


async def _rotate_encryption(keys: "EncryptionKeys", json: bool) -> None:
    from relay.api.keys import rotation_view

    await keys.rotate()
    ended = asyncio.ensure_future(keys.rotated())
    with _progress() as show:
        while not ended.done():
            await asyncio.wait([ended], timeout=POLL_SECONDS)
            if keys.rotation is not None:
                show(rotation_view(keys.rotation))
    _print_rotation(rotation_view(ended.result()), keys.place, json)


async def _rotate_secret(store: "Store", settings: "Settings", what: What, now: float, overlap: int) -> Any:
    from relay.api.keys import public_key_view
    from relay.clock import to_rfc3339
    from relay.core.signing import ED25519_BYTES, new_secret, new_signing_key
    from relay.core.subscription import SigningSecret
    from relay.store.secrets import CALLBACK_OWNER, SIGNING_OWNER

    if what == "callback-secret" and settings.delivery.callback_secret is not None:
        raise UsageError(
            "delivery.callback_secret is set. Give it a list with the new secret and the old one, and send SIGHUP"
        )
    random_bytes = secrets.token_bytes(ED25519_BYTES)
    signing = what == "signing"
    made = new_signing_key(random_bytes) if signing else new_secret(random_bytes)
    owner = SIGNING_OWNER if signing else CALLBACK_OWNER
    await store.secrets.add_secret(owner, made, now, old_expire_at=now + overlap)
    expires_at = to_rfc3339(now + overlap)
    if signing:
        key = public_key_view(SigningSecret(value=made, created_at=now))
        return {"key": key, "old_key_expires_at": expires_at}
    return {"secret": made, "old_secret_expires_at": expires_at}


# --- what is printed


def _print(what: What, answer: Any, json: bool) -> None:
    if what == "signing":
        key = answer["key"]["public_key"]
        text = f"new public key {key}. The old key still signs until {answer['old_key_expires_at']}"
    else:
        text = f"new signing secret {answer['secret']}. The old one still signs until {answer['old_secret_expires_at']}"
    print_result(answer, text, json=json)


def _print_rotation(rotation: Any, place: str, json: bool) -> None:
    """Prints the end of a rotation. Exit code 1 if it is not complete."""
    done = f"{counted(rotation['done'], 'secret')} encrypted again with the key {rotation['key']}"
    unused = rotation["unused"]
    if rotation["state"] == "failed":
        text = f"{done}, but not all: {rotation['problem']}"
    elif unused:
        text = (
            f"{done}. No longer used: {', '.join(unused)}. Remove {'it' if len(unused) == 1 else 'them'} from {place} "
            "once you need no backup from before"
        )
    elif rotation["done"]:
        text = f"{done}. No other key is left in {place}"
    else:
        text = (
            f"every secret is encrypted with the key {rotation['key']} already. For a new one: `relay keys generate`, "
            f"then make it the first of {place}"
        )
    print_result(rotation, text, json=json)
    if rotation["state"] == "failed":
        raise typer.Exit(1)


@contextmanager
def _progress() -> Iterator[Callable[[Any], None]]:
    """Yields a function that shows a rotation's progress: a bar on a terminal, elsewhere a line for each tenth."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=1)
            yield lambda rotation: progress.update(
                task, total=max(rotation["total"], 1), completed=rotation["done"] if rotation["total"] else 1
            )
        return
    tenth = 0

    def line(rotation: Any) -> None:
        nonlocal tenth
        reached = 10 * rotation["done"] // max(rotation["total"], 1)
        if reached > tenth:
            tenth = reached
            note(f"{rotation['done']:,} of {rotation['total']:,} secrets encrypted again")

    yield line
