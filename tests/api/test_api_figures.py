"""`/v1/figures`: figures over time, for charts."""

import pytest

from relay.core.figures import NAMES, TimeSeries, rows_of

TIME = "2027-01-15T08:00:00.000Z"


async def counted(world, *adds):
    tally = TimeSeries()
    for name, label, ago, *value in adds:
        tally.add(name, label, world.now - ago, *value)
    await world.store.figures.add(rows_of(tally.take(100)))


async def listed(client, **query):
    answer = await client.get("/v1/figures", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_names_are_listed_in_the_order_asked_for_with_the_points_in_order(client, world):
    await counted(world, *[("events", "", ago) for ago in (3_600.0, 1.0, 0.0)], ("attempts", "", 0.0))
    shown = await listed(client, name="jobs_ended,events")
    assert (shown["span"], [(one["name"], one["label"]) for one in shown["items"]]) == (
        "hour",
        [("jobs_ended", ""), ("events", "")],
    )
    assert shown["items"][0]["points"] == []
    nothing = {"p50": None, "p95": None}
    assert shown["items"][1]["points"] == [
        {"time": "2027-01-15T07:00:00.000Z", "count": 2, "total": 2.0, **nothing},
        {"time": TIME, "count": 1, "total": 1.0, **nothing},
    ]


async def test_durations_have_quantiles_and_gauges_their_mean(client, world):
    await counted(
        world,
        *[("detection_delay_seconds", "revor/default", 0.0, value) for value in (*[1.0] * 9, 60.0)],
        *[("jobs_open", "", 0.0, value) for value in (40.0, 44.0)],
    )
    delay, open_jobs = (await listed(client, name="detection_delay_seconds,jobs_open", span="minute"))["items"]
    (point,) = delay["points"]
    assert (point["count"], point["total"]) == (10, 69.0)
    assert point["p50"] == pytest.approx(1.0, rel=0.2)
    assert point["p95"] == pytest.approx(60.0, rel=0.2)
    assert [point["total"] for point in open_jobs["points"]] == [42.0]


async def test_several_labels_have_their_figures_each(client, world):
    await counted(world, *[("jobs_ended", f"revor/{name}", 0.0) for name in ("default", "default", "emea")])
    shown = await listed(client, name="jobs_ended,jobs_failed", span="day", label="revor/emea,revor/default,revor/x")
    found = [(one["label"], one["name"], sum(point["count"] for point in one["points"])) for one in shown["items"]]
    assert found == [
        (f"revor/{label}", name, count if name == "jobs_ended" else 0)
        for label, count in (("emea", 1), ("default", 2), ("x", 0))
        for name in ("jobs_ended", "jobs_failed")
    ]


async def test_what_is_wrong_is_refused(client) -> None:
    for query, pointer, words in [
        ({"name": "jobs_endd"}, "name", ["did you mean jobs_ended? The names are: jobs_ended, jobs_failed"]),
        ({"name": ""}, "name", ["'' is unknown. The names are: jobs_ended"]),
        ({"name": ",".join([*NAMES, NAMES[0]])}, "name", [f"at most {len(NAMES)} names"]),
        ({"span": "week"}, "span", ["'week' is unknown"]),
        ({"span": "minute", "label": "revor/default"}, "span", ["have no minutes: use hour or day"]),
        ({"since": "yesterday"}, "since", ["RFC 3339"]),
        ({"label": ""}, "label", ["printable"]),
        ({"label": ",".join(f"revor/{number}" for number in range(51))}, "label", ["1 to 50 labels"]),
        ({"label": "revor/a,,revor/b"}, "label", ["printable"]),
        ({"label": ",".join(f"revor/{number}" for number in range(50))}, "label", ["50 labels of 13 names"]),
        (
            {"label": ",".join(f"revor/{number}" for number in range(14)), "since": "2000-01-01T00:00:00Z"},
            "label",
            ["14 labels of 13 names may have", "more than 40000", "a later time"],
        ),
    ]:
        answer = await client.get("/v1/figures", params=query)
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["pointer"] == pointer
        for word in words:
            assert word in error["detail"]
