"""The drawings of a job: to scale, within their frame, and inert whatever they are told."""

import lxml.html
import pytest

from relay.clock import to_rfc3339
from relay.web import hazard, timeline
from relay.web.timeline import Mark, Phase, Scale, Timeline

NOW = 1_779_271_200.0
EVIL = "<script>alert(1)</script>\"'"


def given_of(**changes):
    given = {
        "began": NOW,
        "ended": NOW + 100,
        "phases": [
            Phase(kind="queued", began=NOW, ended=NOW + 50),
            Phase(kind="running", began=NOW + 50, ended=NOW + 100),
        ],
        "polls": [],
        "events": [],
        "deliveries": [],
        "now": None,
        "deadline": None,
    }
    return Timeline(**{**given, **changes})


def timeline_of(**changes):
    return lxml.html.fromstring(timeline.draw(given_of(**changes)))


def test_hostile_labels_are_text():
    mark = Mark(kind=EVIL, at=NOW, label=EVIL)
    drawn = timeline_of(
        phases=[Phase(kind=EVIL, began=NOW, ended=NOW + 50)], polls=[mark], events=[mark], deliveries=[mark]
    )
    assert drawn.xpath("//script") == []
    assert {name for name in drawn.xpath("//*/@class") if "script" in name} == set()


@pytest.mark.parametrize("span", [0.0, 0.3, 7.0, 90.0, 5000.0, 90_000.0, 9e6, 4e8])
def test_a_scale_has_few_round_marks_within_it(span):
    scale = Scale(NOW, NOW + span, 0.0, 100.0)
    ticks = scale.ticks(NOW)
    assert 1 <= len(ticks) <= 8
    assert ticks[0] == 0
    assert all(0.0 <= scale.at(NOW + tick) <= 100.0 for tick in ticks)


def outlook_of(hazards, delays, price=2.0, change="end"):
    points = [
        {"time": to_rfc3339(NOW + 10 * index), "hazard_per_second": rate, "expected_delay_seconds": delay}
        for index, (rate, delay) in enumerate(zip(hazards, delays, strict=True))
    ]
    return {"change": change, "price_seconds": price, "points": points}


def test_the_hazard_is_drawn_with_the_price_and_the_next_poll():
    drawn = lxml.html.fromstring(hazard.draw(outlook_of([0.1, 0.2], [0.0, 4.0]), NOW + 5, NOW))
    words = drawn.xpath("//text/text()")
    assert {"next poll", "price of a poll: 2 s", "now"} <= set(words)
    price, lows = drawn.xpath("//*[@class='price']/line/@y1")[0], drawn.xpath("//polyline/@points")[1]
    assert 128 < float(price) < 204
    assert lows.split()[0].endswith("204.0")


@pytest.mark.parametrize(("time", "value"), [(-5, 0.0), (0, 0.0), (5, 2.0), (10, 4.0), (99, 4.0)])
def test_a_value_is_read_between_points(time, value):
    assert hazard.at(outlook_of([0.1, 0.2], [0.0, 4.0]), NOW + time, "expected_delay_seconds") == pytest.approx(value)
