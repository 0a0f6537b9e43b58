"""Every test runs in `make test` or in `make verify`, and CI runs both."""

import re

import pytest

from tests.support.lock import ROOT
from tests.support.order import SECONDS

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def runs() -> dict[str, list[str]]:
    """The calls of pytest in each target's recipe."""
    recipes = {name: re.search(rf"^{name}: .*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE) for name in ("test", "verify")}
    return {name: re.findall(r"-m pytest (.+)", found[1]) for name, found in recipes.items() if found}


def test_together_they_run_all_tests(runs: dict[str, list[str]]) -> None:
    """`verify` leaves the folders of relay/core's tests to its second call, which has no marker."""
    assert runs["test"] == ['$(AT_ONCE) -n $(TWO_EACH) -m "not verify"']
    marked, core = runs["verify"]
    assert marked == "$(AT_ONCE) -n $(TWO_EACH) -m verify $(patsubst %,--ignore=%,$(CORE))"
    assert " $(CORE) " in core
    assert "-m " not in core
    assert not re.search(r"^AT_ONCE :=.*(-m |-k |--ignore|--deselect)", MAKEFILE, re.MULTILINE)


def test_ci_runs_both_and_ends_with_their_code() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "set -euo pipefail" in script
    assert re.findall(r"make (\w+)", script) == ["test", "verify"]
    assert "||" not in script


def test_every_file_that_the_recipes_name_is_there() -> None:
    named = set(re.findall(r"\btests/[\w/]+\.py\b", MAKEFILE)) | {f"tests/{file}" for file in SECONDS}
    listed = re.findall(r"tests/store/test_%\.py,([\w ]+)\)", MAKEFILE)
    named |= {f"tests/store/test_{name}.py" for names in listed for name in names.split()}
    assert len(named) > 30
    assert [file for file in sorted(named) if not (ROOT / file).is_file()] == []
