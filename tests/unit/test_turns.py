"""Long computations yield to other tasks."""

import pytest

from relay import tasks
from relay.tasks import Turns


async def test_turn_is_over_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TURN_SECONDS", 60.0)
    assert not Turns().over
    monkeypatch.setattr(tasks, "TURN_SECONDS", 0.0)
    mine = Turns()
    assert mine.over
    monkeypatch.setattr(tasks, "TURN_SECONDS", 60.0)
    await mine.next()
    assert not mine.over
