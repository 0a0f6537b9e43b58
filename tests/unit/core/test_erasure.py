"""What an erasure selects."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.erasure import Erased, ErasureRequest, metadata_of_event
from relay.core.jsontext import dumps

EMAIL = "kim@example.com"
BY_EMAIL = ErasureRequest(name="email", value=EMAIL)


@pytest.mark.parametrize(
    ("metadata", "selected"),
    [
        ({"email": EMAIL}, True),
        ({"email": EMAIL.upper()}, False),
        ({"email": f" {EMAIL}"}, False),
        ({"mail": EMAIL}, False),
        ({"contact": {"email": EMAIL}}, True),
        ({"contacts": [{"email": "a@b.c"}, {"email": EMAIL}]}, True),
        ({"email": ["a@b.c", EMAIL]}, True),
        ({"email": [["nested", EMAIL]]}, False),
        ({"email": {"address": EMAIL}}, False),
        ({"email": None}, False),
        ({}, False),
        (None, False),
        ("email", False),
    ],
)
def test_a_field_at_any_depth_is_compared_exactly(metadata: Any, selected: bool) -> None:
    assert BY_EMAIL.selects(metadata) is selected
    assert BY_EMAIL.selects({}, metadata) is selected


@pytest.mark.parametrize(
    ("value", "text"), [(42, "42"), (1.5, "1.5"), (True, "true"), (None, "null"), (2**70, str(2**70))]
)
def test_other_values_are_compared_as_json_writes_them(value: Any, text: str) -> None:
    assert ErasureRequest(name="deal", value=text).selects({"deal": value})
    assert not ErasureRequest(name="deal", value=text + "0").selects({"deal": value})


def test_an_erasure_of_a_job_selects_no_metadata() -> None:
    assert not ErasureRequest(job="a").selects({"a": "a"})


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    TEXTS, st.recursive(TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
)
def test_whatever_is_selected_has_the_needle_in_its_bytes(value: str, rest: Any) -> None:
    metadata = {"rest": rest, "deep": {"email": [value]}}
    request = ErasureRequest(name="email", value=value)
    assert request.selects(metadata)
    assert request.needle in dumps(metadata)


@pytest.mark.parametrize(
    ("source", "account", "covered"),
    [(None, None, True), ("revor", None, True), ("revor", "a", True), (None, "b", False), ("other", "a", False)],
)
def test_source_and_account_limit_an_erasure(source: str | None, account: str | None, covered: bool) -> None:
    assert ErasureRequest(job="x", source=source, account=account).covers("revor", "a") is covered


def test_the_metadata_of_an_event_is_the_jobs_and_the_creates() -> None:
    assert metadata_of_event({"data": {"metadata": 1, "request": 2, "job": 3}}) == (1, 2)
    assert metadata_of_event({"data": "text"}) == ()
    assert metadata_of_event({}) == ()


def test_counts_add_up() -> None:
    total = Erased(jobs=1, events=2) + Erased(jobs=3, in_flight=1)
    assert total == Erased(jobs=4, events=2, in_flight=1)


@pytest.mark.parametrize(
    ("event", "selected"),
    [
        ({"group": "spring", "data": {}}, True),
        ({"data": {"metadata": {"group": "spring "}, "request": {}}}, True),
        ({"group": "summer", "data": {"group": "spring"}}, False),
        ({"data": {}}, False),
    ],
)
def test_group_selects_its_events_by_their_attribute(event: dict[str, Any], selected: bool) -> None:
    assert ErasureRequest.of_group("spring ").selects_event(event) is selected
    assert not BY_EMAIL.selects_event({"group": EMAIL, "data": {}})


def test_needle_of_a_group_is_in_its_attribute() -> None:
    assert ErasureRequest.of_group(' a"b ').needle == b'a\\"b'
