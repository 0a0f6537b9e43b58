"""Comparisons: what each dialect finds in an event, and that no event and no operand makes one fail or take long."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.jsontext import dumps, loads
from relay.core.subscriptions.comparisons import MAX_SEARCHED, EventView, key_of, searcher
from relay.core.subscriptions.filters import DIALECTS, FiltersRefused, parse_filters

HUGE = 10**300
EVENT: dict[str, Any] = {
    "type": "com.acme.order",
    "priority": 3,
    "urgent": True,
    "odd": None,
    "data": {
        "count": 42,
        "half": 0.5,
        "whole": 42.0,
        "huge": HUGE,
        "exact": 2**53 + 1,
        "text": "42",
        "yes": True,
        "one": 1,
        "nothing": None,
        "empty": "",
        "list": ["a", 1, True, None, {"deep": ["x"]}, ["inner"]],
        "long": "x" * MAX_SEARCHED + "needle",
        "lines": "a\nb\u2028c.d*",
        "a/b": {"c~d": 1, "~1": 2, "": 3},
        "01": "leading",
    },
}


def holds(dialect: str, place: str, operand: object, event: object = EVENT) -> bool:
    return parse_filters([{dialect: {place: operand}}]).passes(EventView(json.dumps(event).encode()))


@pytest.mark.parametrize(
    ("dialect", "place", "operand", "result"),
    [
        # types are strict, and numbers are numbers
        ("exact", "/data/count", 42, True),
        ("exact", "/data/count", 42.0, True),
        ("exact", "/data/count", "42", False),
        ("exact", "/data/yes", 1, False),
        ("exact", "/data/one", True, False),
        ("exact", "/data/yes", True, True),
        ("exact", "/data/nothing", None, True),
        ("exact", "/data/nothing", "", False),
        ("exact", "/data/absent", None, False),
        ("exact", "/data/huge", HUGE, True),
        ("exact", "/data/huge", HUGE + 1, False),
        ("exact", "/data/exact", 2**53, False),
        ("exact", "/data", "x", False),
        ("exact", "/data/list", "a", False),
        ("in", "/data/count", [1, 42.0], True),
        ("in", "/data/count", ["42", True, None], False),
        ("in", "/data/nothing", [None], True),
        ("in", "/data/list", ["a"], False),
        # attributes are texts; one that is published as a number or boolean is also that
        ("exact", "priority", "3", True),
        ("exact", "priority", 3, True),
        ("exact", "urgent", "true", True),
        ("exact", "/urgent", True, True),
        ("prefix", "urgent", "tr", True),
        ("range", "priority", {"gte": 3}, True),
        ("exact", "odd", "None", False),
        ("exists", "odd", False, True),
        ("exists", "/priority", True, True),
        # pointers
        ("exact", "/data/a~1b/c~0d", 1, True),
        ("exact", "/data/a~1b/~01", 2, True),
        ("exact", "/data/a~1b/", 3, True),
        ("exact", "/data/list/0", "a", True),
        ("exact", "/data/list/4/deep/0", "x", True),
        ("exact", "/data/list/00", "a", False),
        ("exact", "/data/list/-1", ["inner"][0], False),
        ("exact", "/data/list/6", "inner", False),
        ("exact", "/data/list/99999999999999999999", "a", False),
        ("exact", "/data/list/\u0661", 1, False),
        ("exact", "/data/count/0", "4", False),
        ("exact", "/data/01", "leading", True),
        # texts
        ("prefix", "/data/text", "4", True),
        ("prefix", "/data/count", "4", False),
        ("suffix", "/data/text", "2", True),
        ("contains", "/data/lines", "b\u2028c", True),
        ("contains", "/data/lines", ".d*", True),
        ("contains", "/data/lines", "a.b", False),
        ("contains", "/data/long", "needle", False),
        ("contains", "/data/long", "xxx", True),
        ("contains", "/data/count", "4", False),
        ("contains", "type", "acme", True),
        # members
        ("contains", "/data/list", "a", True),
        ("contains", "/data/list", 1, True),
        ("contains", "/data/list", 1.0, True),
        ("contains", "/data/list", "1", False),
        ("contains", "/data/list", False, False),
        ("contains", "/data/list", None, True),
        ("contains", "/data/list", "inner", False),
        # ranges are of numbers
        ("range", "/data/count", {"gt": 41, "lt": 43}, True),
        ("range", "/data/count", {"gte": 42, "lte": 42}, True),
        ("range", "/data/count", {"gt": 42}, False),
        ("range", "/data/count", {"lt": 42}, False),
        ("range", "/data/huge", {"gt": 1e300}, False),
        ("range", "/data/exact", {"gt": 2**53}, True),
        ("range", "/data/text", {"gt": 0}, False),
        ("range", "/data/nothing", {"lt": 1}, False),
        ("range", "/data/absent", {"lt": 1}, False),
        # null is not there
        ("exists", "/data/nothing", True, False),
        ("exists", "/data/nothing", False, True),
        ("exists", "/data/absent", False, True),
        ("exists", "/data/list", True, True),
    ],
)
def test_dialects_compare_as_documented(dialect: str, place: str, operand: object, result: bool) -> None:
    assert holds(dialect, place, operand) is result


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (42, 42.0, True),
        (0, -0.0, True),
        (1e300, int(1e300), True),
        (2**53 + 1, float(2**53), False),
        (1, True, False),
        (0, False, False),
        (42, "42", False),
        (None, "None", False),
        (True, "True", False),
        ("", None, False),
    ],
)
def test_equal_scalars_have_one_key(one: object, other: object, same: bool) -> None:
    assert (key_of(one) == key_of(other)) is same


def test_numbers_beyond_a_double_and_lone_surrogates_are_read_as_texts() -> None:
    body = b'{"data": {"n": 1e400, "m": ' + b"9" * 400 + b', "s": "a\\ud800b", "z": "a\\u0000b"}}'
    view = EventView(body)
    for name in ("n", "m"):
        assert not parse_filters([{"range": {f"/data/{name}": {"gt": 0}}}]).passes(view)
    assert parse_filters([{"exact": {"/data/s": "a\ufffdb"}}]).passes(view)
    assert parse_filters([{"prefix": {"/data/z": "a"}}]).passes(view)


def test_no_operand_makes_a_search_slow() -> None:
    search, text = searcher("a" * 128 + "b" + "a" * 127), "a" * 2_400
    began = time.thread_time()
    for _ in range(20_000):
        assert search(text, 0, MAX_SEARCHED) is None
    assert time.thread_time() - began < 0.9  # 0.12 s; `in` takes 1.8 s


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from((HUGE, -HUGE, 5e-324, "")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(("a", "0", "", "~", "/")), inner),
    max_leaves=12,
)
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_PLACES = st.lists(st.sampled_from(("a", "0", "1", "", "~0", "~1", "-")), max_size=4).map(
    lambda steps: "/".join(["/data", *steps])
)
_COMPARING = tuple(one for one in DIALECTS if one not in ("all", "any", "not"))
_OPERANDS = (
    _SCALARS
    | st.lists(_SCALARS, max_size=3)
    | st.dictionaries(st.sampled_from(("gt", "gte", "lt", "lte")), st.integers() | st.floats(), max_size=4)
)


@given(_JSON, st.sampled_from(_COMPARING), _PLACES, _OPERANDS)
def test_a_comparison_never_fails(data: object, dialect: str, place: str, operand: object) -> None:
    try:
        filters = parse_filters([{dialect: {place: operand}}])
    except FiltersRefused:
        return
    body = dumps({"type": "a", "data": data})
    view, again = EventView(body), EventView(body)
    passes = filters.passes(view)
    assert (filters.why_not(view) is None) is passes
    assert parse_filters(loads(dumps([{dialect: {place: operand}}]))).passes(again) is passes
    assert parse_filters([{"not": {dialect: {place: operand}}}]).passes(view) is not passes


def test_a_list_is_read_once_for_all_comparisons_with_it() -> None:
    view = EventView(b'{"data": ["a", 1, null]}')
    parsed = parse_filters([{"contains": {"/data": "a"}}, {"contains": {"/data": 1}}])
    assert parsed.passes(view)
    assert not parse_filters([{"contains": {"/data": "1"}}]).passes(view)
