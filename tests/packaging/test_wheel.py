"""The wheel as a user gets it: what is inside, what it brings along, and that it runs with no source tree in sight.

`make verify` links the dependencies from this environment, which has the same pinned versions, and needs no index.
`make soak` has pip resolve, download and install them.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import relay
from tests.support import lock
from tests.support.lock import LOCK
from tests.support.scale import SOAK
from tests.support.typed import blocks, prompts

ROOT = Path(__file__).resolve().parents[2]
MAX_DISTRIBUTIONS = 55
MAX_BYTES = 110_000_000
NOT_OURS = {"pip", "setuptools", "wheel"}

pytestmark = pytest.mark.xdist_group("wheel")


def run(*command: str | Path, cwd: Path = ROOT, timeout_seconds: float = 300) -> str:
    """What the command prints, in an environment that says nothing of the source tree."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "REVOR_", "RELAY_", "COV"))
    }
    kept.pop("DATABASE_URL", None)
    ran = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept, capture_output=True, text=True, timeout=timeout_seconds
    )
    assert ran.returncode == 0, f"{command} ended with {ran.returncode}\n{ran.stdout[-3000:]}\n{ran.stderr[-6000:]}"
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target)
    (made,) = target.glob("revor_relay-*.whl")
    return made


def closure(requirements: Iterable[str]) -> dict[str, Distribution]:
    """The distributions of this environment that these requirements ask for, and those that they ask for, by name."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        wanted = found.setdefault(requirement.name, distribution(requirement.name))
        assert requirement.specifier.contains(wanted.version, prereleases=True), f"{requirement}: {wanted.version}"
        for each in {"", *requirement.extras} - {extra for name, extra in seen if name == requirement.name}:
            seen.add((requirement.name, each))
            waiting += [(Requirement(text), each) for text in wanted.requires or ()]
    return found


def link(distributions: Iterable[Distribution], site: Path) -> None:
    """Makes the distributions importable from another environment, as if they were installed there."""
    for one in distributions:
        for top in {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")}:
            source = Path(str(one.locate_file(top)))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)


def with_linked_pip(line: str) -> str:
    """`python3 -m venv PLACE`, with a `pip` that is linked afterwards: installing it takes seconds."""
    place = line.split()[-1]
    script = f'printf \'#!/bin/sh\\nexec "%s" -m pip "$@"\\n\' {place}/bin/python > {place}/bin/pip'
    return f"{line} --without-pip && {script} && chmod +x {place}/bin/pip"


def constraints(folder: Path) -> Path:
    """The pinned versions without their hashes: with them pip would want one for the wheel that was built here."""
    path = folder / "constraints.txt"
    path.write_text("".join(f"{pin}\n" for pin in lock.pins(LOCK)))
    return path


def requirements_of(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    return [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and what it asks for, nothing else."""
    venv = tmp_path_factory.mktemp("plain install") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    pip = (sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "--disable-pip-version-check")
    if SOAK:
        run(*pip, "install", "--quiet", "--no-compile", "-c", constraints(venv.parent), wheel)
    else:
        link(closure(requirements_of(wheel)).values(), site_packages(venv))
        run(*pip, "install", "--quiet", "--no-compile", "--no-index", wheel)
    return venv


def test_the_ways_to_install_work_as_they_are_written(wheel: Path, tmp_path: Path) -> None:
    """docs/operate/install.md, in a copy of what is in the repository."""
    clone, home = tmp_path / "clone", tmp_path / "home"
    home.mkdir()
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    first, extras, second = blocks((ROOT / "docs" / "operate" / "install.md").read_text(encoding="utf-8"), "console")
    pins = constraints(home)  # pip splits the variable at spaces
    make, *rest = prompts(first)
    between = []
    if SOAK:
        rest += prompts(extras)
    else:
        linked = tmp_path / "linked"
        linked.mkdir()
        link(closure([*requirements_of(wheel), "hatchling", "pip"]).values(), linked)
        make = with_linked_pip(make)
        into = "$HOME/revor-relay/lib/python3*/site-packages/"
        between = [f"cp -an '{linked}'/. {into}", "export PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=0 PIP_NO_COMPILE=1"]
    script = "\n".join(
        [f"export HOME='{home}' PIP_CONSTRAINT='{pins}'", make, *between, *rest, *prompts(second)],
    )
    printed = run("bash", "-ec", script, cwd=clone)
    assert f"relay {relay.__version__} (from source)" in printed.splitlines()  # the copy has no git
    assert printed.splitlines()[-1] == second.strip().splitlines()[-1]


@pytest.mark.parametrize("origin", ["wheel", "checkout", "editable checkout"])
def test_printed_command_installs_a_missing_extra(origin: str, wheel: Path, tmp_path: Path) -> None:
    """A stand-in of the driver is in the one folder where pip may look."""
    venv, found, clone = tmp_path / "my venv", tmp_path / "found", tmp_path / "my clone"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    link(closure([*requirements_of(wheel), "hatchling", "pip"]).values(), site_packages(venv))
    if origin == "wheel":
        from_here = [str(wheel)]
    else:
        from_here = [*(["-e"] if origin.startswith("editable") else []), str(clone)]
        tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True)
        for name in filter(None, tracked.stdout.decode().split("\0")):
            if (ROOT / name).is_file() and not name.startswith("tests/"):
                (clone / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, clone / name)
    found.mkdir()
    with zipfile.ZipFile(found / "asyncpg-0.31.0-py3-none-any.whl", "w") as made:
        info = "asyncpg-0.31.0.dist-info"
        made.writestr("asyncpg/__init__.py", "")
        made.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: asyncpg\nVersion: 0.31.0\n")
        made.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{info}/RECORD", "")
    offline = f"export PIP_NO_INDEX=1 PIP_FIND_LINKS='{found.as_uri()}' PIP_NO_BUILD_ISOLATION=0 PIP_NO_COMPILE=1; "
    python = venv / "bin" / "python"
    run("bash", "-ec", offline + shlex.join([str(python), "-m", "pip", "install", "--quiet", *from_here]))

    relay_command = f"DATABASE_URL=postgresql://127.0.0.1:9/none '{venv}/bin/relay' migrate 2>&1 || true"
    printed = run("bash", "-c", relay_command, cwd=tmp_path)
    assert printed.startswith("relay: PostgreSQL needs the extra postgres: "), printed
    run("bash", "-ec", offline + printed.partition("the extra postgres: ")[2], cwd=tmp_path)
    assert "needs the extra" not in run("bash", "-c", relay_command, cwd=tmp_path)
    assert (site_packages(venv) / "asyncpg" / "__init__.py").is_file()


def site_packages(venv: Path) -> Path:
    (folder,) = venv.glob("lib/python3*/site-packages")
    return folder


def test_data_files_are_inside_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()

    targets = {"alembic": "_migrations", "schemas": "_schemas", "deploy/salesforce": "_salesforce"}
    for folder, name in targets.items():
        target = f"relay/{name}"
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert f"{target}/{path.relative_to(ROOT / folder).as_posix()}" in names
    for path in (ROOT / "relay" / "sources").glob("*.yaml"):
        assert f"relay/sources/{path.name}" in names
    assert "relay/_relay.yaml" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_nothing_else_lands_beside_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"relay", "subscribers"}


def test_stand_ins_of_vendors_stay_in_the_repository(wheel: Path) -> None:
    mark = b"of-the-stand-in"
    with zipfile.ZipFile(wheel) as archive:
        shipped = [name for name in archive.namelist() if mark in archive.read(name)]

    assert shipped == []
    assert any(mark in path.read_bytes() for path in (ROOT / "tests" / "vendors").glob("*.py"))


def test_a_plain_install_is_small(installed: Path) -> None:
    packages = site_packages(installed)
    brought = [found for found in distributions(path=[str(packages)]) if found.name.lower() not in NOT_OURS]
    sizes = {
        found.name: sum(
            path.stat().st_size for file in found.files or () if (path := Path(str(found.locate_file(file)))).is_file()
        )
        for found in brought
    }

    assert len(brought) <= MAX_DISTRIBUTIONS, sorted(sizes)
    assert sum(sizes.values()) <= MAX_BYTES, sorted(sizes.items(), key=lambda item: -item[1])[:10]


def test_the_demo_runs_from_the_wheel_alone(installed: Path) -> None:
    where = run(installed / "bin" / "python", "-c", "import relay; print(relay.__file__)", cwd=Path("/"))
    assert Path(where.strip()).is_relative_to(installed)

    printed = run(*(installed / "bin" / "relay", "demo", "--jobs", "5", "--speed", "600", "--json"), cwd=Path("/"))

    report = json.loads(printed.splitlines()[-1])
    assert report["jobs"] == 5
    assert report["lost"] == 0
    assert report["out_of_order"] == 0
    assert report["signature_failures"] == 0
