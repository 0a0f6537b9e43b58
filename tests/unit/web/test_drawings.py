"""The drawings of a job: to scale, within their frame, and inert whatever they are told."""

import lxml.html
import pytest

from relay.clock import to_rfc3339
from relay.web.drawings import hazard, timeline
from relay.web.drawings.scale import Scale
from relay.web.drawings.timeline import Mark, Phase, Timeline
from relay.web.texts import english

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
    return lxml.html.fromstring(timeline.draw(given_of(**changes), english()))


def legend_of(**changes):
    drawn = lxml.html.fromstring(f"<ul>{timeline.legend(given_of(**changes), english())}</ul>")
    return [one.text_content().strip() for one in drawn.xpath("//li")]


def test_phases_are_as_wide_as_they_are_long():
    widths = [float(one.get("width")) for one in timeline_of().xpath("//rect")]
    assert widths[0] == pytest.approx(widths[1])
    assert timeline_of().xpath("//rect/title/text()") == ["queued: 50 s", "runs: 50 s"]


def test_a_phase_too_short_for_its_name_has_none_and_can_still_be_seen():
    drawn = timeline_of(phases=[Phase(kind="queued", began=NOW, ended=NOW + 0.01)])
    assert float(drawn.xpath("//rect/@width")[0]) == 2.0
    assert drawn.xpath("//*[contains(@class, 'phase')]/text") == []


def test_a_mark_beyond_the_end_is_an_arrow_at_the_edge():
    late = Mark(kind="delivered", at=NOW + 9999, label="late")
    at_end = Mark(kind="delivered", at=NOW + 100, label="at the end")
    drawn = timeline_of(deliveries=[late, at_end])
    assert drawn.xpath("//*[@class='later']/title/text()") == ["late"]
    assert drawn.xpath("//*[@class='delivery delivered']/title/text()") == ["at the end"]
    assert legend_of(deliveries=[late, at_end])[-1] == "later than the axis reaches"


@pytest.mark.parametrize(
    ("count", "apart", "lanes"),
    [(9, 10, 9), (timeline.LANES, 0, timeline.LANES), (timeline.LANES + 5, 0, timeline.LANES), (13, 7, 1)],
)
def test_each_delivery_has_a_line_of_its_own_unless_there_are_many(count, apart, lanes):
    sent = [Mark(kind="pending", at=NOW + apart * number, label=str(number)) for number in range(count)]
    assert len({one.get("cy") for one in timeline_of(deliveries=sent).xpath("//circle")}) == lanes


def test_the_legend_names_the_marks_that_are_there():
    assert legend_of() == []
    polls = [Mark(kind=kind, at=NOW, label="") for kind in ("planned", "found")]
    events = [Mark(kind=EVIL, at=NOW, label=EVIL)]
    deliveries = [Mark(kind=kind, at=NOW, label="") for kind in (EVIL, "dead", "delivered")]
    assert legend_of(polls=polls, events=events, deliveries=deliveries) == [
        "poll that found a change",
        "next poll",
        "event",
        "delivered",
        "failed delivery",
        "skipped or cancelled delivery",
    ]


def test_a_dead_delivery_has_another_shape():
    assert timeline_of(deliveries=[Mark(kind="dead", at=NOW, label="dead")]).xpath("//circle") == []


def test_now_and_the_deadline_are_named():
    drawn = timeline_of(now=NOW + 100, deadline=NOW + 20)
    assert {"now", "deadline"} <= set(drawn.xpath("//text/text()"))


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
    drawn = lxml.html.fromstring(hazard.draw(outlook_of([0.1, 0.2], [0.0, 4.0]), NOW + 5, NOW, english()))
    words = drawn.xpath("//text/text()")
    assert {"next poll", "price of a poll: 2 s", "now"} <= set(words)
    price, lows = drawn.xpath("//*[@class='price']/line/@y1")[0], drawn.xpath("//polyline/@points")[1]
    assert 128 < float(price) < 204
    assert lows.split()[0].endswith("204.0")


def test_a_hazard_of_nothing_is_drawn_flat():
    drawn = lxml.html.fromstring(hazard.draw(outlook_of([0.0, 0.0], [0.0, 0.0], price=0.0), NOW + 50, NOW, english()))
    assert len(drawn.xpath("//polyline")) == 2


@pytest.mark.parametrize(("time", "value"), [(-5, 0.0), (0, 0.0), (5, 2.0), (10, 4.0), (99, 4.0)])
def test_a_value_is_read_between_points(time, value):
    assert hazard.at(outlook_of([0.1, 0.2], [0.0, 4.0]), NOW + time, "expected_delay_seconds") == pytest.approx(value)
