"""The relay as the service under test of the W3C's harness for Trace Context (`test/test.py` of w3c/trace-context).

The harness posts `[{"url", "arguments"}, …]` with headers of a trace, and wants the arguments posted to each URL. Here
an event is published with these headers, to a subscription whose sink is the URL: what the harness judges is the
relay's own delivery. In binary mode its body is the event's data, the arguments.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

NOT_OF_TRACES = (b"host", b"content-type", b"content-length", b"accept", b"accept-encoding", b"user-agent")
LOOKS = 3_000
"""For a delivery. The harness waits for five seconds."""


def adapter(api: httpx2.AsyncClient) -> Starlette:
    """The service, for a relay that is called by this client."""
    published = 0

    async def test(request: Request) -> JSONResponse:
        nonlocal published
        headers = [(name, value) for name, value in request.headers.raw if name not in NOT_OF_TRACES]
        for wanted in await request.json():
            published += 1
            await _publish(api, f"org.w3c.test.number{published}", wanted, headers)
        return JSONResponse([])

    return Starlette(routes=[Route("/test", test, methods=["POST"])])


async def _publish(
    api: httpx2.AsyncClient, type: str, wanted: Mapping[str, Any], headers: list[tuple[bytes, bytes]]
) -> None:
    body = {"sink": wanted["url"], "types": [type], "config": {"content_mode": "binary"}}
    made = await api.post("/v1/subscriptions", json=body)
    assert made.status_code == 201, made.text
    id = made.json()["id"]
    event = {"specversion": "1.0", "id": type, "source": "/harness", "type": type, "data": wanted["arguments"]}
    sent = [*headers, (b"content-type", b"application/cloudevents+json")]
    taken = await api.post("/v1/events", json=event, headers=sent)
    assert taken.status_code == 202, taken.text
    for _ in range(LOOKS):
        found = (await api.get("/v1/deliveries", params={"subscription": id, "state": "delivered"})).json()["items"]
        if found:
            break
        await asyncio.sleep(0.005)
    assert (await api.delete(f"/v1/subscriptions/{id}")).status_code == 200
