"""The order of a start: what callers and subscribers wait for comes first."""

import subprocess
import sys
from pathlib import Path

SERVE = """
import sys
from relay.cli import run
from relay.server import sockets

class Listening(Exception):
    pass

def listening(host, port):
    print(*(name for name in ("relay.node.node", "relay.store.store") if name in sys.modules))
    raise Listening

sockets.listening_socket = listening
try:
    run(["serve"])
except Listening:
    pass
"""


def test_relay_listens_before_it_imports_the_rest(tmp_path: Path) -> None:
    """Imports take most of a start. Callers that came meanwhile were refused."""
    done = subprocess.run([sys.executable, "-c", SERVE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "\n", done.stderr
