"""A receiver that was started with the secret for callbacks, and what the commands say to bring it together with a
subscription, which has a secret of its own."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from standardwebhooks import Webhook

from tests.e2e.test_tokens import World
from tests.support.process_world import Start


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
