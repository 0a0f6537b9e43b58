"""The workflows of GitHub as three programs judge them. Nothing runs them here."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.environments import artefacts_python
from tests.support.go_programs import go_program
from tests.support.lock import ROOT
from tests.support.system_programs import system_program

ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def judged(*command: str) -> str:
    """What the program finds fault with."""
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


def test_actionlint_and_shellcheck_find_nothing() -> None:
    shellcheck = system_program("shellcheck", "shellcheck")
    assert judged(str(go_program(ACTIONLINT)), f"-shellcheck={shellcheck}", *map(str, WORKFLOWS)) == ""


def test_zizmor_finds_nothing() -> None:
    program = artefacts_python().parent / "zizmor"
    assert judged(str(program), "--offline", "--persona=pedantic", "--no-progress", str(ROOT / ".github")) == ""
    assert "zizmor: ignore" not in "".join(path.read_text() for path in WORKFLOWS)
    assert not list((ROOT / ".github").glob("zizmor.*"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_each_job_has_the_rights_that_it_needs_and_a_limit(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert set(workflow["permissions"].values() if workflow["permissions"] else ()) <= {"read"}
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 60, name
        runs = "".join(step.get("run", "") for step in job["steps"])
        checks_out = any("actions/checkout" in step.get("uses", "") for step in job["steps"])
        writes = {right for right, how in (job.get("permissions") or {}).items() if how == "write"}
        if "make " in runs or "bash " in runs:  # runs what is in the repository: no right to publish
            assert checks_out
            assert writes == set(), name


def test_every_publication_waits_for_the_tests() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]

    def before(name: str) -> set[str]:
        needed = jobs[name].get("needs", [])
        return set(needed).union(*map(before, needed))

    assert {name for name in jobs if not {"test", "build"} <= before(name)} == {"test", "build"}
