"""What a document says to type: its sections, their blocks, and a `relay` that a shell finds."""

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def section(document: str, title: str) -> str:
    """The text below a heading, up to the next one of the same level or a higher one."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert found is not None, f"{document} has no heading {title}"
    rest = text[found.end() :]
    outside = re.sub(r"^```.*?^```$", lambda block: " " * len(block[0]), rest, flags=re.MULTILINE | re.DOTALL)
    end = re.search(rf"^#{{1,{len(found[1])}}} ", outside, re.MULTILINE)
    return rest[: end.start()] if end else rest


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prompts(block: str) -> list[str]:
    """What stands behind the prompts of a console block, with the lines that go on."""
    return re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, re.MULTILINE)


def with_places(text: str, places: Mapping[str, str]) -> str:
    """The text with addresses and ids of here in the place of those that the document has; each must be in it."""
    for said, here in places.items():
        assert said in text, f"{said} is not in it: {text}"
        text = text.replace(said, here)
    return text


def shell_path(folder: Path) -> str:
    """A PATH on which `relay` is this very code, and `python` the one that runs the tests."""
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    program = shlex.quote(sys.executable)
    for name, call in (("relay", f"{program} -m relay"), ("python", program)):
        (place / name).write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        (place / name).chmod(0o755)
    return f"{place}{os.pathsep}{os.environ['PATH']}"
