"""How much the long tests do: `make test` runs a short version of each, `make soak` sets SOAK=1 and runs all of it."""

import os
from typing import TypeVar

import pytest

SOAK = os.environ.get("SOAK") == "1"

Size = TypeVar("Size")

soak_only = pytest.mark.skipif(not SOAK, reason="runs in `make soak`")


def scaled(short: Size, long: Size) -> Size:
    """The size for this run."""
    return long if SOAK else short
