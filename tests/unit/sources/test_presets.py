"""Each preset against its recorded answers: every stage of every fate is understood, and nothing is left unproven."""

import pytest

from relay.cli.definitions.coverage import coverage_of
from relay.cli.definitions.recorded import read_recorded
from relay.core.jobs.job import TERMINAL
from relay.sources.definition import load_definition, presets

RECORDED = tuple(name for name in presets() if name != "revor")  # the sandbox of Revor has tests of its own


@pytest.mark.parametrize("name", presets())
def test_preset_names_its_documentation(name: str) -> None:
    assert load_definition(name).documentation.startswith("https://")


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_answers_prove_the_whole_preset(name: str) -> None:
    found = coverage_of(read_recorded(name))
    assert found.gaps == []
    for fate in found.fates:
        assert [stage.state in TERMINAL for stage in fate.stages] == [False] * (len(fate.stages) - 1) + [True]
