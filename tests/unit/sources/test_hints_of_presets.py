"""The commonest errors of each preset have a meaning and a fix of their own, in its hints.yaml."""

import re

import pytest

from relay.core.jobs.job import POLL, Problem
from relay.sources.definition import SourceDefinition, load_definition, presets

PRESETS = {name: load_definition(name) for name in presets() if name != "revor"}
EXPECTED = {
    "anthropic-batch": ("authentication_error", "billing_error", "rate_limit_error", "overloaded_error"),
    "apify": ("user-or-token-not-found", "rate-limit-exceeded", "actor-memory-limit-exceeded", "failed", "timed_out"),
    "azure-lro": ("ExpiredAuthenticationToken", "AuthorizationFailed", "TooManyRequests", "QuotaExceeded"),
    "databricks-runs": (
        "UNAUTHENTICATED",
        "PERMISSION_DENIED",
        "REQUEST_LIMIT_EXCEEDED",
        "FAILED",
        "TIMEDOUT",
        "UPSTREAM_FAILED",
    ),
    "github-actions": ("401", "403", "failure", "timed_out", "startup_failure", "action_required"),
    "openai-batch": ("invalid_api_key", "insufficient_quota", "rate_limit_exceeded", "token_limit_exceeded", "expired"),
    "replicate": ("Unauthenticated", "Insufficient credit", "Too many requests", "aborted"),
    "runway": ("SAFETY.INPUT.TEXT", "SAFETY.OUTPUT.VIDEO", "INTERNAL.BAD_OUTPUT.CODE01", "ASSET.INVALID", "INTERNAL"),
    "stripe-reporting": ("api_key_expired", "resource_missing", "rate_limit", "lock_timeout"),
}
CODES = [(name, code) for name, one in PRESETS.items() for code in (*one.hints.codes, *one.hints.patterns)]
ADVICE_ON_REPEATING = re.compile(r"try|tried|again|retr|repeat|safe|twice", re.IGNORECASE)


def test_no_preset_is_left_out() -> None:
    assert set(EXPECTED) == set(PRESETS)


@pytest.mark.parametrize(("name", "code"), [(name, code) for name, codes in EXPECTED.items() for code in codes])
def test_common_error_has_a_hint_of_its_own(name: str, code: str) -> None:
    definition = PRESETS[name]
    for kind in ("failed", POLL):
        hint = definition.hint_for(Problem(code=code, message=code), kind)
        other = definition.hint_for(Problem(code="never_heard_of", message=""), kind)
        assert hint is not None
        assert other is not None
        assert hint.meaning.replace(code, "") != other.meaning.replace("never_heard_of", "")


@pytest.mark.parametrize(("name", "code"), CODES)
def test_hint_leaves_repeating_to_its_field_and_names_its_own_upstream(name: str, code: str) -> None:
    definition = PRESETS[name]
    hint = definition.hint_for(Problem(code=code, message=""), "failed")

    assert hint is not None
    text = f"{hint.meaning}. {hint.fix}"
    assert not ADVICE_ON_REPEATING.search(text)
    assert "{" not in text
    assert not (titles_of_others(definition) & set(re.findall(r"\w+", text)))


def titles_of_others(definition: SourceDefinition) -> set[str]:
    return {"Revor", *(one.title for one in PRESETS.values())} - {definition.title}
