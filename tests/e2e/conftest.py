"""What the end-to-end tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process_world import Start, processes


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `relay` with these arguments and variables, in the test's folder."""
    with processes(tmp_path) as begin:
        yield begin
