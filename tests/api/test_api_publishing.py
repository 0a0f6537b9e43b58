"""`POST /v1/events`: CloudEvents of other programs."""

import pytest

EVENT = {"specversion": "1.0", "id": "a-1", "source": "/shop", "type": "com.acme.order.paid", "data": {"n": 1}}
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
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


async def test_binary_event_is_recorded(client, world):
    headers = {"Content-Type": "text/plain", **{f"ce-{name}": str(EVENT[name]) for name in EVENT if name != "data"}}
    answer = await client.post("/v1/events", content=b"hello", headers=headers)
    (item,) = answer.json()["items"]
    found = (await client.get(f"/v1/events/{item['id']}")).json()
    assert (found["data"], found["datacontenttype"]) == ("hello", "text/plain")


async def test_bad_event_takes_no_other_with_it(client, world):
    batch = [EVENT, {**EVENT, "id": "a-2", "type": ""}, EVENT, 7, {**EVENT, "id": "a-3", "type": "relay.test"}]
    answer = (await client.post("/v1/events", json=batch, headers=BATCH)).json()
    assert [(one["index"], one["known"]) for one in answer["items"]] == [(0, False), (2, True)]
    assert len({one["id"] for one in answer["items"]}) == 1
    assert [(one["index"], one["code"], one.get("pointer")) for one in answer["rejected"]] == [
        *((1, "invalid", "/type"), (3, "not_an_event", None), (4, "reserved_type", "/type"))
    ]


async def test_the_same_event_again_answers_with_the_same_id(client, world):
    first, second = [(await client.post("/v1/events", json=EVENT, headers=STRUCTURED)).json() for _ in range(2)]
    assert first["items"][0]["id"] == second["items"][0]["id"]
    assert (second["accepted"], second["known"]) == (0, 1)


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{", STRUCTURED, 400, "not_json"),
        (b'{"specversion": "1.0"}', STRUCTURED, 422, "invalid_event"),
        (b"{}", {"Content-Type": "application/json"}, 415, "unsupported_media_type"),
        (b"{}", {**STRUCTURED, "Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
        (b"{}", BATCH, 400, "not_json"),
        (b"[" + b",".join([b"{}"] * 1001) + b"]", BATCH, 422, "batch_too_long"),
        (b"[1,,2]", BATCH, 400, "not_json"),
        (b"[" + b" " * (16 << 20) + b"]", BATCH, 413, "too_large"),
        (b"x" * 262_145, {"Content-Type": "text/plain", "ce-specversion": "1.0"}, 422, "invalid_event"),
        (b"", {"ce-specversion": "1.0"}, 422, "invalid_event"),
        (b"{", {"Content-Type": "application/json", "ce-specversion": "1.0"}, 422, "invalid_event"),
    ],
)
async def test_what_cannot_be_read_is_refused(client, world, content, headers, status, code):
    answer = await client.post("/v1/events", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_empty_batch_is_taken(client, world):
    answer = await client.post("/v1/events", content=b" [ ] ", headers=BATCH)
    assert (answer.status_code, answer.json()["items"]) == (202, [])


async def test_batch_of_a_thousand_large_events_is_taken(client, world):
    batch = [{**EVENT, "id": str(n), "data": "x" * 10_000} for n in range(1000)]
    answer = await client.post("/v1/events", json=batch, headers=BATCH)
    assert (answer.status_code, answer.json()["accepted"]) == (202, 1000)
