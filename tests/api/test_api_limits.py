import asyncio
import gc
import sys

import orjson
import pytest

from relay.api.app import create_api
from relay.api.http.limits import MAX_BATCH_BODY_BYTES, MAX_BODY_BYTES
from relay.api.jobs.registration import MAX_METADATA_BYTES, read_batch
from relay.core.jsontext import dumps

JSON = {"Content-Type": "application/json"}


def nested(depth):
    return b'{"id":"a","metadata":' + b'{"a":' * (depth - 1) + b"1" + b"}" * (depth - 1) + b"}"


async def test_a_body_that_is_not_json_is_400(client) -> None:
    for body, code in [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"{'id': 'a'}", "not_json"),
        (b'{"id":"a"} x', "not_json"),
        (b'{"id":NaN}', "not_json"),
        (b"\xff\xfe{\x00}\x00", "not_json"),
        ('{"id":"ä"}'.encode("latin-1"), "not_json"),
        ('{"id":"a"}'.encode("utf-16"), "not_json"),
        (b'\xef\xbb\xbf{"id":"a"}', "not_json"),
        (b'{"id":"a\x00"}', "not_json"),
        (b"[" * 5_000 + b"]" * 5_000, "not_json"),
        (nested(65), "too_deep"),
        (b'{"id":"a","metadata":{"a":' + b"[" * 200 + b"]" * 200 + b"}}", "too_deep"),
    ]:
        for path in ("/v1/jobs", "/v1/jobs/batch", "/v1/subscriptions"):
            answer = await client.post(path, content=body, headers=JSON)
            assert (answer.status_code, answer.json()["code"]) == (400, code)
        assert (await client.get("/v1/jobs")).json()["items"] == []


async def test_metadata_may_have_64_levels(client):
    answer = await client.post("/v1/jobs", content=nested(64), headers=JSON)
    assert answer.status_code == 201
    assert answer.json()["metadata"] == orjson.loads(nested(64))["metadata"]


async def test_the_last_of_a_repeated_key_counts(client):
    answer = await client.post("/v1/jobs", content=b'{"id":"a","id":"b"}', headers=JSON)
    assert (answer.status_code, answer.json()["id"]) == (201, "b")


@pytest.mark.parametrize(
    ("content_type", "taken"),
    [
        ("application/json", True),
        ("Application/JSON; Charset=UTF-8", True),
        ('application/json;charset="utf-8"', True),
        ("application/json; charset=utf-8; x=y", True),
        ("application/json; charset=latin-1", False),
        ("application/json; charset=utf-16", False),
        ("application/cloudevents+json", False),
        ("text/json", False),
        ("text/plain", False),
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data; boundary=x", False),
        ("", False),
        (None, False),
    ],
)
async def test_only_json_in_utf_8_is_accepted(client, content_type, taken):
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await client.post("/v1/jobs", content=b'{"id":"a"}', headers=headers)
    assert answer.status_code == (201 if taken else 415)
    if not taken:
        assert answer.json()["code"] == "unsupported_media_type"


async def test_a_compressed_body_is_refused(client):
    answer = await client.post("/v1/jobs", content=b"\x1f\x8b", headers=JSON | {"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    answer = await client.post("/v1/jobs", content=b'{"id":"a"}', headers=JSON | {"Content-Encoding": "identity"})
    assert answer.status_code == 201


async def test_a_body_declared_too_large_is_not_read(world):
    statuses = await post_raw(world, "/v1/jobs", [(b"content-length", str(MAX_BODY_BYTES + 1).encode())], None)
    assert statuses == [413]
    statuses = await post_raw(world, "/v1/jobs", [(b"content-length", b"9" * 40)], None)
    assert statuses == [413]


@pytest.mark.parametrize(("path", "most"), [("/v1/jobs", MAX_BODY_BYTES), ("/v1/jobs/batch", MAX_BATCH_BODY_BYTES)])
async def test_a_chunked_body_is_cut_off_at_the_limit(world, path, most):
    chunk = b" " * (1 << 18)
    read = []

    async def receive():
        read.append(1)
        return {"type": "http.request", "body": chunk, "more_body": True}

    assert await post_raw(world, path, [], receive) == [413]
    assert len(read) == most // len(chunk) + 1


async def test_bodies_in_memory_are_limited_in_total_and_for_each_caller(world):
    api = create_api(world.dependencies(), world.proxy)
    bodies = api.context.dependencies.admission.bodies
    bodies.limit, bodies.limit_of_owner = 5 << 20, 3 << 20

    full = asyncio.Event()

    async def never_ends():
        if bodies.taken > 2 << 20:
            full.set()
            await asyncio.Event().wait()
        return {"type": "http.request", "body": bytes(1 << 20), "more_body": True}

    holding = asyncio.create_task(call_raw(api, "/v1/jobs/batch", [], never_ends))
    await full.wait()
    assert bodies.taken == 3 << 20
    statuses = await call_raw(api, "/v1/jobs/batch", [], parts(1 << 20, 2))
    assert statuses == [503]
    bodies.limit_of_owner = 5 << 20
    assert await call_raw(api, "/v1/jobs/batch", [], parts(1 << 20, 2)) == [400]  # not JSON
    assert await call_raw(api, "/v1/jobs/batch", [], parts(1 << 20, 3)) == [400]
    assert await call_raw(api, "/v1/jobs/batch", [], parts(1 << 20, 4)) == [503]
    holding.cancel()
    await asyncio.wait([holding])
    assert (bodies.taken, bodies._of_owner) == (0, {})


def parts(size, count):
    """A body in so many parts."""
    left = count

    async def receive():
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": bytes(size), "more_body": left > 0}

    return receive


def batch_of(*entries):
    return b'{"jobs":[' + b",".join(entries) + b"]}"


async def test_a_body_of_too_many_objects_is_refused(client):
    for path, body in (
        ("/v1/jobs/batch", batch_of(*[b"[" + b"[]," * 200 + b"[]]"] * 9_000)),
        ("/v1/jobs", b'{"id":"a","metadata":{"a":[' + b"{}," * 20_000 + b"{}]}}"),
    ):
        answer = await client.post(path, content=body, headers=JSON)
        assert (answer.status_code, answer.json()["code"]) == (400, "too_complex")
    answer = await client.post("/v1/jobs/batch", content=batch_of(*[b"{}"] * 10_001), headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "batch_too_long")


async def test_an_entry_of_a_batch_has_the_limits_of_a_body(client):
    large = b'{"id":"' + b"x" * MAX_BODY_BYTES + b'"}'
    complex = b'{"id":"a","metadata":{"a":[' + b"[]," * 100_000 + b"[]]}}"
    wide = orjson.dumps({"id": "b", **{f"k{n}": 1 for n in range(50_000)}})
    entries = [b'{"id":"first"}', large, b'{"id":"second"}', complex, wide, b'{"id":"third"}']
    answer = await client.post("/v1/jobs/batch", content=batch_of(*entries), headers=JSON)
    assert (answer.status_code, answer.json()["created"]) == (200, 3)
    rejected = [(one["index"], one["code"]) for one in answer.json()["rejected"]]
    assert rejected == [(1, "too_large"), (3, "too_complex"), (4, "unknown_field")]


async def test_a_large_batch_that_is_not_json_is_400(client) -> None:
    for inside in [b"{},,{}", b",{}", b"{},", b"{}]", b"[", b"{}],[{}", b'"', b"{} {}", b'{}],"jobs":[{}']:
        filling = b",".join(b'{"id":"job-%d"}' % number for number in range(5_000))
        for body in (b'{"jobs":[' + filling + b"," + inside + b"]}", b'{"jobs":[' + inside + b"," + filling + b"]}"):
            answer = await client.post("/v1/jobs/batch", content=body, headers=JSON)
            assert (answer.status_code, answer.json()["code"]) == (400, "not_json")
        assert (await client.get("/v1/jobs")).json()["items"] == []


async def test_a_large_batch_is_registered_like_a_small_one(client):
    entries = [
        dumps({"id": f'job "{number}', "metadata": {"text": "]},{[" * 50, "n": 2**70 if number % 7 else [[]]}})
        for number in range(2_000)
    ]
    body = b' {\n"jobs" : [' + b" ,\n".join(entries) + b"\n]\t} \n"
    answer = await client.post("/v1/jobs/batch", content=body, headers=JSON)
    assert answer.json() == {"created": 2_000, "existing": 0, "rejected": []}
    page = (await client.get("/v1/jobs", params={"limit": 500})).json()["items"]
    assert {job["metadata"]["text"] for job in page} == {"]},{[" * 50}
    deep = batch_of(*entries, nested(65))
    answer = await client.post("/v1/jobs/batch", content=deep, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (400, "too_deep")
    named_twice = body.strip().removesuffix(b"}") + b',"more":1}'
    answer = await client.post("/v1/jobs/batch", content=named_twice, headers=JSON)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "unknown_field")
    answer = await client.post("/v1/jobs/batch", content=named_twice.ljust(MAX_BODY_BYTES) + b" ", headers=JSON)
    assert answer.status_code == 422
    answer = await client.post("/v1/jobs/batch", content=b'{"job":"' + b"x" * MAX_BODY_BYTES + b'"}', headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (400, "not_json")


async def test_few_of_many_mistakes_are_named(client):
    body = {"id": "a", **{f"metadatum{n}": 1 for n in range(10_000)}}
    answer = await client.post("/v1/jobs", json=body)
    assert (answer.status_code, len(answer.json()["errors"])) == (422, 20)
    assert {one["code"] for one in answer.json()["errors"]} == {"unknown_field"}
    sink = {"sink": "https://hooks.example/x", "config": body, "protocolsettings": body}
    answer = await client.post("/v1/subscriptions", json=sink)
    assert (answer.status_code, len(answer.json()["errors"])) == (422, 20)
    sink = {"sink": "https://hooks.example/x", "protocolsettings": {"headers": body}}
    answer = await client.post("/v1/subscriptions", json=sink)
    assert [one["code"] for one in answer.json()["errors"]] == ["too_long"]
    entries = [{"id": "a", **{f"{n}metadat{at}": 1 for at in range(590)}} for n in range(1_000)]
    answer = await client.post("/v1/jobs/batch", json={"jobs": entries})
    details = [one["detail"] for one in answer.json()["rejected"]]
    assert len(details) == 1_000
    assert sum("did you mean metadata?" in detail for detail in details) < 500
    assert all("there is no field" in detail for detail in details)


async def test_metadata_at_the_limit(client):
    fits = "x" * (MAX_METADATA_BYTES - len(b'{"a":""}'))
    assert (await client.post("/v1/jobs", json={"id": "a", "metadata": {"a": fits}})).status_code == 201
    answer = await client.post("/v1/jobs", json={"id": "b", "metadata": {"a": fits + "x"}})
    assert answer.status_code == 422
    assert answer.json()["errors"][0] | {"detail": ""} == {"pointer": "/metadata", "code": "too_large", "detail": ""}
    assert (await client.get("/v1/jobs/b")).status_code == 404


async def post_raw(world, path, headers, receive):
    """The status of one POST sent directly to the app."""
    return await call_raw(create_api(world.dependencies(), world.proxy), path, headers, receive)


async def call_raw(api, path, headers, receive):
    statuses = []

    async def send(message):
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), *headers],
        "client": ("127.0.0.1", 5000),
        "scheme": "http",
        "root_path": "",
        "http_version": "1.1",
        "asgi": {"version": "3.0"},
    }
    await api(scope, receive, send)
    return statuses


async def test_body_of_a_batch_is_not_kept_by_its_rejected_entries():
    body = b'{"jobs":["' + b"a" * (MAX_BODY_BYTES + 1) + b'"]}'
    gc.disable()
    try:
        before = sys.getrefcount(body)
        _, rejected = await read_batch(body, None, "")
        assert [one["code"] for one in rejected] == ["too_large"]
        assert sys.getrefcount(body) == before
    finally:
        gc.enable()
