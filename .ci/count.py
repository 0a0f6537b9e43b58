#!/usr/bin/env python3
"""Prints how many lines of code the product has, and how many words its documents. Exits with 1 above MOST_WORDS.

Comments, docstrings and blank lines are no code. What `.ci/docs.py` writes, and docs/design/, are counted apart.
"""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path

FOLDERS = ("relay", "subscribers", "alembic")
MOST_WORDS = 45_000
"""Words written by hand outside docs/design/: README.md and its neighbours, and docs/."""
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def count(source: str) -> int:
    """Lines that hold code. A string that is a statement of its own is a docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def words(text: str) -> tuple[int, int]:
    """Words written by hand, and generated ones."""
    by_hand = re.sub(r"(?s)<!-- begin generated: .*?<!-- end generated -->", "", text)
    return len(by_hand.split()), len(text.split()) - len(by_hand.split())


def documents() -> dict[str, tuple[int, int]]:
    """Words written by hand and generated ones of each document, by its path."""
    root = Path(__file__).resolve().parent.parent
    paths = (*root.glob("*.md"), *sorted((root / "docs").rglob("*.md")))
    return {str(path.relative_to(root)): words(path.read_text(encoding="utf-8")) for path in paths}


def words_by_hand() -> int:
    """The words that MOST_WORDS limits."""
    return sum(by_hand for path, (by_hand, _) in documents().items() if not path.startswith("docs/design/"))


def main() -> int:
    """With `--by-package`: also each package. With `--words`: also each document."""
    root = Path(__file__).resolve().parent.parent
    packages: dict[str, list[int]] = {}
    for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py")):
        parts = path.relative_to(root).parts
        package = "/".join(parts[:2]) if len(parts) > 2 else parts[0]
        packages.setdefault(package, []).append(count(path.read_text()))
    if "--by-package" in sys.argv:
        for package, counts in packages.items():
            print(f"{package:24} {sum(counts):7,} {len(counts):4}")
    everything = [lines for counts in packages.values() for lines in counts]
    print(f"product: {sum(everything):,} lines of code in {len(everything)} files")
    found = documents()
    if "--words" in sys.argv:
        for path, (by_hand, generated) in found.items():
            print(f"{path:40} {by_hand:7,} {generated:7,}")
    by_hand, generated = (sum(counts) for counts in zip(*found.values(), strict=True))
    limited = words_by_hand()
    print(
        f"documents: {limited:,} of {MOST_WORDS:,} words written by hand, {by_hand - limited:,} in docs/design", end=""
    )
    print(f", {generated:,} generated")
    return int(limited > MOST_WORDS)


if __name__ == "__main__":
    sys.exit(main())
