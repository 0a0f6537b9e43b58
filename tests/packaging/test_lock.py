"""Installs are locked by hash, and known vulnerabilities are asked for."""

import os
import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.lock import ARTEFACTS_LOCK, AUDIT_LOCK, CLIENTS_LOCK, LOCK, PRODUCTION_LOCK, ROOT, hashes, pins

AUDIT = ROOT / ".ci" / "audit"


@pytest.mark.parametrize(
    "path",
    [LOCK, PRODUCTION_LOCK, AUDIT_LOCK, CLIENTS_LOCK, ARTEFACTS_LOCK],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_every_pin_has_an_exact_version_and_hashes(path: Path) -> None:
    found = hashes(path)
    assert len(found) > 20
    for pin, known in found.items():
        assert re.fullmatch(r"[a-z0-9-]+==[\w.+]+( ; .+)?", pin), pin
        assert known, f"{pin} has no hash"
        assert len(set(known)) == len(known)
    assert "://" not in path.read_text(), "a lock names no host: pip's own settings say where packages come from"


def test_lock_has_wheels_of_each_platform_and_python() -> None:
    """Packages with compiled code have a file for each: about fifteen. What uv found is all that the index has."""
    found = {pin.partition("==")[0]: len(known) for pin, known in hashes(LOCK).items()}
    compiled = ("aiohttp", "asyncpg", "greenlet", "httptools", "orjson", "pydantic-core", "sqlalchemy", "uvloop")
    assert {name: found[name] for name in compiled if found[name] < 15} == {}


def test_this_environment_is_what_the_lock_pins() -> None:
    wrong = {}
    for requirement in map(Requirement, pins(LOCK)):
        if requirement.marker is None or requirement.marker.evaluate():
            (pinned,) = requirement.specifier
            if version(requirement.name) != pinned.version:
                wrong[requirement.name] = (version(requirement.name), pinned.version)
    assert wrong == {}


def test_lock_pins_all_that_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = [text for extra in project["project"]["optional-dependencies"].values() for text in extra]
    asked = [*project["project"]["dependencies"], *extras, *project["dependency-groups"]["dev"]]
    pinned = {requirement.name: requirement for requirement in map(Requirement, pins(LOCK))}
    for requirement in map(Requirement, asked):
        if requirement.name == project["project"]["name"]:  # the extra `all` names the others
            continue
        pin = pinned.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name}: run `make lock`"
        (one,) = pin.specifier
        assert requirement.specifier.contains(one.version, prereleases=True), f"{requirement}: run `make lock`"


@pytest.mark.parametrize(("group", "lock"), [("clients", CLIENTS_LOCK), ("artefacts", ARTEFACTS_LOCK)])
def test_lock_of_another_environment_pins_each_of_its_group(group: str, lock: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pinned = {pin.partition("==")[0] for pin in pins(lock)}
    asked = project["dependency-groups"][group]
    assert {canonicalize_name(Requirement(text).name) for text in asked} <= pinned


def test_production_installs_what_the_tests_ran_with() -> None:
    tested, installed = hashes(LOCK), hashes(PRODUCTION_LOCK)
    versions = {pin.partition(" ")[0]: known for pin, known in tested.items()}
    assert {pin for pin in installed if pin.partition(" ")[0] not in versions} == set()
    assert all(versions[pin.partition(" ")[0]] == known for pin, known in installed.items())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {pin.partition("==")[0] for pin in installed}
    asked = [*project["dependencies"], *project["optional-dependencies"]["postgres"], "hatchling"]
    assert {canonicalize_name(Requirement(text).name) for text in asked} <= names


def test_make_installs_nothing_but_what_the_lock_pins() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    installs = re.findall(r"pip install (.+)", recipe)
    locked = [line for line in installs if line.rstrip().endswith("-r tests/requirements.lock")]
    assert len(locked) == 1
    assert "--require-hashes --no-deps" in locked[0]
    others = [line for line in installs if line not in locked and not line.startswith("uv")]
    assert others
    assert all("--no-deps" in line and "--no-build-isolation" in line for line in others), others


STUB = """#!/usr/bin/env bash
{says}
"""


def audited(folder: Path, says: str) -> "subprocess.CompletedProcess[str]":
    """The check with a stand-in for pip-audit."""
    stub = folder / "pip audit"
    stub.write_text(STUB.format(says=says))
    stub.chmod(0o755)
    environ = {**os.environ, "PIP_AUDIT": str(stub)}
    return subprocess.run(["bash", str(AUDIT)], env=environ, cwd="/", capture_output=True, text=True, timeout=60)


def test_known_vulnerability_fails_the_check(tmp_path: Path) -> None:
    vulnerable = '{"name": "a", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}'
    ran = audited(tmp_path, f"""echo '{{"dependencies": [{vulnerable}, {{"name": "b", "version": "2"}}]}}'; exit 1""")
    assert ran.returncode == 1
    assert ran.stdout == "a 1.0: PYSEC-1, fixed in 1.1\n"


def test_audit_without_a_network_skips_loudly(tmp_path: Path) -> None:
    ran = audited(tmp_path, "echo 'requests.exceptions.ConnectionError: no route' >&2; exit 1")
    assert ran.returncode == 0
    assert "PIP-AUDIT SKIPPED, NOTHING WAS CHECKED" in ran.stderr


def test_audit_is_asked_for_the_whole_lock(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    audited(tmp_path, f"""echo "$@" > '{asked}'; echo '{{"dependencies": []}}'""")
    assert "--require-hashes --disable-pip" in asked.read_text()
    assert asked.read_text().rstrip().endswith("--requirement tests/requirements.lock")


def test_ci_runs_the_audit() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "bash .ci/run" in workflow
    assert "make audit" in workflow


def test_actions_of_workflows_are_pinned_by_commit() -> None:
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
    used = [line for path in workflows for line in path.read_text().splitlines() if re.search(r"\buses:", line)]
    assert used
    for line in used:
        assert re.search(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
