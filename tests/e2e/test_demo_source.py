"""`make demo-source`: jobs of a source through the drop-in, and their events, within a minute."""

import pytest

from relay.errors import UsageError
from tests.stories.source import JOBS, demo


@pytest.mark.parametrize("source", ["openai-batch", "github-actions"])
async def test_every_job_of_a_source_ends_and_its_events_are_printed(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.stories.source.STEP_SECONDS", 0.5)
    lines: list[str] = []
    assert await demo(source, lines.append), lines
    created = [line.split()[1] for line in lines if line.startswith("created ")]
    assert len(set(created)) == JOBS
    for id in created:
        assert any(line.endswith(f"  {id}") for line in lines)
    assert lines[-1].startswith(f"{JOBS} of {JOBS} jobs ended: ")


async def test_source_without_recorded_answers_is_refused() -> None:
    with pytest.raises(UsageError, match="no recorded answers"):
        await demo("revor")
