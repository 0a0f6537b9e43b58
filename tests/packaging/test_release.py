"""What a release consists of: each archive says what it is built from, and has the same bytes wherever it is built."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from datetime import datetime
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from packaging.metadata import Metadata

import relay
from tests.support.environments import artefacts_python
from tests.support.lock import PRODUCTION_LOCK, ROOT, pins

SECONDS = 1795000000
DAY = "2026-11-18"
TOPS = {
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "PKG-INFO",
    "README.md",
    "hatch_build.py",
    "pyproject.toml",
    "relay.yaml",
}
PARTS = ("relay", "client_python", "chart", "sbom")
FOLDERS = {"alembic", "deploy", "relay", "schemas", "subscribers"}

pytestmark = pytest.mark.xdist_group("release")


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REVOR_", "GIT_"))}
    kept.pop("SOURCE_DATE_EPOCH", None)
    ran = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept | variables, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, f"{command} ended with {ran.returncode}\n{ran.stdout[-3000:]}\n{ran.stderr[-6000:]}"
    return ran.stdout


def git(folder: Path, *arguments: str) -> str:
    named = (
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@example.com",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "core.hooksPath=/",
    )
    day = f"{SECONDS} +0000"
    return run("git", *named, *arguments, cwd=folder, GIT_AUTHOR_DATE=day, GIT_COMMITTER_DATE=day).strip()


def build(folder: Path, into: Path, **variables: str) -> Path:
    """The wheel that `python -m build` makes of the folder."""
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", into, folder, cwd=folder, **variables)
    (made,) = into.iterdir()
    return made


def release(folder: Path, into: Path, **variables: str) -> dict[str, Path]:
    """What `make release` makes of the folder, but the image."""
    program = (sys.executable, ".ci/release.py", "--artefacts", artefacts_python(), "--out", into)
    run(*program, *PARTS, cwd=folder, **variables)
    return {path.name: path for path in into.iterdir()}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with what is tracked here, without the tests, as one commit."""
    folder = tmp_path_factory.mktemp("first") / "clone"
    listed = git(ROOT, "ls-files", "-co", "--exclude-standard", "-z").split("\0")
    for name in listed:
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/img/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "All")
    return folder


@pytest.fixture(scope="module")
def built(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return release(clone, tmp_path_factory.mktemp("dist"), TZ="UTC")


@pytest.fixture(scope="module")
def wheel(built: dict[str, Path]) -> Path:
    return built[f"revor_relay-{relay.__version__}-py3-none-any.whl"]


@pytest.fixture(scope="module")
def sdist(built: dict[str, Path]) -> Path:
    return built[f"revor_relay-{relay.__version__}.tar.gz"]


def stamp(wheel: Path) -> str | None:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read("relay/_build.txt").decode() if "relay/_build.txt" in archive.namelist() else None


def version(wheel: Path, folder: Path) -> str:
    """What `relay --version` prints from this wheel, which is unpacked into the folder."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return run(sys.executable, "-m", "relay", "--version", cwd=folder).strip()


def test_version_names_the_commit_and_its_day(clone: Path, wheel: Path, tmp_path: Path) -> None:
    commit = git(clone, "rev-parse", "HEAD")
    assert version(wheel, tmp_path) == f"relay {relay.__version__} (commit {commit[:8]}, built {DAY})"


def test_version_of_an_editable_install_says_so() -> None:
    assert not (ROOT / "relay" / "_build.txt").exists()
    printed = run(sys.executable, "-m", "relay", "--version", cwd=ROOT)
    assert printed == f"relay {relay.__version__} (from source)\n"


def test_second_build_elsewhere_has_the_same_bytes(
    clone: Path, built: dict[str, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In another folder, with other rights and times of files, in another time zone and order of creation."""
    elsewhere = tmp_path / "another place"
    shutil.copytree(clone, elsewhere, copy_function=shutil.copy)
    for path in elsewhere.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    before = os.umask(0o077)
    try:
        again = release(elsewhere, tmp_path_factory.mktemp("again"), TZ="Asia/Tokyo", LC_ALL="C")
    finally:
        os.umask(before)
    assert {name: _digest(path) for name, path in again.items()} == {
        name: _digest(path) for name, path in built.items()
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_wheel_from_the_sdist_alone_names_the_same_commit(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    """A package of a distribution is built from the sdist, inside another repository."""
    git(tmp_path, "init", "-q")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build(tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "dist", SOURCE_DATE_EPOCH=f"{SECONDS}")
    assert _digest(again) == _digest(wheel)


@pytest.mark.parametrize(
    ("has_git", "variables", "said"),
    [
        (
            False,
            {"REVOR_RELAY_COMMIT": "f00dfeed" * 5, "SOURCE_DATE_EPOCH": f"{SECONDS}"},
            f"commit f00dfeed, built {DAY}",
        ),
        (True, {"REVOR_RELAY_COMMIT": "f00dfeed" * 5, "SOURCE_DATE_EPOCH": "0"}, "commit f00dfeed, built 1970-01-01"),
        (False, {}, None),
        (False, {"REVOR_RELAY_COMMIT": "f00dfeed"}, None),
        (True, {}, "commit HEAD with changes, built " + DAY),
    ],
    ids=["named, no git", "named", "nothing", "no day", "changed"],
)
def test_build_says_what_is_known(
    has_git: bool, variables: dict[str, str], said: str | None, clone: Path, tmp_path: Path
) -> None:
    """Of a folder that has what hatchling needs, and nothing else."""
    folder = tmp_path / "small"
    folder.mkdir()
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "relay.yaml"):
        shutil.copy(clone / name, folder / name)
    for name in ("alembic", "schemas", "deploy/salesforce", "subscribers", "relay"):
        (folder / name).mkdir(parents=True)
    shutil.copy(clone / "relay" / "__init__.py", folder / "relay" / "__init__.py")
    if has_git:
        git(folder, "init", "-q")
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", "All")
        said = said and said.replace("HEAD", git(folder, "rev-parse", "HEAD")[:8])
        (folder / "relay.yaml").write_text("# changed\n")
    assert stamp(build(folder, tmp_path / "dist", **variables)) == said


def test_sdist_has_the_sources_and_nothing_else(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    root = sdist.name.removesuffix(".tar.gz")
    names = {member.name.removeprefix(f"{root}/") for member in members}
    assert {name for name in names if "/" not in name} == TOPS
    assert {name.partition("/")[0] for name in names if "/" in name} == FOLDERS
    tracked = set(git(ROOT, "ls-files", "-co", "--exclude-standard").splitlines())
    assert names - {"PKG-INFO", "relay/_build.txt"} - tracked == set()
    assert {(member.uid, member.gid, member.uname, member.mode & 0o022) for member in members} == {(0, 0, "", 0)}


def test_package_index_can_show_the_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Metadata.from_email(archive.read(name), validate=True)
    assert metadata.version is not None
    assert str(metadata.version) == relay.__version__
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description
    tokens = [inline for token in MarkdownIt().parse(metadata.description) for inline in token.children or ()]
    shown = [str(one.attrs[key]) for one in tokens for key in ("href", "src") if key in one.attrs]
    assert len(shown) > 30
    assert [target for target in shown if not re.match(r"https://|#", target)] == []
    written = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    home = "https://github.com/revor-relay/revor-relay"
    for path in written:
        assert (ROOT / path).exists()
        assert any(target.startswith((f"{home}/blob/main/{path}", f"{home}/raw/main/{path}")) for target in shown)


def test_checksums_are_those_of_every_archive(built: dict[str, Path]) -> None:
    sums = built["SHA256SUMS"]
    checked = run("sha256sum", "--check", "--strict", sums, cwd=sums.parent)
    assert sorted(line.partition(":")[0] for line in checked.splitlines()) == sorted(set(built) - {"SHA256SUMS"})


def test_sbom_lists_what_the_image_has(built: dict[str, Path], tmp_path: Path) -> None:
    path = built[f"revor-relay-{relay.__version__}.cdx.json"]
    check = (
        "import sys; from cyclonedx.schema import SchemaVersion;"
        "from cyclonedx.validation.json import JsonStrictValidator;"
        "sys.exit(str(JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read()) or '') or 0)"
    )
    run(artefacts_python(), "-c", check, path, cwd=tmp_path)
    text = path.read_text(encoding="utf-8")
    made = json.loads(text)
    listed = {component["purl"] for component in made["components"]}
    (uninstalled,) = re.findall(
        r"pip uninstall --quiet --yes (.+?) *\\$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    removed = {*uninstalled.split(), "colorama"}  # the last is for Windows
    pinned = {pin.partition(" ;")[0].partition("==")[::2] for pin in pins(PRODUCTION_LOCK)}
    assert listed == {f"pkg:pypi/{name}@{version}" for name, version in pinned if name not in removed}
    assert made["metadata"]["component"]["version"] == relay.__version__
    assert made["metadata"]["timestamp"].startswith(DAY)
    assert "serialNumber" not in made
    assert str(Path.home()) not in text
    assert str(ROOT) not in text


def test_missing_archive_fails_the_release(clone: Path, tmp_path: Path) -> None:
    without = tmp_path / "without"
    shutil.copytree(clone, without, ignore=shutil.ignore_patterns("clients", "relay"))
    (without / "relay").mkdir()
    shutil.copy(clone / "relay" / "__init__.py", without / "relay")
    command = [sys.executable, ".ci/release.py", "--out", "dist", "client_python"]
    ran = subprocess.run(command, cwd=without, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "NOT A RELEASE: files are changed that are not committed" in ran.stderr
    assert "client_python: clients/python is not in this commit" in ran.stderr


def release_image(clone: Path, folder: Path, **engines: str) -> tuple[dict[str, Path], str]:
    """What `make release` makes of the chart and the image, and says on stderr, with these programs for engines."""
    for name, text in engines.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    command = [sys.executable, ".ci/release.py", "--out", folder / "dist", "chart", "image"]
    kept = {name: value for name, value in os.environ.items() if name not in ("BASE", "ENGINE", "MAKEFLAGS")}
    environ = kept | {"PATH": f"{folder}:{os.environ['PATH']}"}
    ran = subprocess.run(command, cwd=clone, env=environ, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return {path.name: path for path in (folder / "dist").iterdir()}, ran.stderr


DOWN = "echo 'Cannot connect to the daemon' >&2; exit 1"


def test_image_is_saved_by_the_engine_that_answers(clone: Path, tmp_path: Path) -> None:
    """Docker's client is often installed where its daemon does not run."""
    takes = f'case $1 in save) echo image > "$3";; build) printf "%s\\n" "$@" > "{tmp_path}/asked";; esac'
    made, said = release_image(clone, tmp_path, docker=DOWN, podman=takes)
    archive = made[f"revor-relay-{relay.__version__}-image.tar"]
    assert archive.read_text() == "image\n"
    assert f"{_digest(archive)}  {archive.name}\n" in made["SHA256SUMS"].read_text()
    assert said == ""
    commit = git(clone, "rev-parse", "HEAD")
    arguments = dict(re.findall(r"^(\w+)=(.*)$", (tmp_path / "asked").read_text(), re.MULTILINE))
    created = datetime.fromisoformat(arguments.pop("CREATED"))
    assert arguments == {"VERSION": relay.__version__, "REVISION": commit}
    assert created.timestamp() == SECONDS


@pytest.mark.parametrize(
    ("podman", "said"),
    [
        (
            DOWN,
            "neither 'docker info' nor 'podman info' answers: "
            "start Docker, install podman, or as root on Debian add BASE=debian",
        ),
        (
            "[ $1 = info ] || { echo 'no such host' >&2; exit 125; }",
            "no such host\npodman built no image. Without a registry, as root on Debian: add BASE=debian",
        ),
    ],
    ids=["no engine", "no registry"],
)
def test_missing_image_is_said_loudly_and_fails_nothing(clone: Path, tmp_path: Path, podman: str, said: str) -> None:
    made, printed = release_image(clone, tmp_path, docker=DOWN, podman=podman)
    assert printed == f"IMAGE NOT BUILT, the other archives are whole: {said}\n"
    assert set(made) == {f"revor-relay-{relay.__version__}.tgz", "SHA256SUMS"}


def test_text_of_the_release_is_the_changelogs_section() -> None:
    text = run(sys.executable, ".ci/release.py", "--notes", cwd=ROOT)
    written = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(relay.__version__)}\] - \d{{4}}-\d\d-\d\d$", written, re.MULTILINE)
    assert "\n## " not in text
    assert "Compared with" not in text
    assert re.findall(r"\]\((?!https://)", text) == []
    for heading in ("Do this first", "New", "Changed", "Fixed"):
        assert f"### {heading}\n" in text


def test_nothing_else_says_the_version() -> None:
    """Where a document names it as an example, it is this one."""
    for path in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml"]:
        text = path.read_text(encoding="utf-8")
        found = set(re.findall(r"\b(?:revor[-_]relay-|relay )v?(\d+\.\d+\.\d+)\b", text))
        assert found <= {relay.__version__}, path


def test_clients_and_chart_have_the_version_of_the_relay() -> None:
    said = {
        ROOT / "clients" / "python" / "revor_relay_client" / "_version.py": r'__version__ = "(.+)"',
        ROOT / "clients" / "typescript" / "package.json": r'^  "version": "(.+)"',
        ROOT / "deploy" / "helm" / "revor-relay" / "Chart.yaml": r'^(?:version|appVersion): "?([^"\n]+)',
    }
    for path, pattern in said.items():
        assert set(re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)) == {relay.__version__}, path
