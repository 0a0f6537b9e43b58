"""Values and small functions of `relay/core` that only other packages use."""

import math

import pytest

from relay.core.deliveries.concurrency import Concurrency
from relay.core.deliveries.response_head import ends_in
from relay.core.records import CallbackRoom
from relay.core.relay_events import create_unknown_data
from tests.support.store_kit import intent


def test_room_for_a_callback_is_of_one_job() -> None:
    room = CallbackRoom(("1", "revor", "default", ""), fewer_than=3)
    assert room.job == ("1", "revor", "default", "")


def test_the_response_time_of_a_sink_is_that_of_a_single_request() -> None:
    window = Concurrency(ceiling=8)
    assert window.alone_seconds == math.inf
    window.succeeded(0.25, in_flight=1, full=False)
    assert window.alone_seconds == 0.25


@pytest.mark.parametrize(
    ("raw", "ends"), [(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n", True), (b"A: b\n\n", True), (b"A: b\r\n", False)]
)
def test_the_end_of_a_head_is_found(raw: bytes, ends: bool) -> None:
    assert ends_in(raw) is ends


@pytest.mark.parametrize(("key", "advice"), [("key 1", "Idempotency-Key"), (None, "mark it as sent or not sent")])
def test_what_to_do_about_a_create_of_unknown_fate_depends_on_its_key(key: str | None, advice: str) -> None:
    data = create_unknown_data(intent(idempotency_key=key))
    assert data["idempotency_key_given"] is (key is not None)
    assert advice in data["fix"]
