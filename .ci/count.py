#!/usr/bin/env python3
"""Prints how many lines of code the product has, and how many words its documents.

Comments, docstrings and blank lines are no code. What `.ci/docs.py` writes is counted apart from what people wrote.
"""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path

FOLDERS = ("relay", "subscribers", "alembic")
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


def main() -> None:
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
    documents = {path: words(path.read_text()) for path in (*root.glob("*.md"), *sorted((root / "docs").rglob("*.md")))}
    if "--words" in sys.argv:
        for path, (by_hand, generated) in documents.items():
            print(f"{path.relative_to(root)!s:40} {by_hand:7,} {generated:7,}")
    by_hand, generated = (sum(counts) for counts in zip(*documents.values(), strict=True))
    print(f"documents: {by_hand:,} words written by hand, {generated:,} generated")


if __name__ == "__main__":
    main()
