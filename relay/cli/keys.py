"""`relay keys`: creates an encryption key, and rotates the relay's own keys.

A rotation goes through the relay where RELAY_URL names another machine or a node holds the SQLite file. Otherwise it
works on the database itself, also while nodes use the same PostgreSQL database.
"""

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from relay.cli.client import Api
from relay.cli.node.direct import COMMAND_LINE, Opened, opened, through_or_directly
from relay.cli.node.serve import ConfigFile
from relay.cli.options import Json, given
from relay.cli.output import note, print_json, print_result, say
from relay.core.events.sentences import counted
from relay.errors import UsageError

if TYPE_CHECKING:
    from relay.store.store import Store

app = typer.Typer(help="Create and rotate the relay's own keys.", no_args_is_help=True)

What = Literal["encryption", "signing", "callback-secret"]
DEFAULT_OVERLAP_SECONDS = 86_400
MAX_OVERLAP_SECONDS = 30 * 86_400


@app.command()
def generate(json: Json = False) -> None:
    """Print a new encryption key. It is for encryption.keys or RELAY_ENCRYPTION_KEY. Nothing is stored."""
    from relay.config.keyring import key_id, new_key

    key = new_key()
    if json:
        print_json({"key": key, "id": key_id(key)})
        return
    say(key)
    note(
        f"relay: this key encrypts the secrets in the database. Its id is {key_id(key)}. Keep a copy. To replace a "
        "key, add it as the second of encryption.keys on every node, then make it the first on every node, then run "
        "`relay keys rotate`"
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
    """Rotate a key while the relay runs. For the encryption key, run it again until 0 are left."""
    if what == "encryption" and overlap is not None:
        raise UsageError("--overlap is for signing and callback-secret. Encryption keys overlap until you remove one")

    through, directly = partial(_through, what, overlap, json), partial(_directly, what, overlap, json)
    through_or_directly(config, through, directly, opening=partial(opened, writes=True), local_first=True)


# --- through a running node


def _through(what: What, overlap: int | None, json: bool, client: Api) -> None:
    path = f"/v1/keys/{what}/rotate"
    if what != "encryption":
        _print(what, client.post(path, given(overlap_seconds=overlap)), json)
        return
    place = client.get("/v1/keys")["encryption"]["place"]

    async def part() -> Any:
        return client.post(path)

    asyncio.run(_rotate_encryption(part, place, json))


# --- on the database


async def _directly(what: What, overlap: int | None, json: bool, database: Opened) -> None:
    from relay.api.access.keys import Rotation

    if what == "callback-secret" and database.settings.delivery.callback_secret is not None:
        raise UsageError(
            "delivery.callback_secret is set. Give it a list with the new secret and the old one, and send SIGHUP"
        )

    async def part() -> Any:
        return Rotation.of(await database.keys.rotate())

    async with database.audit.writing(f"keys.rotate_{what.replace('-', '_')}", actor=COMMAND_LINE, target=None):
        if what == "encryption":
            await _rotate_encryption(part, database.keys.place, json)
        else:
            seconds = DEFAULT_OVERLAP_SECONDS if overlap is None else overlap
            _print(what, await _rotate_secret(database.store, what, database.clock(), seconds), json)


async def _rotate_secret(store: "Store", what: What, now: float, overlap: int) -> Any:
    from relay.api.access.keys import public_key_view
    from relay.clock import to_rfc3339
    from relay.core.subscriptions.signing import ED25519_BYTES, new_secret, new_signing_key
    from relay.core.subscriptions.subscription import SigningSecret
    from relay.store.subscriptions.secrets import CALLBACK_OWNER, SIGNING_OWNER

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


async def _rotate_encryption(part: Callable[[], Awaitable[Any]], place: str, json: bool) -> None:
    """Calls `part` as long as less is left each time, and prints the end. Exit code 1 if something is left."""
    before, done = math.inf, 0
    while True:
        rotation = await part()
        done += rotation["done"]
        if not 0 < rotation["left"] < before:
            break
        before = rotation["left"]
        note(f"{done:,} secrets encrypted again, {before:,} left")
    rotation = {**rotation, "done": done}
    text = f"{counted(done, 'secret')} encrypted again with the key {rotation['key']}, {rotation['left']:,} left"
    unused = rotation["unused"]
    if rotation["left"]:
        first = f"a node still encrypts with another key: make {rotation['key']} the first of {place} on every node"
        text += f": {rotation['problem'] or first}. Then run `relay keys rotate` again"
    elif unused:
        text += (
            f". No longer used: {', '.join(unused)}. Remove {'it' if len(unused) == 1 else 'them'} from {place} "
            "once you need no backup from before"
        )
    elif not done:
        text += f". For a new key: `relay keys generate`, then make it the first of {place}"
    print_result(rotation, text, json=json)
    if rotation["left"]:
        raise typer.Exit(1)
