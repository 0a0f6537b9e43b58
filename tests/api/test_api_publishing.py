"""`POST /v1/events`: CloudEvents of other programs."""

import asyncio
import time

import pytest

from relay.api.events.publishing import CHUNK_BYTES
from relay.api.http.dependencies import Token
from relay.core.jsontext import dumps
from tests.support.loop_watch import LoopWatch

EVENT = {"specversion": "1.0", "id": "a-1", "source": "/shop", "type": "com.acme.order.paid", "data": {"n": 1}}
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
UNSUPPORTED = "unsupported_media_type"
BATCH = {"Content-Type": "application/cloudevents-batch+json"}


async def test_structured_event_is_recorded_before_the_answer(client, world):
    answer = await client.post("/v1/events", json=EVENT, headers=STRUCTURED)
    assert answer.status_code == 202
    (item,) = answer.json()["items"]
    assert answer.json() == {
        **{"accepted": 1, "known": 0, "rejected": []},
        "items": [{"index": 0, "id": item["id"], "known": False}],
    }
    assert (await client.get(f"/v1/events/{item['id']}")).json() == EVENT


async def test_bad_event_takes_no_other_with_it(client, world):
    batch = [EVENT, {**EVENT, "id": "a-2", "type": ""}, EVENT, 7, {**EVENT, "id": "a-3", "type": "relay.test"}]
    answer = (await client.post("/v1/events", json=batch, headers=BATCH)).json()
    assert [(one["index"], one["known"]) for one in answer["items"]] == [(0, False), (2, True)]
    assert len({one["id"] for one in answer["items"]}) == 1
    assert [(one["index"], one["code"], one.get("pointer")) for one in answer["rejected"]] == [
        *((1, "invalid", "/type"), (3, "not_an_event", None), (4, "reserved_type", "/type"))
    ]


async def test_transactions_have_few_events_and_few_bytes(client, world, monkeypatch):
    sizes = []
    record = world.store.published.record

    async def recorded(publications):
        sizes.append((len(publications), sum(len(one.event.body) for one in publications)))
        return await record(publications)

    monkeypatch.setattr(world.store.published, "record", recorded)
    small = [{**EVENT, "id": f"s{n}"} for n in range(250)]
    large = [{**EVENT, "id": f"l{n}", "data": "x" * 200_000} for n in range(30)]
    answer = await client.post("/v1/events", json=[*small, *large], headers=BATCH)
    assert answer.json()["accepted"] == 280
    assert [count for count, _ in sizes] == [100, 100, 60, 10, 10]
    assert max(size for _, size in sizes) <= CHUNK_BYTES


async def test_few_large_batches_are_in_memory_as_events_at_once(client, world, monkeypatch):
    reading, most = [], []
    record = world.store.published.record

    async def recorded(publications):
        reading.append(1)
        most.append(len(reading))
        try:
            return await record(publications)
        finally:
            reading.pop()

    monkeypatch.setattr(world.store.published, "record", recorded)
    large = [[{**EVENT, "id": f"{n} {m}", "data": "x" * 200_000} for m in range(6)] for n in range(6)]
    answers = await asyncio.gather(*(client.post("/v1/events", json=one, headers=BATCH) for one in large))
    assert [one.json()["accepted"] for one in answers] == [6] * 6
    assert max(most) == 2
    small = [[{**EVENT, "id": f"s{n}"}] for n in range(6)]
    await asyncio.gather(*(client.post("/v1/events", json=one, headers=BATCH) for one in small))
    assert max(most) > 2


async def test_the_same_event_again_answers_with_the_same_id(client, world):
    first, second = [(await client.post("/v1/events", json=EVENT, headers=STRUCTURED)).json() for _ in range(2)]
    assert first["items"][0]["id"] == second["items"][0]["id"]
    assert (second["accepted"], second["known"]) == (0, 1)


async def test_other_event_with_the_id_of_one_is_refused_and_not_lost_in_silence(client, world):
    other = {**EVENT, "type": "com.acme.order.sent"}
    batch = [EVENT, other, 7, {**EVENT, "data": "another time"}, {**EVENT, "id": "a-2"}]
    answer = (await client.post("/v1/events", json=batch, headers=BATCH)).json()
    assert [(one["index"], one["known"]) for one in answer["items"]] == [(0, False), (3, True), (4, False)]
    assert [(one["index"], one["code"]) for one in answer["rejected"]] == [(1, "id_taken"), (2, "not_an_event")]
    alone = await client.post("/v1/events", json=other, headers=STRUCTURED)
    assert (alone.status_code, alone.json()["errors"][0]["code"]) == (422, "id_taken")
    assert "evt_" not in alone.text


async def test_what_cannot_be_read_is_refused(client, world) -> None:
    for content, headers, status, code in [
        (b"{", STRUCTURED, 400, "not_json"),
        (b'{"specversion": "1.0"}', STRUCTURED, 422, "invalid_event"),
        (b"{}", {"Content-Type": "application/json"}, 415, UNSUPPORTED),
        (b"{}", {**STRUCTURED, "Content-Encoding": "gzip"}, 415, UNSUPPORTED),
        (b"{}", BATCH, 400, "not_json"),
        (b"[" + b",".join([b"{}"] * 1001) + b"]", BATCH, 422, "batch_too_long"),
        (b"[1,,2]", BATCH, 400, "not_json"),
        (b"[" + b" " * (16 << 20) + b"]", BATCH, 413, "too_large"),
        (b"x" * 262_145, {"Content-Type": "text/plain", "ce-specversion": "1.0"}, 422, "invalid_event"),
        (b"", {"ce-specversion": "1.0"}, 422, "invalid_event"),
        (b"[" * (1 << 21), STRUCTURED, 422, "invalid_event"),
        (b"{", {"Content-Type": "application/json", "ce-specversion": "1.0"}, 422, "invalid_event"),
        (b"<a/>", {"Content-Type": "application/cloudevents+xml", "ce-specversion": "1.0"}, 415, UNSUPPORTED),
        (b"{}", {**STRUCTURED, "ce-specversion": "1.0"}, 422, "invalid_event"),
        *[
            (b"[]", {"Content-Type": f"{one['Content-Type']}; charset=iso-8859-1"}, 415, UNSUPPORTED)
            for one in (STRUCTURED, BATCH)
        ],
        (b"[", [*BATCH.items(), *(("Content-Encoding", one) for one in ("identity", "gzip"))], 415, UNSUPPORTED),
        (b"{}", {"Content-Encoding": "br", "ce-specversion": "1.0"}, 415, UNSUPPORTED),
    ]:
        answer = await client.post("/v1/events", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_batch_of_a_thousand_large_events_leaves_others_their_turn(client, world):
    batch = [{**EVENT, "id": str(n), "partitionkey": f"k{n % 50}", "data": "x" * 16_000} for n in range(1000)]
    body = dumps(batch)
    answers = []

    async def watch():
        while True:
            began = time.perf_counter()
            answers.append(((await client.get("/livez")).status_code, time.perf_counter() - began))
            await asyncio.sleep(0.002)

    watching = asyncio.create_task(watch())
    async with LoopWatch() as loop:
        answer = await client.post("/v1/events", content=body, headers=BATCH)
    watching.cancel()
    assert (answer.status_code, answer.json()["accepted"]) == (202, 1000)
    assert {status for status, _ in answers} == {200}
    assert len(answers) > 20
    assert loop.longest_cpu_seconds < 0.25


def limited(*scopes):
    return (Token(name="shop", value="t" * 20, scopes=frozenset(scopes)),)


async def test_token_publishes_the_types_that_its_scopes_name(open_client) -> None:
    for scopes, type, status, code in [
        (["events:write"], "com.acme.order.paid", 202, None),
        (["admin"], "com.acme.order.paid", 202, None),
        (["events:write:com.acme."], "com.acme.order.paid", 202, None),
        (["events:write:org.", "events:write:com.acme."], "com.acme.order.paid", 202, None),
        (["events:write:com.acme."], "com.acmeother.order.paid", 403, "type_not_allowed"),
        (["events:write:com.acme.", "read"], "org.other.paid", 403, "type_not_allowed"),
        (["read", "jobs:write"], "com.acme.order.paid", 403, "scope_missing"),
    ]:
        client = open_client(tokens=limited(*scopes))
        headers = {**STRUCTURED, "Authorization": f"Bearer {'t' * 20}"}
        answer = await client.post("/v1/events", json={**EVENT, "type": type}, headers=headers)
        assert (answer.status_code, answer.json().get("code")) == (status, code)
        assert code != "type_not_allowed" or "com.acme." in answer.json()["detail"]


async def test_stream_has_the_relays_id_of_an_event(client, world):
    first, second = [
        (await client.post("/v1/events", json={**EVENT, "id": id}, headers=STRUCTURED)).json()["items"][0]["id"]
        for id in ("a-1", "a-2")
    ]
    world.node.stopping = True
    answer = await client.get("/v1/events/stream", headers={"Last-Event-ID": first})
    assert answer.status_code == 200
    tail = await world.store.events.tail(await world.store.events.position_of(first))
    assert [event.id for _, event in tail.events] == [second]


@pytest.mark.parametrize("data", ["x" * 262_000, {"n": [[1]] * 3}, 1e308, "\N{GRINNING FACE}\u2028"])
async def test_data_is_sent_as_it_came(client, world, data):
    answer = await client.post("/v1/events", json={**EVENT, "data": data}, headers=STRUCTURED)
    assert answer.status_code == 202
    id = answer.json()["items"][0]["id"]
    assert (await client.get(f"/v1/events/{id}")).json()["data"] == data
