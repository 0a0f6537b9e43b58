"""Entries of the audit in words: every action has some, and names stand where ids were."""

import re
from pathlib import Path

import pytest

from relay.web.audit_words import said, words_of
from relay.web.pages.administration import ACTIONS

DOCUMENT = Path(__file__).parents[3] / "docs" / "operate" / "audit.md"
NAMES = {"sub_1": "Data warehouse", "tok_1": "crm-sync"}


def entry(action, target=None, *, actor="Ada", token_id="tok_9", result="ok", count=1, detail=None):
    return {
        "action": action,
        "target": target,
        "actor": actor,
        "token_id": token_id,
        "result": result,
        "count": count,
        "detail": detail,
    }


@pytest.mark.parametrize(
    ("given", "sentence", "path"),
    [
        (
            entry("subscriptions.create", "sub_1"),
            "The token Ada made the subscription Data warehouse",
            "/ui/subscriptions/sub_1",
        ),
        (entry("subscriptions.create", "sub_2"), "The token Ada made the subscription sub_2", ""),
        (
            entry("subscriptions.pause", "sub_1", result="refused"),
            "The token Ada tried to pause the subscription Data warehouse",
            "/ui/subscriptions/sub_1",
        ),
        (entry("tokens.revoke", "tok_1"), "The token Ada revoked the token crm-sync", ""),
        (entry("tokens.create", "tok_2", detail={"name": "old"}), "The token Ada created the token old", ""),
        (entry("tokens.create", "tok_2", detail={"name": 7}), "The token Ada created the token tok_2", ""),
        (entry("deliveries.retry", "dlv_1"), "The token Ada sent the delivery dlv_1 again", ""),
        (entry("jobs.register", count=1), "The token Ada registered a job", ""),
        (entry("jobs.register", count=27), "The token Ada registered 27 jobs", ""),
        (entry("node.start", actor="relay", token_id=None), "The relay started a node", ""),
        (entry("node.start", actor="relay"), "The token relay started a node", ""),
        (
            entry("tokens.create", "tok_1", actor="command line", token_id=None),
            "The command line created the token crm-sync",
            "",
        ),
        (
            entry("login.refused", actor="others", token_id=None, count=4),
            "Other callers sent 4 requests without a valid token",
            "",
        ),
        (entry("of.a.newer.version", "it", result="failed"), "The token Ada of.a.newer.version it", ""),
        (entry("of.a.newer.version"), "The token Ada of.a.newer.version", ""),
    ],
)
def test_entry_is_a_sentence_with_names(given, sentence, path):
    found = said(given, NAMES)
    words = f"{found.who} {found.before}{' ' if not found.before.endswith(' ') else ''}{found.what}{found.after}"
    assert words.strip() == sentence
    assert found.path == path


def documented() -> set[str]:
    """The actions that the document lists: `.replace` after `subscriptions.create` is one of subscriptions."""
    found, before = set(), ""
    for row in re.findall(r"^\| (`.*?) \|", DOCUMENT.read_text(), re.MULTILINE):
        for name in re.findall(r"`([a-z_.]+)`", row):
            before = name.partition(".")[0] if not name.startswith(".") else before
            found.add(f"{before}{name}" if name.startswith(".") else name)
    return found - {"refused"}


@pytest.mark.parametrize("action", sorted(documented() | set(ACTIONS)))
def test_each_action_has_words(action):
    assert words_of(action) != action
    assert said(entry(action, "it"), {}).before


def test_action_to_choose_has_no_number_and_no_gap():
    assert words_of("jobs.register") == "register jobs"
    assert words_of("deliveries.retry") == "send the delivery again"
    assert words_of("intents.recipient") == "look up whom the unknown send was for"
    assert words_of("of.a.newer.version") == "of.a.newer.version"
