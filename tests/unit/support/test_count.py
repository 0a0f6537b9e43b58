"""`make lint` prints how many lines of code the product has."""

import importlib.util
import subprocess
import sys

import pytest

from tests.support.lock import ROOT

TOOL = ROOT / ".ci" / "count.py"
spec = importlib.util.spec_from_file_location("count", TOOL)
assert spec is not None
assert spec.loader is not None
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("", 0),
        ("\n# a comment\n\n", 0),
        ("x = 1  # why\n", 1),
        ("x = (\n    1,\n\n    2,\n)\n", 4),
        ('"""A docstring\nof two lines."""\n\nimport os\n', 1),
        ('X = 1\n"""What it means."""\n', 1),
        ('def f():\n    """Says what."""\n    return """a text\nof two lines"""\n', 3),
    ],
)
def test_comments_docstrings_and_blank_lines_are_no_code(source: str, lines: int) -> None:
    assert tool.count(source) == lines


def test_count_is_the_last_line() -> None:
    ran = subprocess.run([sys.executable, TOOL, "--by-package"], capture_output=True, text=True, check=True)
    *packages, total = ran.stdout.splitlines()
    assert sum(int(line.split()[1].replace(",", "")) for line in packages) == int(total.split()[1].replace(",", ""))
    assert total.endswith("files")
