"""Filters of the CloudEvents Subscriptions API: what they let through, what is refused and where, and why not."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.events.event import check_attribute
from relay.core.subscriptions import comparisons
from relay.core.subscriptions.comparisons import EventView
from relay.core.subscriptions.filters import (
    ATTRIBUTES,
    DIALECTS,
    MAX_COMPARISONS,
    MAX_FILTER_BYTES,
    MAX_FILTER_ERRORS,
    MAX_FILTER_LEVELS,
    MAX_OPERAND_CHARACTERS,
    UNREADABLE,
    Filters,
    FiltersRefused,
    explain_filters,
    filters_key,
    filters_of,
    parse_filters,
    unreadable,
)
from relay.errors import FieldError

ATTRIBUTE_VALUES: dict[str, Any] = {
    "specversion": "1.0",
    "id": "evt_1",
    "source": "https://revor.ai/api/v1/outreach/jobs",
    "type": "ai.revor.job.failed",
    "subject": "job-17",
    "channel": "linkedin",
    "account": "default",
    "status": "failed",
    "sequence": "0000000003",
    "flag": True,
    "count": 7,
}


def body(data: object = None, **attributes: object) -> bytes:
    return json.dumps({**ATTRIBUTE_VALUES, **attributes, "data": data}).encode()


EVENT = body({"deal": 42, "tags": ["vip", 7], "error": None, "text": "rate limit of the account", "who": {"a/b": "x"}})


def parsed(*documents: object) -> Filters:
    return parse_filters(list(documents))


def passes(*documents: object, event: bytes = EVENT) -> bool:
    return parsed(*documents).passes(EventView(event))


def read(document: object) -> tuple[Filters | None, Sequence[FieldError]]:
    try:
        return parse_filters(document), ()
    except FiltersRefused as refused:
        return None, refused.errors


TRUE = {"exact": {"channel": "linkedin"}}
FALSE = {"exact": {"channel": "email"}}


@pytest.mark.parametrize(
    ("document", "result"),
    [
        (TRUE, True),
        (FALSE, False),
        ({"exact": {"channel": "LinkedIn"}}, False),
        ({"exact": {"channel": "linkedin", "status": "failed"}}, True),
        ({"exact": {"channel": "linkedin", "status": "succeeded"}}, False),
        ({"exact": {"group": "spring"}}, False),
        ({"prefix": {"type": "ai.revor."}}, True),
        ({"prefix": {"type": "revor."}}, False),
        ({"prefix": {"group": "s"}}, False),
        ({"suffix": {"type": ".failed", "subject": "17"}}, True),
        ({"suffix": {"group": "s"}}, False),
        ({"all": [TRUE, TRUE]}, True),
        ({"all": [TRUE, FALSE]}, False),
        ({"any": [FALSE, TRUE]}, True),
        ({"any": [FALSE, FALSE]}, False),
        ({"not": FALSE}, True),
        ({"not": TRUE}, False),
        ({"not": {"exact": {"group": "spring"}}}, True),
        ({"not": {"any": [{"prefix": {"group": "test-"}}, {"all": [FALSE, TRUE]}]}}, True),
        ({"exact": {"/channel": "linkedin", "/data/deal": 42}}, True),
        ({"in": {"channel": ["email", "linkedin"]}}, True),
        ({"range": {"/data/deal": {"gte": 42, "lt": 42.5}}}, True),
        ({"exists": {"/data/deal": True, "/data/error": False, "group": False}}, True),
        ({"not": {"range": {"/data/absent": {"gt": 0}}}}, True),
    ],
)
def test_dialects_let_through_what_the_specification_says(document: dict[str, Any], result: bool) -> None:
    filters = parsed(document)
    assert filters.passes(EventView(EVENT)) is result
    assert (filters.why_not(EventView(EVENT)) is None) is result


def test_all_filters_of_a_subscription_must_be_true() -> None:
    assert passes()
    assert passes(TRUE, {"prefix": {"type": "ai."}})
    assert not passes(TRUE, FALSE)


def test_an_event_without_data_is_compared_by_its_attributes() -> None:
    event = json.dumps({**ATTRIBUTE_VALUES, "data_base64": "AAAA"}).encode()
    assert passes(TRUE, event=event)
    assert passes({"exists": {"/data": False, "/data_base64": True}}, event=event)
    assert not passes({"exact": {"/data/deal": 42}}, event=event)


def test_a_distinct_comparison_is_evaluated_once_for_an_event_and_the_event_parsed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: list[object] = []
    real = comparisons._read
    monkeypatch.setattr(comparisons, "_read", lambda document, path: (reads.append(document), real(document, path))[1])
    results: dict[str, bool] = {}
    view = EventView(EVENT, results)
    several = [{"exact": {"/data/deal": 42.0}}, {"any": [{"exact": {"/data/deal": 42}}]}, {"exact": {"/channel": "x"}}]
    assert [parsed(one).passes(view) for one in (*several, {"not": {"exact": {"channel": "x"}}})] == [1, 1, 0, 1]
    assert len(results) == 2
    assert parsed(*several[:2]).passes(EventView(b"not parsed", results))  # what is known needs no event
    assert len(reads) == 2
    assert reads[0] is reads[1]


def nested(levels: int) -> dict[str, Any]:
    document = TRUE
    for _ in range(levels - 1):
        document = {"not": document}
    return document


@pytest.mark.parametrize(
    ("document", "pointer", "code", "said"),
    [
        ("exact", "/filters/0", "wrong_type", "an object"),
        ({}, "/filters/0", "invalid", "one dialect is expected, not 0"),
        ({**TRUE, "prefix": {"type": "a"}}, "/filters/0", "invalid", "one dialect is expected, not 2"),
        ({"Exact": {"type": "a"}}, "/filters/0/Exact", "unknown_dialect", "did you mean 'exact'"),
        ({"suffx": {"type": "a"}}, "/filters/0/suffx", "unknown_dialect", "did you mean 'suffix'"),
        ({"sql": "a = 'b'"}, "/filters/0/sql", "unknown_dialect", "use one of exact, prefix"),
        ({"cel": "a == 1"}, "/filters/0/cel", "unknown_dialect", "docs/operate/upgrading.md"),
        ({"a/b~c": 1}, "/filters/0/a~1b~0c", "unknown_dialect", "use one of"),
        ({7: 1}, "/filters/0/7", "unknown_dialect", "use one of"),
        ({"exact": {}}, "/filters/0/exact", "too_short", "at least one attribute"),
        ({"exact": []}, "/filters/0/exact", "wrong_type", 'an object such as {"channel": "text"}'),
        ({"in": []}, "/filters/0/in", "wrong_type", '{"/data/metadata/deal": ["a", "b"]} is expected'),
        ({"exact": {"type": ""}}, "/filters/0/exact/type", "too_short", "1 to 1,024 characters"),
        ({"exact": {"type": "a" * 1025}}, "/filters/0/exact/type", "too_long", "1 to 1,024 characters"),
        ({"exact": {"sequence": 3}}, "/filters/0/exact/sequence", "wrong_type", "a string is expected"),
        ({"prefix": {"type": "a\0b"}}, "/filters/0/prefix/type", "invalid_text", "control characters"),
        ({"prefix": {"type": "a\ud800"}}, "/filters/0/prefix/type", "invalid_text", "surrogates"),
        ({"exact": {"a" * 65: "a"}}, f"/filters/0/exact/{'a' * 65}", "unknown_attribute", "is not an attribute"),
        ({"exact": {"Status": "a"}}, "/filters/0/exact/Status", "unknown_attribute", "did you mean 'status'"),
        ({"exact": {"chanel": "a"}}, "/filters/0/exact/chanel", "unknown_attribute", "did you mean 'channel'"),
        ({"exact": {"data": "a"}}, "/filters/0/exact/data", "unknown_attribute", "/data/metadata/deal"),
        ({"exact": {1: "a"}}, "/filters/0/exact/1", "wrong_type", "a string is expected as the attribute's name"),
        (
            {"exact": {"metadata.deal": "a"}},
            "/filters/0/exact/metadata.deal",
            "unknown_attribute",
            "'/data/metadata/deal'",
        ),
        ({"exact": {"/chanel": "a"}}, "/filters/0/exact/~1chanel", "unknown_attribute", "did you mean 'channel'"),
        ({"exact": {"/status/a": "a"}}, "/filters/0/exact/~1status~1a", "invalid", "which has no members"),
        ({"exact": {"/data/~2": "a"}}, "/filters/0/exact/~1data~1~02", "invalid", "~ is written ~0"),
        ({"exact": {"/data/\ud800": 1}}, "/filters/0/exact/~1data~1\ufffd", "invalid_text", "lone surrogates"),
        ({"exact": {"/data" + "/a" * 8: 1}}, "/filters/0/exact/~1data" + "~1a" * 8, "too_long", "at most 8 segments"),
        ({"exact": {"/data/" + "a" * 1020: 1}}, "/filters/0/exact/~1data~1" + "a" * 94, "too_long", "1,024 characters"),
        ({"exact": {"/data/a": [1]}}, "/filters/0/exact/~1data~1a", "wrong_type", "a string, a number, true"),
        ({"exact": {"/data/a": 10**400}}, "/filters/0/exact/~1data~1a", "out_of_range", "a double"),
        ({"exact": {"/data/a": float("nan")}}, "/filters/0/exact/~1data~1a", "out_of_range", "a double"),
        ({"exact": {"/data/a": "\0"}}, "/filters/0/exact/~1data~1a", "invalid_text", "NUL"),
        ({"contains": {"/data/a": "a" * 257}}, "/filters/0/contains/~1data~1a", "too_long", "1 to 256 characters"),
        ({"in": {"status": "failed"}}, "/filters/0/in/status", "wrong_type", "a list such as"),
        ({"in": {"status": ["a", 1]}}, "/filters/0/in/status/1", "wrong_type", "a string is expected"),
        ({"range": {"time": {"gt": 1}}}, "/filters/0/range/time", "wrong_type", "a range is of numbers"),
        ({"range": {"/data/a": 1}}, "/filters/0/range/~1data~1a", "wrong_type", '{"gte": 100, "lt": 500}'),
        ({"range": {"/data/a": {"min": 1}}}, "/filters/0/range/~1data~1a/min", "unknown_field", "gt, gte, lt, lte"),
        ({"range": {"/data/a": {"lt": "2026"}}}, "/filters/0/range/~1data~1a/lt", "wrong_type", "a number is expected"),
        ({"exists": {"/data/a": 1}}, "/filters/0/exists/~1data~1a", "wrong_type", "true or false"),
        ({"all": []}, "/filters/0/all", "too_short", "at least one filter"),
        ({"any": TRUE}, "/filters/0/any", "wrong_type", "a list of filters"),
        ({"not": [TRUE]}, "/filters/0/not", "wrong_type", "an object"),
        ({"not": {"all": [TRUE, {"any": []}]}}, "/filters/0/not/all/1/any", "too_short", "at least one filter"),
        (nested(MAX_FILTER_LEVELS + 1), "/filters/0" + "/not" * MAX_FILTER_LEVELS, "too_long", "8 levels deep"),
        ({"all": [TRUE] * (MAX_COMPARISONS + 1)}, "/filters", "too_long", "at most 32 comparisons"),
        ({"exact": {f"x{n}": "a" for n in range(10_000)}}, "/filters", "too_long", "at most 32 comparisons"),
        ({"in": {"/data/a": ["a" * 1000] * 17}}, "/filters", "too_long", "16,384 bytes"),
    ],
)
def test_a_wrong_filter_is_refused_with_its_place(document: object, pointer: str, code: str, said: str) -> None:
    with pytest.raises(FiltersRefused) as refused:
        parsed(document)
    (error,) = refused.value.errors
    assert (error.pointer, error.code) == (pointer, code)
    assert said in error.detail


def test_limits_are_inclusive() -> None:
    assert passes(nested(MAX_FILTER_LEVELS - 1))
    assert passes(*[TRUE] * MAX_COMPARISONS)
    assert not passes({"exact": {f"x{number}": "a" * MAX_OPERAND_CHARACTERS for number in range(15)}})
    assert passes({"not": {"exact": {"/data" + "/a" * 7: 1}}})
    fits = {"in": {"/data/a": ["a" * 1000] * 16 + ["b"]}}
    fits["in"]["/data/a"].append("b" * (MAX_FILTER_BYTES - len(filters_key([fits])) - 3))
    assert len(filters_key([fits])) == MAX_FILTER_BYTES
    assert not passes(fits)


def test_every_mistake_is_reported_up_to_a_limit() -> None:
    with pytest.raises(FiltersRefused) as refused:
        parsed({"exact": {"type": "", "chanel": "x"}}, {"any": []})
    assert [error.pointer for error in refused.value.errors] == [
        "/filters/0/exact/type",
        "/filters/0/exact/chanel",
        "/filters/1/any",
    ]
    with pytest.raises(FiltersRefused) as refused:
        parsed(*[{"any": []}] * 100)
    assert len(refused.value.errors) == MAX_FILTER_ERRORS


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        ([TRUE], None),
        ([TRUE, FALSE], 'exact /filters/1: channel is "linkedin", not "email"'),
        ([{"exact": {"group": "a"}}], "exact /filters/0: the event has no group"),
        (
            [{"prefix": {"type": "b"}}],
            'prefix /filters/0: type is "ai.revor.job.failed", which does not begin with "b"',
        ),
        ([{"suffix": {"subject": "b"}}], 'suffix /filters/0: subject is "job-17", which does not end with "b"'),
        ([{"exact": {"status": "x" * 90}}], f'exact /filters/0: status is "failed", not "{"x" * 60}…"'),
        ([{"not": TRUE}], "not /filters/0: the filter in it is true"),
        (
            [{"any": [FALSE, {"not": TRUE}]}],
            'any /filters/0: no filter in it is true (exact /filters/0/any/0: channel is "linkedin", not "email"; '
            "not /filters/0/any/1: the filter in it is true)",
        ),
        (
            [{"any": [{"not": TRUE}] * 5}],
            "any /filters/0: no filter in it is true (not /filters/0/any/0: the filter in it is true; not "
            "/filters/0/any/1: the filter in it is true; not /filters/0/any/2: the filter in it is true; and 2 more)",
        ),
        ([{"exact": {"/data/deal": 41}}], "exact /filters/0: /data/deal is 42, not 41"),
        ([{"in": {"status": ["a", "b"]}}], 'in /filters/0: status is "failed", which is not in ["a", "b"]'),
        ([{"in": {"status": list("abcd")}}], 'in /filters/0: status is "failed", which is not in ["a", "b", "c", …]'),
        (
            [{"contains": {"/data/tags": "x"}}],
            'contains /filters/0: /data/tags is a list of 2, which does not contain "x"',
        ),
        (
            [{"range": {"/data/deal": {"gte": 100, "lt": 500}}}],
            "range /filters/0: /data/deal is 42, which is not gte 100 and lt 500",
        ),
        ([{"range": {"/data/x/y": {"gte": 1}}}], "range /filters/0: the event has no /data/x/y"),
        ([{"exists": {"/data/error": True}}], "exists /filters/0: the event has no /data/error"),
        ([{"exists": {"/data/deal": False}}], "exists /filters/0: /data/deal is 42, and is expected not to exist"),
        ([{"exact": {"/data/deal": 42, "channel": "linkedin"}}], None),
    ],
)
def test_it_is_explained_which_filter_is_false_and_why(documents: list[dict[str, Any]], reason: str | None) -> None:
    assert explain_filters(parsed(*documents), EVENT) == reason


@pytest.mark.parametrize(
    ("documents", "place"),
    [
        ([{"cel": "data.deal > 40"}], "filters[0].cel: expressions in CEL are gone"),
        ([TRUE, {"all": [TRUE, {"range": {"/data/total": {"gt": "a"}}}]}], "filters[1].all[1].range./data/total.gt: "),
        ([TRUE] * 33, "filters: at most 32 comparisons"),
        (["x"], "filters[0]: an object"),
    ],
)
def test_stored_filters_that_cannot_be_read_let_everything_through(documents: Any, place: str) -> None:
    filters = filters_of(documents)
    assert filters is not None
    assert filters.passes(EventView(body(channel="email")))
    assert filters.unreadable is not None
    assert filters.unreadable.startswith(place)
    assert unreadable(documents) == filters.unreadable
    assert filters.why_not(EventView(EVENT)) == f"{UNREADABLE}: {filters.unreadable}"
    assert filters.keys == frozenset()


def test_stored_filters_that_can_be_read_are_the_same_object_for_the_same_json() -> None:
    first, again = filters_of([{"exact": {"a": "1", "b": "2"}}]), filters_of(({"exact": {"b": "2", "a": "1"}},))
    assert first is again
    assert unreadable([TRUE]) is None
    assert filters_of([]) is None
    assert unreadable(()) is None


# --- against an oracle: the words of the specification, without a parser

_NAMES = st.sampled_from(("channel", "status", "group", "type", "x1"))
_VALUES = st.text("ab", min_size=1, max_size=3)
_COMPARISONS = st.builds(
    lambda dialect, operands: {dialect: operands},
    st.sampled_from(("exact", "prefix", "suffix")),
    st.dictionaries(_NAMES, _VALUES, min_size=1, max_size=3),
)
_DOCUMENTS = st.recursive(
    _COMPARISONS,
    lambda inner: st.one_of(
        st.builds(lambda several: {"all": several}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda several: {"any": several}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda one: {"not": one}, inner),
    ),
    max_leaves=8,
)


def holds(document: Mapping[str, Any], attributes: Mapping[str, str]) -> bool:
    [(dialect, operand)] = document.items()
    if dialect == "all":
        return not [one for one in operand if not holds(one, attributes)]
    if dialect == "any":
        return bool([one for one in operand if holds(one, attributes)])
    if dialect == "not":
        return not holds(operand, attributes)
    for name, wanted in operand.items():
        value = attributes.get(name, "")
        place = {"exact": value, "prefix": value[: len(wanted)], "suffix": value[-len(wanted) :]}[dialect]
        if place != wanted:
            return False
    return True


@given(st.lists(_DOCUMENTS, max_size=3), st.dictionaries(_NAMES, _VALUES))
def test_results_are_those_of_the_specification(documents: list[dict[str, Any]], attributes: dict[str, str]) -> None:
    filters, errors = read(documents)
    if filters is None:
        assert {error.code for error in errors} == {"too_long"}
        return
    view = EventView(json.dumps({**attributes, "data": {}}).encode())
    expected = all(holds(one, attributes) for one in documents)
    assert filters.passes(view) is expected
    assert (filters.why_not(view) is None) is expected


# --- hostile documents

_HOSTILE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=30)
    | st.sampled_from((10**400, "\0", "\ud800", "\ufffe", "a" * 2000, "/data/deal", "/data/a/0")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from((*DIALECTS, *ATTRIBUTES, "", "\ud800", "\0", "/data/deal", "/data/~2", "gt", "lte"))
            | st.text(max_size=9),
            inner,
        ),
    ),
    max_leaves=20,
)


@given(_HOSTILE)
def test_whatever_is_given_is_read_or_refused(document: object) -> None:
    filters, errors = read(document)
    if filters is None:
        assert errors
        for error in errors:
            assert error.pointer.startswith("/filters")
            f"{error.pointer}{error.detail}".encode()  # it can be told
        return
    filters.passes(EventView(EVENT))
    filters.why_not(EventView(EVENT))
    stored = json.loads(filters_key(document))  # type: ignore[arg-type]
    assert "\0" not in filters_key(document).decode()  # type: ignore[arg-type]
    assert filters_key(stored) == filters_key(document)  # type: ignore[arg-type]


@given(st.text(st.characters(codec=None), min_size=1, max_size=5))
def test_an_operand_is_allowed_if_an_attribute_may_have_it(value: str) -> None:
    try:
        check_attribute("channel", value)
        allowed = True
    except ValueError:
        allowed = False
    try:
        parsed({"exact": {"channel": value}})
    except FiltersRefused:
        assert not allowed
    else:
        assert allowed
