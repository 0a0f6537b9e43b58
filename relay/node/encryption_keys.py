"""The encryption keys of a running node: checked at the start and at SIGHUP, announced to other nodes, rotated.

A node whose first key another node lacks, or that lacks a key in use, does not start: somewhere a secret could not be
read. A rotation encrypts everything again with the first key, in small steps beside all other work. It has no state of
its own: what is left to do is in the database, so a rotation that was cut off is continued by starting it again.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

import structlog

from relay.clock import Clock, steady_clock
from relay.config.keyring import DecryptError, KeyFile, Keyring
from relay.core.encryption import NodeKeys, Rotation, divided, refusal_of
from relay.core.sentences import counted
from relay.errors import Conflict, RelayError, SettingsError, StoreError
from relay.store.ciphertexts import CiphertextStore, Place, SealedColumn, Stale, batches, sealed_columns
from relay.store.postgres_writer import PATIENCE_SECONDS

ANNOUNCE_SECONDS = 5.0
FRESH_SECONDS = 15.0
"""A node that could not announce its keys for longer encrypts nothing: the others may have ended a rotation without it.
With SETTLE_SECONDS this is less than the time for which they count it (`LAPSE_SECONDS`), so what it encrypted before is
committed by then."""
SETTLE_SECONDS = PATIENCE_SECONDS + 5.0
"""A write that another node encrypted before it took its keys is committed after this time, or never."""
STEP_ROWS = 50
STEP_BYTES = 256 * 1024
"""What one transaction of a rotation changes, so that it delays no other write."""
PAUSE_SECONDS = 0.002
"""Between two transactions: other writes come first."""
MAX_PASSES = 100
CLOSE_SECONDS = 5.0
"""The database must not delay the end of the node."""
SHOWN_FAILURES = 3

log = structlog.get_logger("relay.node")


class EncryptionKeys:
    """The keys of one node. Call `start` before anything is encrypted, and `close` at the end."""

    def __init__(
        self,
        keyring: Keyring,
        ciphertexts: CiphertextStore,
        *,
        clock: Clock,
        file: KeyFile | None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        steady: Clock = steady_clock,
    ) -> None:
        """`file`: where the keys come from, if not from the settings."""
        self._keyring = keyring
        self._ciphertexts = ciphertexts
        self._clock = clock
        self._file = file
        self._sleep = sleep
        self._steady = steady
        self._announced_at = steady()
        self.node = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(2)}"
        self._since = clock()
        self._announcing: asyncio.Task[None] | None = None
        self._rotating: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()
        self.rotation: Rotation | None = None
        self.problem: str | None = None
        """Why other nodes and this one cannot read each other's secrets; None if they can."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys, the one that encrypts first."""
        return self._keyring.ids

    @property
    def place(self) -> str:
        """Where the keys are written."""
        return "encryption.keys" if self._file is None else str(self._file.path)

    async def start(self) -> None:
        """Checks the keys and announces them. Raises SettingsError."""
        await self._take(self._keyring.ids)
        if self._ciphertexts.shared:
            self._keyring.refusal = self._refusal
            self._announcing = asyncio.get_running_loop().create_task(self._announce_again())

    async def close(self) -> None:
        """Ends a rotation after its current step, and says to other nodes that this one runs no longer."""
        for task in (self._rotating, self._announcing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._ciphertexts.withdraw(self.node, self._clock())
        except (StoreError, TimeoutError) as error:
            log.warning("keys_not_withdrawn", error=str(error) or type(error).__name__)

    async def reload(self, keys: Sequence[str]) -> None:
        """Uses these keys of the settings, or without any those of the file. Raises SettingsError, and then keeps the
        old ones."""
        async with self._reloading:
            if (self._file is None and not keys) or (self._file is not None and keys):
                raise SettingsError("encryption.keys can be changed at run time, but not added or removed: restart")
            await self._use(keys if self._file is None else self._file.read())

    async def _use(self, keys: Sequence[str]) -> None:
        ids = Keyring(keys).ids
        if ids == self._keyring.ids:
            return
        before, self._since = self._since, self._clock()
        try:
            await self._take(ids)
        except RelayError:
            self._since = before
            raise
        self._keyring.replace(keys)
        self._since = self._clock()  # until now the old first key may have encrypted something
        log.info("encryption_keys_read_again", keys=list(ids))

    async def _take(self, ids: Sequence[str]) -> None:
        mine, began_at = NodeKeys(node=self.node, keys=tuple(ids), since=self._since), self._steady()
        objection = await self._ciphertexts.take(mine, self._clock(), partial(refusal_of, ids))
        if objection is not None:
            raise SettingsError(objection)
        self._announced_at = began_at

    def _refusal(self) -> str | None:
        """Why this node must not encrypt now."""
        seconds = self._steady() - self._announced_at
        if seconds <= FRESH_SECONDS:
            return None
        return self.problem or (
            f"this node could not announce its encryption keys for {int(seconds)} s, so other nodes may have retired "
            "them: it stores no secret until it has looked again"
        )

    async def _announce_again(self) -> None:
        while True:
            await asyncio.sleep(ANNOUNCE_SECONDS)
            await self.announce()

    async def announce(self) -> None:
        """Says that this node still runs. Finds out whether another node has changed its keys meanwhile."""
        mine, began_at = NodeKeys(node=self.node, keys=self._keyring.ids, since=self._since), self._steady()
        try:
            found: list[str] = []

            def judge(used: Sequence[str], others: Sequence[NodeKeys]) -> None:
                if (problem := refusal_of(mine.keys, used, others)) is not None:
                    found.append(problem)

            await self._ciphertexts.take(mine, self._clock(), judge)
        except StoreError as error:
            log.warning("keys_not_announced", error=str(error))
            return
        problem = found[0] if found else None
        if problem is None:
            self._announced_at = began_at
        if problem != self.problem:
            self.problem = problem
            if problem is not None:
                log.error("encryption_keys_differ", problem=problem)

    # --- rotation

    async def rotate(self) -> Rotation:
        """Begins a rotation, or joins the one that runs. Keys in a file get a new one first, unless an earlier rotation
        is not complete. Raises Conflict if another node encrypts with another key, SettingsError."""
        async with self._reloading:
            if self._rotating is not None and not self._rotating.done():
                assert self.rotation is not None
                return self.rotation
            if self._file is not None:
                await self._use(self._file.read())  # a rotation that was cut off may have written it
                if set(await self._ciphertexts.used()) <= {self._keyring.ids[0]}:
                    await self._use(await asyncio.to_thread(self._file.add, self._clock()))
            key = self._keyring.ids[0]
            problem = divided(key, await self._ciphertexts.others(self.node, self._clock()))
            if problem is not None:
                raise Conflict(problem, code="keys_differ")
            self.rotation = Rotation(state="running", key=key, started_at=self._clock())
            self._rotating = asyncio.get_running_loop().create_task(self._rotate())
            return self.rotation

    async def rotated(self) -> Rotation:
        """The rotation, once it has ended."""
        assert self._rotating is not None
        await asyncio.wait([self._rotating])
        assert self.rotation is not None
        return self.rotation

    async def _rotate(self) -> None:
        assert self.rotation is not None
        try:
            log.info("rotation_started", key=self.rotation.key)
            problem = await self._passes()
        except Exception as error:
            if not isinstance(error, StoreError):
                log.exception("rotation_failed")
            problem = f"{error or type(error).__name__}. Run it again: it continues where it was"
        if problem is not None:
            log.error("rotation_failed", problem=problem)
            self._note(state="failed", problem=problem, ended_at=self._clock())
            return
        used = await self._ciphertexts.used()
        unused = tuple(id for id in self._keyring.ids if id not in used)
        self._note(state="done", unused=unused, ended_at=self._clock())
        log.info("rotation_ended", key=self.rotation.key, encrypted_again=self.rotation.done, unused=list(unused))

    async def _passes(self) -> str | None:
        """Encrypts everything again until nothing stale is found, and retires the old keys. Returns what is wrong."""
        assert self.rotation is not None
        key = self.rotation.key
        await self._take(self._keyring.ids)  # a write: those before it, perhaps with the old key, are committed
        self._note(total=await self._sweep(_count))
        settled: set[tuple[str, float]] = set()
        for _ in range(MAX_PASSES):
            others = await self._ciphertexts.others(self.node, self._clock())
            if (problem := divided(key, others)) is not None:
                return problem
            # By the time passed, not only by the clock, which may be set meanwhile.
            unsettled = {(other.node, other.since) for other in others} - settled
            settled_at = max((since for _, since in unsettled), default=0.0) + SETTLE_SECONDS
            failures: list[str] = []
            found = await self._sweep(partial(self._encrypt_again, failures))
            self._note(failed=len(failures))
            if self._keyring.ids[0] != key:
                return f"the first key was changed to {self._keyring.ids[0]} meanwhile: run it again"
            if found > len(failures):
                continue  # another pass finds what was written meanwhile
            if failures:
                shown = "; ".join(failures[:SHOWN_FAILURES])
                return f"{counted(len(failures), 'secret')} cannot be decrypted, so no key was retired: {shown}"
            if (wait := min(settled_at - self._clock(), SETTLE_SECONDS)) > 0:
                await self._sleep(wait)
                settled |= unsettled
                continue
            return await self._ciphertexts.retire(key, self.node, self._clock(), lambda used, now: divided(key, now))
        return "other nodes write faster than this one encrypts again: run it again"

    async def _sweep(self, handle: Callable[[SealedColumn, Sequence[Stale]], Awaitable[None]]) -> int:
        """Calls `handle` with the stale ciphertexts of each slice. Returns how many there were."""
        total, header = 0, self._keyring.header
        for column in sealed_columns():
            after: Place | None = ("",) * len(column.key)
            while after is not None:
                stale, after = await self._ciphertexts.stale(column, header, after)
                await handle(column, stale)
                total += len(stale)
        return total

    async def _encrypt_again(self, failures: list[str], column: SealedColumn, stale: Sequence[Stale]) -> None:
        assert self.rotation is not None
        for group in batches(stale, STEP_ROWS, STEP_BYTES):
            changes = []
            for one in group:
                old = one.blob if one.blob is not None else await self._ciphertexts.read(column, one.place)
                if old is None or self._keyring.is_current(old):
                    continue  # it was removed or replaced meanwhile
                context = column.context(one.place)
                try:
                    plaintext = self._keyring.decrypt(bytes(old), context=context)
                except DecryptError as error:
                    failures.append(str(error))
                else:
                    changes.append((one.place, bytes(old), self._keyring.encrypt(plaintext, context=context)))
            if changes:
                await self._ciphertexts.replace(column, changes)
                self._note(done=self.rotation.done + len(changes))
                await self._sleep(PAUSE_SECONDS)

    def _note(self, **changes: object) -> None:
        assert self.rotation is not None
        self.rotation = replace(self.rotation, **changes)  # type: ignore[arg-type]


async def _count(column: SealedColumn, stale: Sequence[Stale]) -> None:
    """Only counts."""
