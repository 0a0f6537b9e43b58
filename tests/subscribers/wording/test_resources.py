"""Events of resources whose type is not `….job.…`: what messages say of them, and which of them kinds want."""

import pytest

from relay.core.samples import sample_event
from subscribers.registry import kind_named
from subscribers.wording.jobs import job_kind, job_sentence
from tests.support.job_events import NOW, origin_of

WEBSETS = origin_of("ai.revor.webset", succeeded_as="completed")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("running", "Webset (job ws-1) is running"),
        ("succeeded", "Webset (job ws-1) was completed"),
        ("failed", "Webset (job ws-1) failed"),
    ],
)
def test_sentence_names_what_the_job_is(kind: str, sentence: str) -> None:
    assert job_sentence(kind, {"type": WEBSETS.type_of(kind), "subject": "ws-1", "data": {}}) == sentence


def test_success_by_another_word_is_one() -> None:
    event = sample_event(
        "ai.revor.webset.completed", event_id="evt_1", now=NOW, origin=WEBSETS, dataschema_base="http://x"
    )
    assert job_kind(event) == "succeeded"


def test_ends_that_a_crm_gets_are_named_as_their_resource_names_them() -> None:
    found = kind_named("hubspot").default_types([origin_of(), origin_of(), WEBSETS])
    assert found == (
        *(f"ai.revor.job.{word}" for word in ("succeeded", "failed", "cancelled", "not_found")),
        *(f"ai.revor.webset.{word}" for word in ("completed", "failed", "cancelled", "not_found")),
    )
