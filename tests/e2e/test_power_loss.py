"""What a power cut leaves of a SQLite database keeps the promise.

A power cut keeps what was synced, and any part of the rest: appended data may be cut anywhere, be zeros, or arrive in
pieces. The database commits with `synchronous=FULL`: the log is synced before a commit returns, so an acknowledged
commit is there afterwards. The log is synced before its pages go into the main file, and the main file before the log
starts again. So these states can occur. Each is made here from copies that were read while the relay was frozen
(SIGSTOP), so that a copy shows one moment:

- **whole**: main file and log of one moment: all writes came to the disk.
- **torn**: behind the last whole transaction of the log lies any part of another one.
- **unsynced**: the log of a moment cut anywhere behind what was whole a moment before, where the main file has not
  changed in between. It is what a cut between the two moments leaves, and may lose what was promised in between,
  nothing from before.
- **behind**: pages of the main file are those of a moment before, in the same generation of the log. Pages that a
  checkpoint is writing may not be on the disk yet; the log has them all.

A log that is older than the main file is not among them: a checkpoint writes only what is synced in the log. The
shared-memory file is never synced: it may be gone or be garbage.
"""

import asyncio
import contextlib
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.forks import fork_server
from tests.support.kill_world import KILL_COUNT, SEED, Relay, World, check_the_promise, open_world
from tests.support.wal_file import Wal, read_wal

CUTS = max(6, KILL_COUNT // 4)
"""After which the same relay goes on."""
COPIES = max(4, KILL_COUNT // 5)
"""Pairs of moments, of which copies are opened aside."""
BURSTS_PER_SECOND = 4.0
CHECKPOINT = {"relay.store.databases.sqlite:WAL_AUTOCHECKPOINT_PAGES": 60}
"""After so many pages the log is written to the main file, instead of 10,000: in a short test it happens as well."""
SECTOR_BYTES = 512
PAGE_BYTES = 4096
TRIES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The database's files at one moment, and what the world had been promised by then."""

    main: bytes
    log: bytes
    registered: frozenset[str]
    arrived: frozenset[tuple[str, int, str]]
    """(job, sequence, event id)"""

    @property
    def wal(self) -> Wal:
        return read_wal(self.log)


def files_of(folder: Path) -> tuple[Path, Path, Path]:
    """Main file, log, shared memory."""
    return folder / "relay.db", folder / "relay.db-wal", folder / "relay.db-shm"


async def frozen(world: World) -> Files:
    """The files of this moment; the relay stays frozen."""
    registered = frozenset(world.registered)
    arrived = frozenset((one.subject, one.sequence, one.event_id) for one in world.sink.arrivals)
    assert await fork_server().ask(freeze=world.relay.name), world.relay.log_tail()
    main, log, _ = files_of(world.relay.folder)
    content = log.read_bytes() if log.exists() else b""
    return Files(main=main.read_bytes(), log=content, registered=registered, arrived=arrived)


def lay_down(folder: Path, main: bytes, log: bytes, rng: random.Random) -> None:
    """The files that the power cut left."""
    paths = files_of(folder)
    paths[0].write_bytes(main)
    paths[1].write_bytes(log)
    paths[2].unlink(missing_ok=True)
    if rng.random() < 0.3:
        paths[2].write_bytes(rng.randbytes(32 * 1024))


def partly(new: bytes, old: bytes, rng: random.Random) -> bytes:
    """Of what was written over `old`, zeros where that is shorter, any part has come to the disk."""
    old = old[: len(new)].ljust(len(new), b"\0")
    kind = rng.randrange(4)
    if kind == 0:
        return new[: rng.randint(0, len(new))]
    if kind == 1:
        kept = rng.randint(0, len(new))
        return new[:kept] + old[kept:]
    sectors = range(0, len(new), SECTOR_BYTES)
    share = rng.random()
    return b"".join((new if rng.random() < share else old)[at : at + SECTOR_BYTES] for at in sectors)


def torn(files: Files, rng: random.Random) -> bytes:
    """The log with any part of one more transaction behind the last whole one. Any earlier transaction serves as its
    bytes: its checksums follow on others."""
    wal = files.wal
    if not wal.commit_ends:
        return files.log
    begins, ends = rng.choice([*zip((32, *wal.commit_ends), wal.commit_ends, strict=False)])
    new = files.log[begins:ends] if rng.random() < 0.7 else rng.randbytes(ends - begins)
    return files.log[: wal.end] + partly(new, files.log[wal.end :], rng)


def unsynced(before: Files, after: Files, rng: random.Random) -> bytes:
    """The log of a moment between the two: any part of what was written since has come to the disk, in whole
    transactions but for the last."""
    ends = [before.wal.end, *(end for end in after.wal.commit_ends if end > before.wal.end)]
    at = rng.randrange(len(ends))
    following = ends[at + 1] if at + 1 < len(ends) else len(after.log)
    return after.log[: ends[at]] + partly(after.log[ends[at] : following], before.log[ends[at] : following], rng)


def behind(before: Files, after: Files, rng: random.Random) -> bytes:
    """The main file of which some pages have not come to the disk since a moment before."""
    share = rng.random()
    pages = range(0, len(after.main), PAGE_BYTES)
    old = before.main.ljust(len(after.main), b"\0")
    return b"".join((after.main if rng.random() < share else old)[at : at + PAGE_BYTES] for at in pages)


def same_generation(before: Files, after: Files) -> bool:
    return before.wal.salts == after.wal.salts != b""


def checkpointed(before: Files, after: Files) -> bool:
    """Whether pages went into the main file in between, and the log has not been begun anew since."""
    return before.main != after.main and same_generation(before, after)


def appended(before: Files, after: Files) -> bool:
    """Whether only the log has grown in between."""
    return before.main == after.main and same_generation(before, after) and before.wal.end < after.wal.end


async def moments(world: World, rng: random.Random, kind: str) -> tuple[str, Files, Files]:
    """Two moments, the second a little later; the relay is frozen at it. A kind of state that needs something to have
    happened in between has some tries; the kind that came of it is returned, too."""
    wanted = {"behind": checkpointed, "unsynced": appended}.get(kind)
    await asyncio.sleep(rng.uniform(0.0, 0.8))
    after = await frozen(world)
    for _ in range(TRIES):
        before = after
        await world.relay.thaw()
        await asyncio.sleep(rng.uniform(0.0, 0.03))
        after = await frozen(world)
        if wanted is None or wanted(before, after):
            return kind, before, after
    return "whole", before, after


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(files_of(folder)[0])) as connection:
        yield connection


def check_integrity(folder: Path) -> None:
    with opened(folder) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        # of each job's events the sequences are 1, 2, 3 …, and the job knows how many there are
        wrong = connection.execute(
            "SELECT j.external_id, j.sequence, COUNT(e.id), MAX(e.sequence) FROM jobs AS j "
            "LEFT JOIN events AS e ON e.job_uid = j.uid GROUP BY j.uid "
            "HAVING j.sequence <> COUNT(e.id) OR j.sequence <> COALESCE(MAX(e.sequence), 0)"
        ).fetchall()
        assert wrong == []


def check_what_was_promised(folder: Path, files: Files) -> None:
    """What was acknowledged before that moment is there: registrations, and events under their ids."""
    with opened(folder) as connection:
        jobs = {row[0] for row in connection.execute("SELECT external_id FROM jobs")}
        rows = connection.execute("SELECT subject, sequence, id FROM events WHERE job_uid IS NOT NULL").fetchall()
    assert files.registered - jobs == set()
    assert files.arrived - set(rows) == set()


async def test_acknowledged_data_survives_power_loss(tmp_path: Path) -> None:
    began = time.monotonic()
    seed = f"{SEED}:power"
    print(f"KILL_TEST_SEED={SEED}")
    rng = random.Random(f"cuts:{seed}")
    made: Counter[str] = Counter()
    async with open_world(tmp_path, seed) as world:
        world.relay.constants |= CHECKPOINT
        await world.relay.serve()
        await world.relay.ready(world.session)
        await world.subscribe()
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(world.register_until(done, BURSTS_PER_SECOND))
            for number in range(CUTS):
                kind, before, after = await moments(world, rng, ("whole", "torn", "behind")[number % 3])
                await world.relay.kill()
                main = behind(before, after, rng) if kind == "behind" else after.main
                log = after.log if kind == "whole" else torn(after, rng)
                made[kind] += 1
                lay_down(tmp_path, main, log, rng)
                if rng.random() < 0.5:  # or the relay is the first who opens it
                    check_integrity(tmp_path)
                await world.relay.serve()
            done.set()
        report = await check_the_promise(world)
        print(f"{dict(made)}; {report}; {time.monotonic() - began:.1f} s")
        assert report.kills == CUTS
        await world.relay.kill()
        check_integrity(tmp_path)


async def test_copy_at_any_moment_has_everything_acknowledged_before(tmp_path: Path) -> None:
    began = time.monotonic()
    seed = f"{SEED}:copies"
    print(f"KILL_TEST_SEED={SEED}")
    rng = random.Random(f"cuts:{seed}")
    made: Counter[str] = Counter()
    async with open_world(tmp_path, seed) as world:
        world.relay.constants |= CHECKPOINT
        await world.relay.serve()
        await world.relay.ready(world.session)
        await world.subscribe()
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(world.register_until(done, BURSTS_PER_SECOND))
            for number in range(COPIES):
                wanted = ("unsynced", "behind")[number % 2]
                kind, before, after = await moments(world, rng, wanted)
                await world.relay.thaw()
                copies = [("whole", after.main, after.log, after)]
                if kind == "unsynced":
                    copies += [(kind, after.main, unsynced(before, after, rng), before) for _ in range(2)]
                elif kind == "behind":
                    copies += [(kind, behind(before, after, rng), after.log, after)]
                for kind, main, log, promised in copies:
                    made[kind] += 1
                    folder = tmp_path / f"{number}-{sum(made.values())}"
                    await check_a_copy(world, folder, main, log, promised, rng)
            done.set()
        report = await check_the_promise(world)
        print(f"{dict(made)} copies; {report}; {time.monotonic() - began:.1f} s")
        assert report.duplicates == 0


async def check_a_copy(
    world: World, folder: Path, main: bytes, log: bytes, promised: Files, rng: random.Random
) -> None:
    """Opens it with a node that answers but neither polls nor delivers, which are still the other's work."""
    folder.mkdir()
    lay_down(folder, main, log, rng)
    node = Relay(folder, database_url=f"sqlite:///{folder / 'relay.db'}", sandbox_url=world.sandbox_url)
    node.environ["XDG_STATE_HOME"] = world.relay.environ["XDG_STATE_HOME"]  # the key of the secrets
    try:
        await node.serve(roles="api")
        await node.ready(world.session)
        async with world.session.get(f"{node.url}/v1/subscriptions") as response:
            assert (response.status, len((await response.json())["items"])) == (200, 1)
        await node.kill()
    finally:
        node.close()
    check_integrity(folder)
    check_what_was_promised(folder, promised)
