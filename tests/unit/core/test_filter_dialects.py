"""Filters of the CloudEvents Subscriptions API: what they let through, what is refused and where, and why not."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.events import check_attribute
from relay.core.filters import (
    ATTRIBUTES,
    DIALECTS,
    MAX_COMPARED,
    MAX_EXPRESSIONS,
    MAX_FILTER_ERRORS,
    MAX_FILTER_LEVELS,
    MAX_FILTERS,
    MAX_OPERAND_CHARACTERS,
    EventView,
    Expression,
    ExpressionFailed,
    ExpressionRefused,
    Filters,
    FiltersRefused,
    attribute_problem,
    explain_filters,
    filters_key,
    parse_filters,
    unavailable,
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


EVENT = body({"deal": 42})


def compiled(text: str) -> Expression:
    """A language of three words, in place of CEL."""

    def fails(view: EventView) -> bool:
        raise ExpressionFailed("missing", "there is no field deal")

    if text not in ("yes", "no", "fails"):
        raise ExpressionRefused("invalid_expression", "line 1, column 1: yes, no or fails is expected")
    return fails if text == "fails" else lambda view: text == "yes"


def parsed(*documents: object) -> Filters:
    return parse_filters(list(documents), compiled)


def passes(*documents: object, event: bytes = EVENT) -> bool:
    return parsed(*documents).passes(EventView(event))


def read(document: object) -> tuple[Filters | None, Sequence[FieldError]]:
    try:
        return parse_filters(document, compiled), ()
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
        ({"exact": {"channel": "linkedi"}}, False),
        ({"exact": {"channel": "linkedin", "status": "failed"}}, True),
        ({"exact": {"channel": "linkedin", "status": "succeeded"}}, False),
        ({"exact": {"group": "spring"}}, False),
        ({"exact": {"flag": "true", "count": "7"}}, True),
        ({"prefix": {"type": "ai.revor."}}, True),
        ({"prefix": {"type": "ai.revor.job.failed"}}, True),
        ({"prefix": {"type": "revor."}}, False),
        ({"prefix": {"group": "s"}}, False),
        ({"suffix": {"type": ".failed", "subject": "17"}}, True),
        ({"suffix": {"type": ".FAILED"}}, False),
        ({"suffix": {"group": "s"}}, False),
        ({"all": [TRUE, TRUE]}, True),
        ({"all": [TRUE, FALSE]}, False),
        ({"any": [FALSE, TRUE]}, True),
        ({"any": [FALSE, FALSE]}, False),
        ({"not": FALSE}, True),
        ({"not": TRUE}, False),
        ({"not": {"exact": {"group": "spring"}}}, True),
        ({"not": {"any": [{"prefix": {"group": "test-"}}, {"all": [FALSE, TRUE]}]}}, True),
        ({"cel": "yes"}, True),
        ({"cel": "no"}, False),
        ({"cel": "fails"}, False),
        ({"not": {"cel": "fails"}}, True),
        ({"any": [{"cel": "fails"}, TRUE]}, True),
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
    view = EventView(event)
    assert view.data is None
    assert "data_base64" not in view.attributes


def test_each_failing_expression_is_reported() -> None:
    failures: list[str] = []
    filters = parsed({"any": [{"cel": "fails"}, {"not": {"cel": "fails"}}]})
    assert filters.passes(EventView(EVENT), lambda failure: failures.append(failure.reason))
    assert failures == ["missing", "missing"]


def nested(levels: int) -> dict[str, Any]:
    document = TRUE
    for _ in range(levels - 1):
        document = {"not": document}
    return document


@pytest.mark.parametrize(
    ("document", "pointer", "code", "said"),
    [
        ("exact", "/filters/0", "wrong_type", "an object"),
        (None, "/filters/0", "wrong_type", "an object"),
        ({}, "/filters/0", "invalid", "one dialect is expected, not 0"),
        ({**TRUE, "prefix": {"type": "a"}}, "/filters/0", "invalid", "one dialect is expected, not 2"),
        ({"Exact": {"type": "a"}}, "/filters/0/Exact", "unknown_dialect", "did you mean 'exact'"),
        ({"suffx": {"type": "a"}}, "/filters/0/suffx", "unknown_dialect", "did you mean 'suffix'"),
        ({"sql": "a = 'b'"}, "/filters/0/sql", "unknown_dialect", "use one of exact, prefix"),
        ({"a/b~c": 1}, "/filters/0/a~1b~0c", "unknown_dialect", "use one of"),
        ({7: 1}, "/filters/0/7", "unknown_dialect", "use one of"),
        ({"exact": {}}, "/filters/0/exact", "too_short", "1 to 20 attributes"),
        ({"exact": []}, "/filters/0/exact", "wrong_type", "an object of attributes"),
        ({"exact": {"type": ""}}, "/filters/0/exact/type", "too_short", "1 to 1,024 characters"),
        ({"exact": {"type": "a" * 1025}}, "/filters/0/exact/type", "too_long", "1 to 1,024 characters"),
        ({"exact": {"sequence": 3}}, "/filters/0/exact/sequence", "wrong_type", "a string is expected"),
        ({"exact": {"channel": None}}, "/filters/0/exact/channel", "wrong_type", "a string is expected"),
        ({"exact": {"channel": True}}, "/filters/0/exact/channel", "wrong_type", "a string is expected"),
        ({"prefix": {"type": "a\0b"}}, "/filters/0/prefix/type", "invalid_text", "control characters"),
        ({"prefix": {"type": "a\ud800"}}, "/filters/0/prefix/type", "invalid_text", "surrogates"),
        ({"exact": {"a" * 65: "a"}}, f"/filters/0/exact/{'a' * 65}", "unknown_attribute", "is not an attribute"),
        ({"exact": {"": "a"}}, "/filters/0/exact/", "unknown_attribute", "is not an attribute"),
        ({"exact": {"Status": "a"}}, "/filters/0/exact/Status", "unknown_attribute", "did you mean 'status'"),
        ({"exact": {"chanel": "a"}}, "/filters/0/exact/chanel", "unknown_attribute", "did you mean 'channel'"),
        ({"exact": {"data": "a"}}, "/filters/0/exact/data", "unknown_attribute", "use the dialect cel"),
        ({"exact": {1: "a"}}, "/filters/0/exact/1", "wrong_type", "a string is expected as the attribute's name"),
        ({"exact": {"metadata.deal": "a"}}, "/filters/0/exact/metadata.deal", "unknown_attribute", "not an attribute"),
        ({"all": []}, "/filters/0/all", "too_short", "at least one filter"),
        ({"any": TRUE}, "/filters/0/any", "wrong_type", "a list of filters"),
        ({"not": [TRUE]}, "/filters/0/not", "wrong_type", "an object"),
        ({"not": {"all": [TRUE, {"any": []}]}}, "/filters/0/not/all/1/any", "too_short", "at least one filter"),
        ({"cel": 1}, "/filters/0/cel", "wrong_type", "a string is expected"),
        ({"cel": "maybe"}, "/filters/0/cel", "invalid_expression", "line 1, column 1"),
        (nested(MAX_FILTER_LEVELS + 1), "/filters/0" + "/not" * MAX_FILTER_LEVELS, "too_long", "8 levels deep"),
        ({"all": [TRUE] * (MAX_FILTERS + 1)}, "/filters/0/all", "too_long", "at most 100 filters"),
        ({"any": [{"all": [TRUE] * 60}] * 2}, "/filters/0/any/1/all/37", "too_long", "nested ones included"),
        ({"all": [TRUE] * MAX_FILTERS}, f"/filters/0/all/{MAX_FILTERS - 1}", "too_long", "nested ones included"),
    ],
)
def test_a_wrong_filter_is_refused_with_its_place(document: object, pointer: str, code: str, said: str) -> None:
    with pytest.raises(FiltersRefused) as refused:
        parsed(document)
    (error,) = refused.value.errors
    assert (error.pointer, error.code) == (pointer, code)
    assert said in error.detail
    assert pointer in str(refused.value)


def test_filters_are_a_list() -> None:
    with pytest.raises(FiltersRefused) as refused:
        parse_filters(TRUE, compiled, "/subscription/filters")
    assert [error.pointer for error in refused.value.errors] == ["/subscription/filters"]


def test_limits_are_inclusive() -> None:
    assert passes(nested(MAX_FILTER_LEVELS - 1))
    assert passes(*[TRUE] * MAX_FILTERS)
    assert not passes({"exact": {f"x{number}": "a" * MAX_OPERAND_CHARACTERS for number in range(MAX_COMPARED)}})
    assert passes(*[{"cel": "yes"}] * MAX_EXPRESSIONS)
    with pytest.raises(FiltersRefused, match="at most 10 expressions"):
        parsed(*[{"cel": "yes"}] * (MAX_EXPRESSIONS + 1))


def test_every_mistake_is_reported_up_to_a_limit() -> None:
    with pytest.raises(FiltersRefused) as refused:
        parsed({"exact": {"type": "", "chanel": "x"}}, {"any": []})
    assert [error.pointer for error in refused.value.errors] == [
        "/filters/0/exact/type",
        "/filters/0/exact/chanel",
        "/filters/1/any",
    ]
    with pytest.raises(FiltersRefused) as refused:
        parsed(*[{"any": []}] * MAX_FILTERS)
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
        ([{"all": [TRUE, FALSE]}], 'exact /filters/0/all/1: channel is "linkedin", not "email"'),
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
        ([{"cel": "no"}], "cel /filters/0: the expression is false"),
        ([{"cel": "fails"}], "cel /filters/0: there is no field deal"),
        ([{"cel": "yes"}], None),
    ],
)
def test_it_is_explained_which_filter_is_false_and_why(documents: list[dict[str, Any]], reason: str | None) -> None:
    assert explain_filters(parsed(*documents), EVENT) == reason


def test_an_explanation_shows_no_control_characters() -> None:
    reason = explain_filters(parsed({"exact": {"channel": "email"}}), body(channel="a\nb\x1b[2J"))
    assert reason == 'exact /filters/0: channel is "a\\nb\\u001b[2J", not "email"'


def test_no_filters_need_no_explanation() -> None:
    assert explain_filters(None, EVENT) is None


def test_filters_that_cannot_be_evaluated_let_nothing_through() -> None:
    filters = unavailable("CEL needs an extra package")
    assert not filters.passes(EventView(EVENT))
    assert filters.why_not(EventView(EVENT)) == "cel /filters: CEL needs an extra package"


def test_the_key_is_the_same_for_the_same_json() -> None:
    one, other = {"exact": {"a": "1", "b": "2"}}, {"exact": {"b": "2", "a": "1"}}
    assert filters_key([one]) == filters_key([other])
    assert filters_key([one, TRUE]) != filters_key([TRUE, one])


@pytest.mark.parametrize("name", ["resultstatus", "tenant", "x", "a1b2"])
def test_attributes_of_other_events_are_allowed(name: str) -> None:
    assert attribute_problem(name) is None


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
    | st.sampled_from((10**400, "\0", "\ud800", "\ufffe", "a" * 2000, "yes", "fails")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from((*DIALECTS, *ATTRIBUTES, "", "\ud800", "\0")) | st.text(max_size=9), inner),
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


def test_deep_documents_end_at_the_limit() -> None:
    document: Any = TRUE
    for number in range(900):
        document = {"all": [document]} if number % 2 else {"not": document}
    with pytest.raises(FiltersRefused, match="8 levels deep"):
        parsed(document)
