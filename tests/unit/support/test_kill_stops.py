"""The kill tests can put their stops into the relay, and the constants that tests set from outside exist."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
CONSTANTS = sorted(
    {
        found
        for path in (*TESTS.glob("support/*.py"), *TESTS.glob("e2e/*.py"))
        for found in re.findall(r'"(relay[\w.]*:[A-Z_]+)"', path.read_text(encoding="utf-8"))
    }
)


def test_stops_can_be_put_in() -> None:
    """Every method that a stop wraps exists: in a process of its own, as they stay."""
    code = "from tests.support.kill_stops import Stop; Stop('', 1).put_in()"
    ran = subprocess.run([sys.executable, "-c", code], cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("constant", CONSTANTS)
def test_the_constants_that_tests_set_exist(constant: str) -> None:
    module, _, name = constant.partition(":")
    assert hasattr(importlib.import_module(module), name)
