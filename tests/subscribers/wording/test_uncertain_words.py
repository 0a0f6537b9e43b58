"""`relay.delivery.uncertain` in words: why a CRM cannot tell, whatever kind says so."""

import re
from pathlib import Path

import pytest

import subscribers
from relay.core.deliveries.ledger import DOUBTS
from relay.core.events.event import DELIVERY_UNCERTAIN
from subscribers.base import RenderContext
from subscribers.wording.relay import relay_sentence

FILES = Path(subscribers.__path__[0]).rglob("*.py")
REASONS = {one for file in FILES for one in re.findall(r'uncertain\("(\w+)"\)', file.read_text(encoding="utf-8"))}


def test_every_reason_of_a_kind_has_words_and_no_other_has() -> None:
    assert set(DOUBTS) == REASONS


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_reason_is_told_in_words(reason: str) -> None:
    data = {"kind": "hubspot", "record": "task", "event_type": "ai.revor.job.failed", "last_error": reason}
    told = relay_sentence(DELIVERY_UNCERTAIN, data, RenderContext())
    assert told == f"A task in HubSpot about a failed job may or may not have been written: {DOUBTS[reason]}"
