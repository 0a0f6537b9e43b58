"""Charts: they start at zero, have labels, and draw what they are told within their frame."""

import lxml.html
import pytest

from relay.web.charts import HEIGHT, WIDTH, chart, nice, stack

NOW = 1_779_271_200.0
EVIL = "<script>alert(1)</script>\"'"


def hours(*values):
    return [(NOW + 3600 * index, value) for index, value in enumerate(values)]


def numbers(element, *names):
    return [float(element.get(name)) for name in names]


@pytest.mark.parametrize(
    ("value", "top"),
    [(0, 1), (-3, 1), (0.03, 0.04), (1, 1), (3, 4), (5, 6), (7, 10), (10, 10), (131, 200), (9_999, 10_000)],
)
def test_scale_ends_at_a_short_number_at_or_above_the_largest_value(value, top):
    assert nice(value) == pytest.approx(top)


def test_chart_starts_at_zero_and_names_its_scale_its_times_and_its_series():
    drawn = lxml.html.fragment_fromstring(
        chart([("Attempts", hours(20, 30, 0)), ("Failed", hours(0, 3, None))], "A day")
    )
    assert [one.text for one in drawn.xpath(".//*[contains(@class, 'scale')]")] == ["40", "20", "0"]
    assert drawn.xpath("string(.//svg/@aria-label)") == "A day"
    assert [one.text for one in drawn.xpath(".//time")] == ["10:00 UTC", "12:00 UTC"]
    assert [one.text for one in drawn.xpath(".//figcaption/span")] == ["Attempts", "Failed"]
    assert [one.text for one in drawn.xpath(".//title")] == [
        "10:00 UTC: Attempts 20, Failed 0",
        "11:00 UTC: Attempts 30, Failed 3",
        "12:00 UTC: Attempts 0",
    ]
    lowest = drawn.xpath(".//polyline[@class='line-0']")[0].get("points").split()[-1]
    assert lowest == f"{WIDTH}.0,{HEIGHT - 1}.0"


def test_bars_stand_on_zero_within_their_frame():
    drawn = lxml.html.fragment_fromstring(chart([("Jobs", hours(1, 0, 4, None))], "Jobs by hour", "jobs", "bars"))
    bars = [numbers(one, "x", "y", "width", "height") for one in drawn.xpath(".//*[@class='bar line-0']")]
    assert len(bars) == 2, "none for no value"
    assert all(x >= 0 and x + width <= WIDTH and y >= 0 and y + height == HEIGHT for x, y, width, height in bars)
    assert drawn.xpath("string(.//*[@class='scale top'])") == "4 jobs"
    assert drawn.xpath(".//figcaption") == [], "one series needs no legend"


@pytest.mark.parametrize("points", [[], hours(None, None)])
def test_nothing_is_drawn_of_nothing(points):
    assert chart([("Jobs", points)], "Jobs") == ""


@pytest.mark.parametrize("kind", ["line", "bars"])
def test_one_point_and_hostile_names_are_drawn(kind):
    html = chart([(EVIL, hours(3)), (EVIL, hours(0))], EVIL, EVIL, kind) + stack([("own", 0)], EVIL)
    assert "<script" not in html
    assert "nan" not in html
