"""Reads answered from memory: when they are, and that nothing else is called."""

import pytest

from relay.proxy.types import Caller
from tests.support.api_world import FakeGateway, answer_of

PATH = "/api/v1/outreach/jobs/a"
OPEN, ENDED = b'{"open":true}', b'{"open":false}'


@pytest.fixture
def dropin(monkeypatch):
    """A stand-in for the answers in memory, which records its calls."""
    memory: dict[str, bytes | None] = {"any": None, "ended": None}

    def from_memory(self, place, *, ended):
        assert place == ("a", "revor", "default", "")
        body = memory["ended" if ended else "any"]
        return None if body is None else answer_of(200, body)

    account = {"source": "revor", "account": "default"}
    monkeypatch.setattr(FakeGateway, "caller_for", lambda self, key, mount: Caller(**account, key=key))
    monkeypatch.setattr(FakeGateway, "job_read", lambda self, caller, *_: ("a", "revor", caller.account, ""))
    monkeypatch.setattr(FakeGateway, "from_memory", from_memory)
    return memory


@pytest.mark.parametrize(
    ("memory", "headers", "answered"),
    [
        ({}, {}, b'{"ok":true}'),
        ({"any": OPEN}, {}, OPEN),
        ({"any": OPEN}, {"Prefer": "wait=5"}, b'{"ok":true}'),
        ({"any": ENDED, "ended": ENDED}, {"Prefer": "wait=5"}, ENDED),
        ({"any": ENDED, "ended": ENDED}, {"Cache-Control": "no-cache"}, b'{"ok":true}'),
        ({"any": ENDED, "ended": ENDED}, {"Cache-Control": "max-age=0, no-store"}, b'{"ok":true}'),
    ],
)
async def test_cached_answers_are_used_where_allowed(open_client, dropin, memory, headers, answered):
    dropin.update(memory)
    client = open_client(passed_paths=("/api/v1/",))
    client.event_hooks = {}  # what passes is the upstream's, and has none of our headers
    answer = await client.get(PATH, headers={"Authorization": "Bearer sk-test", **headers})
    assert (answer.status_code, answer.content) == (200, answered)


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "x-http-method", "X-Original-URL", "X-Rewrite-URL"])
async def test_override_header_is_refused_although_the_answer_is_in_memory(open_client, dropin, header):
    dropin.update(any=ENDED, ended=ENDED)
    client = open_client(passed_paths=("/api/v1/",))
    client.event_hooks = {}
    answer = await client.get(PATH, headers={"Authorization": "Bearer sk-test", header: "DELETE"})
    assert (answer.status_code, b"overrides the method or path" in answer.content) == (400, True)
