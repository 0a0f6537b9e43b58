"""`make release`: builds every archive of a release into dist/, with SHA256SUMS.

Wheel, sdist, clients, chart and SBOM have the same bytes wherever they are built from the same commit: times are those
of the commit. Exits with 1 if an archive cannot be built. Only the image may be missing, with a loud line.
"""

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
HOME = "https://github.com/revor-relay/revor-relay"
CHART = "deploy/helm/revor-relay"
IMAGE_PYTHON = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "python_version": "3.13"}
BUILD_ONLY = ("hatchling", "pathspec", "pluggy", "trove-classifiers")
"""What `Dockerfile` uninstalls after the build of the wheel."""


class NotBuiltError(Exception):
    """Says what is missing, and how to get it."""


def version() -> str:
    return re.findall(r'__version__ = "(.+)"', (ROOT / "relay" / "__init__.py").read_text(encoding="utf-8"))[0]


class Release:
    """One release of what is committed. `artefacts`: the Python of .venv-artefacts."""

    def __init__(self, out: Path, artefacts: Path) -> None:
        self.out = out
        self.version = version()
        self._artefacts = artefacts
        self._seconds = int(_run("git", "show", "--no-patch", "--format=%ct", "HEAD"))
        os.environ["SOURCE_DATE_EPOCH"] = str(self._seconds)

    def relay(self) -> None:
        self._python(ROOT)

    def client_python(self) -> None:
        self._python(_there(ROOT / "clients" / "python"))

    def client_typescript(self) -> None:
        """The compiler comes from the client's lock. What only its tests need is optional there, and large."""
        folder = _there(ROOT / "clients" / "typescript")
        if shutil.which("npm") is None:
            raise NotBuiltError("the TypeScript client needs npm: install Node.js 20 or newer")
        _run("npm", "ci", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", cwd=folder)
        _run("npm", "pack", "--pack-destination", str(self.out), cwd=folder)

    def chart(self) -> None:
        """What `helm package` would make, without the times at which it ran."""
        folder = _there(ROOT / CHART)
        names = _run("git", "ls-files", "-z", cwd=folder).rstrip("\0").split("\0")
        names.sort(key=lambda name: (name != "Chart.yaml", name))  # helm looks for it first
        with (
            open(self.out / f"revor-relay-{self.version}.tgz", "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=self._seconds) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for name in names:
                member = tarfile.TarInfo(f"revor-relay/{name}")
                member.size, member.mtime, member.mode = (folder / name).stat().st_size, self._seconds, 0o644
                with open(folder / name, "rb") as content:
                    archive.addfile(member, content)

    def sbom(self) -> None:
        """CycloneDX, of what the image has beside its base: the lock, without what only builds."""
        tool = self._artefacts.parent / "cyclonedx-py"
        pins = [line for line in _pins(ROOT / "deploy" / "requirements.lock") if _is_in_image(line)]
        command = (
            tool,
            "requirements",
            "--output-reproducible",
            "--no-validate",
            "--pyproject",
            ROOT / "pyproject.toml",
            "-",
        )
        made = json.loads(_run(*command, text="\n".join(pins)))
        root = made["metadata"]["component"]
        root |= {"version": self.version, "purl": f"pkg:pypi/revor-relay@{self.version}"}
        for component in made["components"]:
            component.pop("description")  # the line of the lock
        path = self.out / f"revor-relay-{self.version}.cdx.json"
        path.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def image(self) -> None:
        """For the processor of this machine. Its base is made elsewhere, so its bytes are not always the same."""
        archive = self.out / f"revor-relay-{self.version}-image.tar"
        command = ("make", "image", f"ARCHIVE={archive}")
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if ran.returncode != 0:
            lines = [line for line in ran.stderr.splitlines() if not line.startswith(("make:", "make["))]
            raise NotBuiltError("\n".join(lines[-20:]))

    def sums(self) -> None:
        """For `sha256sum --check SHA256SUMS`."""
        lines = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(self.out.iterdir())
        ]
        (self.out / "SHA256SUMS").write_text("".join(lines), encoding="ascii")

    def _python(self, folder: Path) -> None:
        _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", self.out, folder)


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise NotBuiltError(f"{folder.relative_to(ROOT)} is not in this commit")
    return folder


def _pins(lock: Path) -> list[str]:
    """Each pin with its hashes, on one line."""
    return lock.read_text(encoding="ascii").replace("\\\n", " ").splitlines()


def _is_in_image(pin: str) -> bool:
    requirement = Requirement(pin.partition(" --hash")[0].strip())
    marker = requirement.marker
    return requirement.name not in BUILD_ONLY and (marker is None or marker.evaluate(dict(IMAGE_PYTHON)))


def _run(*command: str | Path, cwd: Path = ROOT, text: str | None = None) -> str:
    ran = subprocess.run([str(part) for part in command], cwd=cwd, input=text, capture_output=True, text=True)
    if ran.returncode != 0:
        raise NotBuiltError(f"{Path(command[0]).name} ended with {ran.returncode}: {ran.stderr.strip()[-2000:]}")
    return ran.stdout


def notes(changelog: str, version: str) -> str:
    """The changelog's section of this version, with links that work elsewhere."""
    _, _, rest = changelog.partition(f"\n## [{version}]")
    if not rest:
        raise NotBuiltError(f"CHANGELOG.md has no heading of {version}")
    section = rest.partition("\n## ")[0].partition("\n")[2].partition("\nCompared with: ")[0].strip()
    return re.sub(r"\]\((?!https?:|#)", f"]({HOME}/blob/v{version}/", section) + "\n"


def main() -> int:
    parts = ("relay", "client_python", "client_typescript", "chart", "sbom", "image")
    parser = argparse.ArgumentParser(description="Builds the archives of a release.")
    parser.add_argument("parts", nargs="*", default=parts, metavar="PART", help=f"default: all of {', '.join(parts)}")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="a folder, which is emptied first")
    parser.add_argument("--artefacts", type=Path, default=ROOT / ".venv-artefacts/bin/python", help="a Python")
    parser.add_argument("--notes", action="store_true", help="print the text of the release instead")
    options = parser.parse_args()
    if options.notes:
        print(notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version()), end="")
        return 0
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    release = Release(options.out.resolve(), options.artefacts)
    if _run("git", "status", "--porcelain", "--untracked-files=no"):
        print("NOT A RELEASE: files are changed that are not committed", file=sys.stderr)
    for part in (*options.parts, "sums"):
        started = time.monotonic()
        try:
            getattr(release, part)()
        except NotBuiltError as error:
            if part != "image":
                print(f"{part}: {error}", file=sys.stderr)
                return 1
            print(f"IMAGE NOT BUILT, the other archives are whole: {error}", file=sys.stderr)
        print(f"{part}: {time.monotonic() - started:.1f} s")
    for path in sorted(release.out.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
