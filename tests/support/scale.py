"""How much the long tests do: a short version of each, or with SOAK=1, which `make soak` sets, all of it."""

import os
from collections.abc import Sequence
from itertools import product
from typing import Any, TypeVar

import pytest

SOAK = os.environ.get("SOAK") == "1"

Size = TypeVar("Size")

soak_only = pytest.mark.skipif(not SOAK, reason="runs in `make soak`")


def scaled(short: Size, long: Size) -> Size:
    """The size for this run."""
    return long if SOAK else short


def combined(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """With SOAK=1 all combinations of these values, else half: any two values of three factors meet."""
    numbered = product(*(enumerate(values) for values in factors))
    return [
        tuple(value for _, value in combination)
        for combination in numbered
        if SOAK or sum(number for number, _ in combination) % 2 == 0
    ]
