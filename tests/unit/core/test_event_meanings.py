"""Every event type has a meaning, for the AsyncAPI description and the documents."""

import pytest

from relay.core.events.event import RELAY_EVENTS, source_event_types
from relay.core.events.meanings import _MEANINGS, meaning_of
from tests.support.job_events import origin_of

TYPES = (*source_event_types(origin_of()), "ai.revor.webset.completed", "ai.revor.webset.progress", *RELAY_EVENTS)


def test_every_type_has_a_meaning_and_every_meaning_a_type() -> None:
    assert {meaning_of(type) for type in TYPES} == set(_MEANINGS.values())


@pytest.mark.parametrize(
    ("type", "expected"),
    [
        ("ai.revor.account.recovered", "the account can send again"),
        ("relay.source.recovered", "polls succeed again"),
        ("example.acme.render.job.queued", "the job is queued"),
    ],
)
def test_meaning_is_that_of_the_kind(type: str, expected: str) -> None:
    assert meaning_of(type) == expected


def test_type_of_another_program_has_none() -> None:
    with pytest.raises(KeyError):
        meaning_of("com.acme.order.paid")
