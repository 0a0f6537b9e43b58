"""Programs that pull from a served relay: the examples in Python and Node, and `relay listen --subscription`."""

import json
import shutil
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.process_world import Start

EXAMPLES = Path(__file__).parents[2] / "examples"
MAX_LINES = 32  # with the blank lines that the formatter wants
BATCH = "application/cloudevents-batch+json"
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="NODE EXAMPLE NOT RUN: node is not here")


def call(url: str, body: Any = None, *, token: str = "", media_type: str = "application/json") -> Any:
    headers = {"Content-Type": media_type, **({"Authorization": f"Bearer {token}"} if token else {})}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=120) as response:
        return json.load(response)


def publish(url: str, first: int, last: int) -> None:
    events = [
        {"specversion": "1.0", "id": str(n), "source": "/shop", "type": "com.acme.x", "subject": f"s{n}"}
        for n in range(first, last + 1)
    ]
    call(f"{url}/v1/events", [{**one, "partitionkey": "k"} for one in events], media_type=BATCH)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param([sys.executable, str(EXAMPLES / "pull.py")], id="python"),
        pytest.param(["node", str(EXAMPLES / "pull.mjs")], id="node", marks=needs_node),
        pytest.param(None, id="relay listen"),
    ],
)
def test_program_gets_every_event_once_and_in_order(start: Start, program: list[str] | None) -> None:
    relay = start("serve", "--dev", "--port", "0", REVOR_API_KEY="sk-test", REVOR_BASE_URL="http://127.0.0.1:9")
    url = relay.until(r"serving (http://\S+)")
    sub = call(f"{url}/v1/subscriptions", {"protocol": "PULL", "types": ["com.acme.x"]})["id"]
    token = call(f"{url}/v1/tokens", {"name": "worker", "scopes": ["deliveries:write"]})["token"]
    publish(url, 1, 3)
    variables = {"RELAY_URL": url, "RELAY_TOKEN": token}
    if program is None:
        puller = start("listen", "--subscription", sub, **variables)
        puller.until(f"^ready: pulling {sub}")
    else:
        puller = start(sub, program=program, **variables)
    for n in (1, 2, 3):
        puller.until(rf"com\.acme\.x s{n}")
    publish(url, 4, 5)
    for n in (4, 5):
        puller.until(rf"com\.acme\.x s{n}")
    publish(url, 6, 6)
    puller.until(r"com\.acme\.x s6")  # the acknowledgements of the others are in
    puller.end(signal.SIGINT)
    found = call(f"{url}/v1/deliveries?subscription={sub}")["items"]
    ended = [one["state"] for one in reversed(found)]
    assert ended[:5] == ["delivered"] * 5
    assert [one["attempt_count"] for one in found[1:]] == [1] * 5
    subjects = [line.split("s")[-1] for line in puller.lines if "com.acme.x" in line]
    assert subjects == [str(n) for n in range(1, 7)]
    assert relay.end() == 0


@pytest.mark.parametrize("name", ["pull.py", "pull.mjs"])
def test_examples_are_short_and_need_nothing_else(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert "require(" not in text
    assert "import " not in text or name == "pull.py"
