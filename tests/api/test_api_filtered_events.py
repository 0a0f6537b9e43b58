"""`type` and `filters` of `GET /v1/events/stream`, and `filters` of `GET /v1/events`."""

import json

import pytest

from relay.api.events import events
from relay.api.http import stream
from tests.support.store_kit import publication

LINKEDIN = {"exact": {"subject": "linkedin"}}


async def publish(world, *subjects, **members):
    """Publishes an event about each subject. Returns the relay's ids."""
    made = [
        publication(f"{world.now} {subject} {nth}", subject=subject, **members) for nth, subject in enumerate(subjects)
    ]
    await world.store.published.record(made)
    return [one.event.id for one in made]


def ids(answer):
    return [line[4:] for line in answer.text.splitlines() if line.startswith("id: ")]


def steps(world, *given):
    async def silence():
        return False

    world.signals.steps = [*given, silence]


async def streamed(client, filters, **query):
    answer = await client.get("/v1/events/stream", params={"filters": json.dumps(filters), **query})
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize(
    ("filters", "shown"),
    [
        (LINKEDIN, [0]),
        ([LINKEDIN], [0]),
        ([{"not": LINKEDIN}], [1, 2]),
        ([{"any": [LINKEDIN, {"prefix": {"subject": "wh"}}]}], [0, 2]),
        ([{"range": {"/data/n": {"gt": 3}}}], [0, 1, 2]),
        ([{"range": {"/data/absent": {"gt": 3}}}], []),
    ],
)
async def test_stream_shows_what_passes_the_filters(client, world, filters, shown):
    made = []

    async def published():
        made.extend(await publish(world, "linkedin", "email", "whatsapp", data={"n": 4}))
        return True

    steps(world, published)
    assert ids(await streamed(client, filters)) == [made[n] for n in shown]


async def test_stream_resumes_behind_events_that_it_does_not_show(client, world, monkeypatch):
    monkeypatch.setattr(stream, "PAGE_COUNT", 2)
    made = await publish(world, "linkedin", *["email"] * 7, "linkedin")
    answer = await client.get(
        "/v1/events/stream", params={"filters": json.dumps(LINKEDIN)}, headers={"Last-Event-ID": made[0]}
    )
    assert ids(answer) == [made[-1]]


async def test_wrong_filters_are_refused_with_the_place(client) -> None:
    for filters, said in [
        ("{", "it is not JSON"),
        ("7", "filters/0"),
        ('{"exact": {"chanel": "x"}}', "did you mean 'channel'?"),
        ('[{"exakt": {"type": "x"}}]', "filters/0"),
        ('[{"cel": "1 + 1"}]', "filters/0/cel"),
        (json.dumps([LINKEDIN] * 33), "at most 32 comparisons"),
        ("[" + " " * events.MAX_CHARACTERS + "]", "at most 8,000 characters"),
    ]:
        for path in ["/v1/events", "/v1/events/stream"]:
            answer = await client.get(path, params={"filters": filters})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")
            assert said in json.dumps(answer.json())


async def test_list_shows_what_passes_the_filters_page_by_page(client, world):
    made = await publish(world, "linkedin", "email", "email", "linkedin", "email")
    found, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        query = {"filters": json.dumps(LINKEDIN), "limit": 2, **({} if cursor is None else {"cursor": cursor})}
        page = (await client.get("/v1/events", params=query)).json()
        found += page["ids"]
        cursor, pages = page["next_cursor"], pages + 1
    assert found == [made[3], made[0]]
    assert pages == 3
