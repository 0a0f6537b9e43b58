"""A receiver that was started with the secret for callbacks, and what the commands say to bring it together with a
subscription, which has a secret of its own."""

import base64
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from standardwebhooks import Webhook

from tests.e2e.test_tokens import World
from tests.support.process_world import Start

ROOT = Path(__file__).parents[2]


class Receiver(ThreadingHTTPServer):
    """Answers 401 unless a request is signed with `secret`, as the receivers of the README do."""

    secret = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            Webhook(self.server.secret).verify(body, dict(self.headers))
        except Exception:
            self.send_response(401)
        else:
            self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_receiver_of_the_readme_runs_as_written_with_its_secret(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = [part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "HTTPServer" in part]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = tmp_path / "receiver.py"
    file.write_text(code.replace("3000", str(port)))
    environ = {name: value for name, value in os.environ.items() if name != "WEBHOOK_SECRET"}
    refused = subprocess.run(
        [sys.executable, file], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert (refused.returncode, refused.stderr) == (1, "run first: export WEBHOOK_SECRET=$(relay signing-secret)\n")
    secret = "whsec_" + base64.b64encode(bytes(32)).decode()
    running = subprocess.Popen(
        [sys.executable, "-u", file], env={**environ, "WEBHOOK_SECRET": secret}, stdout=subprocess.PIPE, text=True
    )
    try:
        body, now = '{"type": "ai.revor.job.failed", "subject": "7f0c", "sequence": "0000000003"}', datetime.now(UTC)
        headers = {"webhook-id": "evt_1", "webhook-timestamp": str(int(now.timestamp()))}
        for signer, status in ((Webhook(secret), 204), (Webhook(secret), 204), (Webhook("whsec_" + "B" * 44), 401)):
            headers["webhook-signature"] = signer.sign("evt_1", now, body)
            answer = httpx2.Client(transport=httpx2.HTTPTransport(retries=20)).post(
                f"http://127.0.0.1:{port}/hook", content=body, headers=headers
            )
            assert answer.status_code == status
    finally:
        running.terminate()
        out, _ = running.communicate(timeout=30)
    assert out == "ai.revor.job.failed 7f0c 0000000003\n", "the second one is known"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_what_the_command_says_makes_the_receiver_accept(start: Start, receiver: Receiver) -> None:
    world = World(start, "--dev")
    receiver.secret = world.run("signing-secret")[1][0]
    code, lines = world.run("subscriptions", "add", receiver.url)
    printed = "\n".join(lines)
    assert (code, "not accepted (http_401)" in printed) == (1, True), printed
    id, own = re.findall(r"sub_\w+", printed)[0], re.findall(r"whsec_\S+", printed)[0]

    remove, add = re.findall(r"relay (subscriptions \w+) ", printed.partition("use the receiver's")[2])
    assert world.run(*remove.split(), id)[0] == 0
    code, lines = world.run(*add.split(), receiver.url, "--secret", receiver.secret)
    assert (code, "the sample was accepted" in "\n".join(lines)) == (0, True), lines

    id = re.findall(r"sub_\w+", "\n".join(lines))[0]
    receiver.secret = own
    code, lines = world.run("subscriptions", "test", id)
    assert code == 1
    rotate = re.findall(r"relay (subscriptions rotate-secret \S+)", "\n".join(lines))[0]
    receiver.secret = re.findall(r"whsec_\S+", world.run(*rotate.split())[1][0])[0]
    assert world.run("subscriptions", "test", id)[0] == 0
