"""The encryption keys of a node: checked at the start and at SIGHUP, and rotated.

The first key encrypts, all decrypt. A rotation encrypts again all secrets encrypted with other keys. It has no state of
its own: the remaining secrets are in the database, so an interrupted rotation continues when it is run again.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field

import structlog

from relay.clock import Clock, steady_clock
from relay.config.keyring import KeyFile, Keyring
from relay.errors import DecryptError, SettingsError
from relay.store.access.ciphertexts import Change, CiphertextStore, SealedColumn, sealed_columns

PART_SECONDS = 5.0
"""Maximum duration of one call of `rotate`, so that it fits in a request."""
STEP_BYTES = 256 * 1024
"""Maximum bytes of one transaction of a rotation, so that it delays no other write: a stored answer can have
megabytes."""
SHOWN_FAILURES = 3

log = structlog.get_logger("relay.node")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """One part of a rotation of the encryption keys.

    key      the id of the key that everything is encrypted with afterwards
    done     secrets that were encrypted again
    left     secrets that are still encrypted with another key
    unused   ids of this node's keys that nothing is encrypted with
    problem  why a secret cannot be decrypted, and what to do
    """

    key: str
    done: int
    left: int
    unused: tuple[str, ...]
    problem: str | None


def refusal_of(keys: Sequence[str], used: Iterable[str]) -> str | None:
    """The reason why a node must not run with these keys: it lacks one of those in use. None if it has them all."""
    missing = sorted(set(used) - set(keys))
    if not missing:
        return None
    return (
        f"secrets in the database are encrypted with the key {' and the key '.join(missing)}, which is not one of "
        f"the {len(keys)} configured ({', '.join(keys)}): add it to encryption.keys, or restore the key file; "
        "to stop using it, run `relay keys rotate` while it is still there"
    )


@dataclass(eq=False, repr=False)
class EncryptionKeys:
    """The keys of one node, in `file` if they are not in the settings. Call `check` before anything is encrypted."""

    keyring: Keyring
    ciphertexts: CiphertextStore
    _: KW_ONLY
    clock: Clock
    file: KeyFile | None
    steady: Clock = steady_clock
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys, the one that encrypts first."""
        return self.keyring.ids

    @property
    def place(self) -> str:
        """The setting or file that contains the keys."""
        return "encryption.keys" if self.file is None else str(self.file.path)

    async def check(self) -> None:
        """Raises SettingsError if a secret is encrypted with a key that is missing."""
        await self._check(self.ids)

    async def _check(self, ids: Sequence[str]) -> None:
        if (refusal := refusal_of(ids, await self.ciphertexts.used())) is not None:
            raise SettingsError(refusal)

    async def reload(self, keys: Sequence[str]) -> None:
        """Uses these keys of the settings, or without any those of the file. Raises SettingsError, and then keeps the
        old ones."""
        async with self._changing:
            if (self.file is None and not keys) or (self.file is not None and keys):
                raise SettingsError("encryption.keys can be changed at run time, but not added or removed: restart")
            await self._use(keys if self.file is None else self.file.read())

    async def _use(self, keys: Sequence[str]) -> None:
        ids = Keyring(keys).ids
        if ids != self.ids:
            await self._check(ids)
            self.keyring.replace(keys)
            log.info("encryption_keys_read_again", keys=list(ids))

    async def rotate(self) -> Rotation:
        """Encrypts secrets again for up to PART_SECONDS. Keys in a file get a new one first, unless another key is
        still in use. Raises SettingsError if the file cannot be replaced."""
        if self.file is not None:
            async with self._changing:
                await self._use(self.file.read())  # an interrupted rotation may have written it
                if set(await self.ciphertexts.used()) <= {self.ids[0]}:
                    await self._use(await asyncio.to_thread(self.file.add, self.clock()))
        until, done = self.steady() + PART_SECONDS, 0
        failures: list[str] = []
        for column in sealed_columns():
            after = ("",) * len(column.key)
            while self.steady() < until and (stale := await self.ciphertexts.stale(column, self.keyring.header, after)):
                changes: list[Change] = []
                size = 0
                for after, old in stale:
                    if (change := self._encrypted_again(column, after, old, failures)) is not None:
                        changes.append(change)
                    size += len(old)
                    if size > STEP_BYTES:
                        break
                if changes:
                    await self.ciphertexts.replace(column, changes)
                done += len(changes)
        used = await self.ciphertexts.used()
        rotation = Rotation(
            key=self.ids[0],
            done=done,
            left=used.total() - used[self.ids[0]],
            unused=tuple(id for id in self.ids if id not in used),
            problem="; ".join(failures[:SHOWN_FAILURES]) or None,
        )
        log.info("encryption_keys_rotated", key=rotation.key, done=done, left=rotation.left, problem=rotation.problem)
        return rotation

    def _encrypted_again(
        self, column: SealedColumn, place: tuple[str, ...], old: bytes, failures: list[str]
    ) -> Change | None:
        context = column.context(place)
        try:
            plaintext = self.keyring.decrypt(old, context=context)
        except DecryptError as error:
            failures.append(str(error))
            return None
        return place, old, self.keyring.encrypt(plaintext, context=context)
