"""Reads `deploy/systemd/revor-relay.service`, and runs the relay as it says: as systemd would, in a folder of the test.

The paths of the unit are below that folder. What only systemd can do (mount namespaces, another user) is left out.
"""

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from relay.server.sockets import listening_socket
from tests.support.process_world import Process, Start

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy" / "systemd"
SERVICE = UNITS / "revor-relay.service"
SOCKET = UNITS / "revor-relay.socket"
CREDENTIALS = "/run/credentials/revor-relay.service"
PLACES = ("/opt/", "/etc/revor-relay", "/etc/systemd/system/", "/etc/nginx/conf.d/", "/var/lib", CREDENTIALS)
"""The paths that the unit, its settings and the guide name."""
MDWE_SINCE = (6, 3)


def directives(path: Path) -> dict[str, list[str]]:
    """The values of each directive in the file, in order."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if re.match(r"\w+=", line):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def call_sets() -> Mapping[str, list[str]]:
    """systemd's sets of system calls: the names in each, with sets in sets."""
    ran = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, list[str]] = {}
    name = ""
    for line in ran.stdout.splitlines():
        word = line.strip()
        if line.startswith("@"):
            found[name := word] = []
        elif word and not word.startswith("#") and line.startswith(" "):
            found[name].append(word)
    return found


def allowed_calls() -> set[str]:
    """The system calls that the unit allows."""
    sets = call_sets()

    def expanded(name: str) -> set[str]:
        return set().union(*map(expanded, sets[name])) if name.startswith("@") else {name}

    allowed: set[str] = set()
    for value in directives(SERVICE)["SystemCallFilter"]:
        named = set().union(*(expanded(name) for name in value.removeprefix("~").split()))
        allowed = allowed - named if value.startswith("~") else allowed | named
    return allowed


def below(folder: Path, text: str) -> str:
    """The text with the unit's paths below the folder."""
    return re.sub("|".join(map(re.escape, PLACES)), lambda place: f"{folder}{place[0]}", text)


class UnitRunner:
    """Starts and stops the service in a folder where the unit's files are below `/etc`, `/var/lib` and so on."""

    def __init__(self, start: Start, folder: Path, *, confined: bool = True) -> None:
        self.folder = folder
        self.service = directives(SERVICE)
        self.process: Process | None = None
        self._start = start
        self._confined = confined
        self._held: socket.socket | None = None
        for name in ("/var/lib/revor-relay", CREDENTIALS):
            Path(below(folder, name)).mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def is_open(self) -> bool:
        """Whether the socket unit is started."""
        return self._held is not None

    @property
    def port(self) -> int:
        assert self._held is not None
        return int(self._held.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open_socket(self) -> None:
        """`systemctl start revor-relay.socket`, on a free port."""
        if self._held is None:
            self._held = listening_socket("127.0.0.1", 0)

    def close_socket(self) -> None:
        """`systemctl stop revor-relay.socket`."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def begin(self, **variables: str) -> Process:
        """`systemctl start revor-relay.service`; returns once it has reported that it is ready."""
        self.open_socket()
        assert self._held is not None
        for credential in self.service["LoadCredential"]:
            name, _, path = credential.partition(":")
            place = Path(below(self.folder, f"{CREDENTIALS}/{name}"))
            place.unlink(missing_ok=True)
            place.write_bytes(Path(below(self.folder, path)).read_bytes())
            place.chmod(0o400)
        settings = Path(below(self.folder, "/etc/revor-relay/relay.yaml"))
        text = settings.read_text()
        if str(self.folder) not in text:
            settings.write_text(below(self.folder, text))
        environ = dict(value.split("=", 1) for value in self.service["Environment"])
        environ = {name: below(self.folder, value) for name, value in environ.items()}
        command = [below(self.folder, word) for word in shlex.split(self.service["ExecStart"][0])]
        address = self.folder / "notify"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(address))
            manager.settimeout(120)
            number = self._held.fileno()
            self.process = self._start(
                program=(
                    sys.executable,
                    str(ROOT / "tests" / "support" / "confine.py"),
                    self._plan(),
                    str(number),
                    *command,
                ),
                pass_fds=(number,),
                **{**environ, "NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "60000000", **variables},
            )
            try:
                assert manager.recv(100) == b"READY=1"
            except TimeoutError:
                self.process.end(signal.SIGKILL)
                raise AssertionError(self.process.lines) from None
        return self.process

    def reload(self) -> None:
        """`systemctl reload revor-relay`."""
        assert self.process is not None
        assert self.service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
        self.process.popen.send_signal(signal.SIGHUP)

    def end(self) -> int:
        """`systemctl stop revor-relay.service`. Returns its exit code."""
        assert self.process is not None
        return self.process.end()

    def _plan(self) -> str:
        families = [getattr(socket, name) for name in self.service["RestrictAddressFamilies"][0].split()]
        release = tuple(map(int, re.findall(r"\d+", Path("/proc/sys/kernel/osrelease").read_text())[:2]))
        path = self.folder / "confinement.json"
        plan = {
            "umask": int(self.service["UMask"][0], 8),
            "open_files": int(self.service["LimitNOFILE"][0]),
            "families": families,
            "calls": sorted(allowed_calls()) if self._confined else [],
            "needs_mdwe": release >= MDWE_SINCE,
        }
        path.write_text(json.dumps(plan))
        return str(path)


def can_confine() -> bool:
    """Whether this machine has what `confine.py` needs."""
    import ctypes.util

    return shutil.which("systemd-analyze") is not None and ctypes.util.find_library("seccomp") is not None
