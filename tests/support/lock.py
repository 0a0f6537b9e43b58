"""Reads the locked requirements: `name==version ; marker`, each followed by the hashes of its files."""

import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "tests" / "requirements.lock"
PRODUCTION_LOCK = ROOT / "deploy" / "requirements.lock"
AUDIT_LOCK = ROOT / ".ci" / "audit.lock"
CLIENTS_LOCK = ROOT / "tests" / "clients.lock"
ARTEFACTS_LOCK = ROOT / "tests" / "artefacts.lock"


def hashes(path: Path) -> Mapping[str, list[str]]:
    """The hashes of each pin."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="ascii").splitlines():
        text = line.removesuffix("\\").strip()
        if line.startswith(" "):
            (algorithm,) = re.findall(r"--hash=(sha256:[0-9a-f]{64})", text)
            found[next(reversed(found))].append(algorithm)
        elif text:
            found[text] = []
    return found


def pins(path: Path) -> list[str]:
    """The pins without their hashes."""
    return list(hashes(path))
