"""Names in messages: of the person whom a job is about, and of the upstream."""

from typing import Any

import pytest

from subscribers.base import RenderContext
from subscribers.wording.jobs import whom
from subscribers.wording.relay import relay_sentence


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"recipient_name": "Alex", "name": "Kim"}, " to Alex"),
        ({"full_name": "Ada Lovelace"}, " to Ada Lovelace"),
        ({"contact_name": "Ada"}, " to Ada"),
        ({"first_name": "Ada", "last_name": "Lovelace"}, " to Ada Lovelace"),
        ({"first_name": "Ada"}, " to Ada"),
        ({"name": "ada@example.com", "first_name": "Ada"}, " to Ada"),
        ({"name": ["Ada"], "deal": "Example Ltd"}, " for Example Ltd"),
        ({"email": "ada@example.com", "deal": 42}, " for deal 42"),
        ({"email": "ada@example.com"}, ""),
        ({"phone": "+1 415 555 2671"}, ""),
        ({"customer": "Example Ltd"}, ""),
    ],
)
def test_person_is_named_by_the_metadata_else_by_what_jobs_are_searched_by(
    metadata: dict[str, Any], named: str
) -> None:
    assert whom({"data": {"metadata": metadata}}, ("email", "phone", "deal")) == named


@pytest.mark.parametrize("source", ["main", "revor"])
def test_upstream_is_named_by_its_title(source: str) -> None:
    data = {"source": source, "account": "default", "hint": {"meaning": "Revor does not answer"}}
    context = RenderContext(titles={source: "Revor"})
    assert relay_sentence("relay.source.down", data, context) == "Revor does not answer"
    data["hint"] = {"meaning": "Revor gave no answer in time"}
    assert relay_sentence("relay.source.down", data, context) == "Revor does not answer: Revor gave no answer in time"


@pytest.mark.parametrize(
    ("meaning", "sentence"),
    [
        ("Revor refuses the API key", "Revor refuses the API key"),
        ("The Revor API key has expired", "Revor refuses the API key: it has expired"),
        ("Revor does not know this API key", "Revor refuses the API key: Revor does not know this API key"),
    ],
)
def test_refused_key_is_named_once(meaning: str, sentence: str) -> None:
    data = {"source": "revor", "account": "default", "hint": {"meaning": meaning}}
    assert relay_sentence("relay.source.unauthorized", data, RenderContext(titles={"revor": "Revor"})) == sentence
