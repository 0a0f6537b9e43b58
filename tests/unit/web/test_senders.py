"""Sending accounts in words."""

from typing import Any

import pytest

from relay.core.turns import OWNER, RELAY
from relay.web import senders


def sender(**changes: Any) -> dict[str, Any]:
    known = {"id": "acc_1", "channel": "linkedin", "name": "Ada", "state": "ok", "trouble": None, "open_jobs": 0}
    return {**known, **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "LinkedIn account Ada"),
        ({"channel": None}, "account Ada"),
        ({"name": None}, "LinkedIn account acc_1"),
        ({"name": "Old LinkedIn Account"}, "Old LinkedIn Account"),
    ],
)
def test_name(changes: dict[str, Any], words: str) -> None:
    assert senders.name_of(sender(**changes)) == words
    assert senders.title_of(sender(**changes)) == words[0].upper() + words[1:]


@pytest.mark.parametrize(
    ("changes", "state", "kind", "turn"),
    [
        ({}, "ok", "good", RELAY),
        ({"state": "needs_reconnect"}, "needs_reconnect", "warn", OWNER),
        ({"state": "needs_reconnect", "open_jobs": 1}, "needs_reconnect", "bad", OWNER),
        ({"state": "needs_reconnect", "failed_jobs": 1}, "needs_reconnect", "bad", OWNER),
        ({"state": "cannot_send", "trouble": "inc_1"}, "cannot_send", "bad", OWNER),
        ({"trouble": "inc_1"}, "fails", "bad", OWNER),
        ({"state": None, "trouble": "inc_1"}, "fails", "bad", OWNER),
        ({"state": None}, "unlisted", "quiet", RELAY),
        ({"state": "removed"}, "removed", "quiet", RELAY),
        ({"state": "removed", "open_jobs": 2}, "removed", "bad", OWNER),
        ({"state": "removed", "waiting": 2}, "removed", "bad", OWNER),
    ],
)
def test_state_and_turn(changes: dict[str, Any], state: str, kind: str, turn: str) -> None:
    one = sender(**changes)
    assert (senders.state_of(one), senders.kind_of(one), senders.turn_of_sender(one)) == (state, kind, turn)


def test_those_that_hold_up_most_jobs_come_first() -> None:
    few = sender(id="few", state="needs_reconnect", open_jobs=1)
    many = sender(id="many", state="needs_reconnect", open_jobs=9)
    busy = sender(id="busy", open_jobs=99)
    assert sorted([busy, few, many], key=senders.urgency) == [many, few, busy]
    assert senders.counts_of([few, many, busy]) == {"all": 3, "needs_reconnect": 2, "ok": 1}


def test_row_of_an_account_has_an_id_that_a_link_can_name() -> None:
    assert senders.anchor_of(sender(id="a b/c#d")) == "account-a%20b%2Fc%23d"
