"""Invalid input at every endpoint: always a problem, never a 500, and nothing is stored."""

from unittest.mock import MagicMock

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.api.catalogue import OPERATIONS
from relay.api.http.fields import ID_PATTERN
from relay.api.jobs.registration import JobRegistration, is_printable_id, read_registration
from relay.errors import InvalidRequest
from tests.support.api_world import HOOK, SETTINGS, World

WITH_BODY = [operation for operation in OPERATIONS if operation.body is not None]
MEDIA_TYPES = {"publishEvents": "application/cloudevents+json"}
BAD_DOCUMENTS = [
    *(None, -1.5, "text", [{}], {"": ""}, {"nonsense": 1}, {"id": {"id": "a"}}, {"jobs": None}, {"type": 5}),
    *({"sink": HOOK, "types": [None]}, {"sink": HOOK, "config": "webhook"}, {"a" * 5_000: 1}),
    {str(number): number for number in range(200)},
]


@pytest.mark.parametrize("document", BAD_DOCUMENTS, ids=lambda document: orjson.dumps(document).decode()[:40])
async def test_a_bad_body_is_refused_by_every_operation(client, world, document):
    await world.job("a")
    made = (await client.post("/v1/subscriptions", json={"sink": HOOK})).json()
    made["config"].pop("secret")
    for operation in WITH_BODY:
        id = "a" if operation.tag == "Jobs" else made["id"] if operation.tag == "Subscriptions" else "dlv_x"
        answer = await client.request(
            operation.method,
            operation.path.replace("{id}", id),
            content=orjson.dumps(document),
            headers={"Content-Type": MEDIA_TYPES.get(operation.id, "application/json")},
        )
        assert answer.status_code == 422 or operation.tag == "Deliveries", (operation.id, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["errors"] or operation.tag == "Deliveries"
        assert len(answer.content) < 10_000
    assert [job["id"] for job in (await client.get("/v1/jobs")).json()["items"]] == ["a"]
    assert (await client.get("/v1/subscriptions")).json()["items"] == [made]
    assert world.tracking.refreshed == []
    assert world.dispatcher.tested == []


async def test_an_invalid_registration_names_field_and_code(client) -> None:
    for body, pointer, code, words in [
        ({}, "/id", "missing", "it is missing"),
        ({"id": ""}, "/id", "invalid_text", "1 to 200 printable"),
        ({"id": "x" * 201}, "/id", "invalid_text", ""),
        ({"id": "a\nb"}, "/id", "invalid_text", ""),
        ({"id": "a\u202eb"}, "/id", "invalid_text", ""),
        ({"id": 7}, "/id", "wrong_type", "not 7"),
        ({"id": "a", "idd": 1}, "/idd", "unknown_field", "did you mean id?"),
        ({"id": "a", "priority": "HIHG"}, "/priority", "unknown_value", "did you mean high?"),
        ({"id": "a", "priority": []}, "/priority", "unknown_value", "one of low, normal, high"),
        ({"id": "a", "uid": "job_1"}, "/uid", "unknown_field", "read-only"),
        ({"id": "a", "callback": HOOK}, "/callback", "unknown_field", "did you mean callback_url?"),
        ({"id": "a", "a/b~c": 1}, "/a~1b~0c", "unknown_field", ""),
        ({"id": "a", "source": "revr"}, "/source", "unknown_source", "did you mean revor?"),
        ({"id": "a", "source": None}, "/source", "wrong_type", "null"),
        ({"id": "a", "account": "defualt"}, "/account", "unknown_account", "did you mean default?"),
        ({"id": "a", "metadata": []}, "/metadata", "wrong_type", ""),
        ({"id": "a", "callback_url": 5}, "/callback_url", "wrong_type", ""),
        ({"id": "a", "callback_url": "https://a.example/" + "x" * 2048}, "/callback_url", "too_long", ""),
        ({"id": "a", "deadline_seconds": 0}, "/deadline_seconds", "out_of_range", "not 0"),
        ({"id": "a", "deadline_seconds": 1e12}, "/deadline_seconds", "out_of_range", ""),
        ({"id": "a", "deadline_seconds": True}, "/deadline_seconds", "wrong_type", "true"),
        ({"ok": True, "item": {"name": "x"}}, "/item", "invalid_answer", "as it came"),
    ]:
        for path, sent in (("/v1/jobs", body), ("/v1/jobs/batch", {"jobs": [body]})):
            answer = await client.post(path, json=sent)
            if path == "/v1/jobs":
                assert answer.status_code == 422
                error = next(one for one in answer.json()["errors"] if one["pointer"] == pointer)
                assert error["code"] == code
                assert words in error["detail"]
            else:
                rejected = answer.json()["rejected"][0]
                assert (rejected["index"], words in rejected["detail"]) == (0, True)
        assert (await client.get("/v1/jobs")).json()["items"] == []


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=210), st.lists(st.integers())
)
GOOD = {
    "id": st.text("abc 日%", min_size=1, max_size=20),
    "source": st.just("revor"),
    "account": st.sampled_from(["default", "emea"]),
    "callback_url": st.none() | st.just(HOOK),
    "metadata": st.none() | st.dictionaries(st.text(max_size=5), st.integers()),
    "priority": st.none() | st.sampled_from(["low", "normal", "high"]),
    "deadline_seconds": st.none() | st.floats(min_value=1, max_value=1e6),
}


DEPENDENCIES = World(store=MagicMock()).dependencies()
"""Nothing is asked of its store."""
ANYTHING = {name: values | VALUES for name, values in GOOD.items()} | {"extra": VALUES}
ANYTHING["callback_url"] |= st.just("https://10.0.0.1/")


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional=ANYTHING))
def test_a_registration_is_read_as_documented_or_refused_with_its_errors(body):
    read = problem = None
    try:
        read = read_registration(body, DEPENDENCIES, "caller")
    except InvalidRequest as error:
        problem = error
    if read is None:
        assert problem.errors
        return
    assert body.keys() <= GOOD.keys()
    assert is_printable_id(read.external_id)
    assert read.account in SETTINGS.accounts[read.source]
    assert read.callback_url in (None, HOOK)
    assert read.deadline_seconds is None or read.deadline_seconds > 0


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=210))
def test_the_documented_pattern_of_ids_is_enforced(text):
    field = JobRegistration.model_json_schema()["properties"]["id"]
    assert field["pattern"] == ID_PATTERN
    try:
        JobRegistration.model_validate({"id": text})
        taken = True
    except ValueError:
        taken = False
    assert taken == (is_printable_id(text) is not None)
