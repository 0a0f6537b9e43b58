"""The catalogue of texts: complete, without waste, and the only place of words."""

import re
from functools import cache
from pathlib import Path

import pytest

from relay.web import texts
from relay.web.texts import english

WEB = Path(texts.__file__).parent.parent
TEMPLATES = sorted((WEB / "templates").glob("*.html"))
MODULES = sorted(path for path in WEB.rglob("*.py"))
_USED = re.compile(r"""(?:\bt|english\(\)|\btexts|\bt\.get|texts\.get)\(\s*["'](\w+\.\w+)["']""")
_QUOTED = re.compile(r"""["'](\w+\.\w*)["'{]""")
"""A key, or what one begins with: `"done." ~ key`, f"done.{key}"."""
_PART = re.compile(r"""["'](\w+)["'{]""")
"""The name of a text, or a part of it, which is put behind the name of its file: `"done." ~ key`, `name ~ "_help"`."""
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_SAID = re.compile(r"""\b(?:aria-label|title|placeholder|alt)=(["'])(.*?)\1""")
_WORD = re.compile(r"[^\W\d_]{2,}")
_NO_WORDS = re.compile(r"""\b[a-z]+_…|https?://\S+|revor-relay|[\w-]+="[^"]*\"""")
"""Examples, the name of the program, and attributes that a macro makes."""


@cache
def sources() -> dict[str, str]:
    """Templates and modules, by their names."""
    return {path.relative_to(WEB).as_posix(): path.read_text("utf-8") for path in (*TEMPLATES, *MODULES)}


def test_each_text_that_is_used_exists():
    missing = {
        (name, key)
        for name, source in sources().items()
        for key in _USED.findall(source)
        if key not in english().keys and not key.endswith("_")  # one that ends so is what keys begin with
    }
    assert missing == set()


def test_each_text_is_used():
    quoted = {found for source in sources().values() for found in _QUOTED.findall(source)}
    files = {key.partition(".")[0] for key in english().keys}
    beginnings = tuple(found for found in quoted if found.partition(".")[0] in files and found.endswith("_"))
    whole_files = {found.rstrip(".") for found in quoted if found.endswith(".")}
    parts = {found for source in sources().values() for found in _PART.findall(source)}
    names_begin, names_end = (tuple(part for part in parts if part[at] == "_") for at in (-1, 0))

    def is_used(key: str) -> bool:
        if key in quoted or key.startswith(beginnings):
            return True
        file, _, name = key.partition(".")
        return file in whole_files and (name in parts or name.startswith(names_begin) or name.endswith(names_end))

    assert {key for key in english().keys if not is_used(key)} == set()


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_no_words_in_templates(path):
    source = re.sub(r"<kbd>.*?</kbd>|<!doctype html>", "", _JINJA.sub("\0", path.read_text("utf-8")))
    said = [value for _, value in _SAID.findall(source)]
    between = re.sub(r"<[^>]*>", "\n", source)
    assert [text.strip() for text in (*said, *between.split("\n")) if _WORD.search(_NO_WORDS.sub("", text))] == []


def test_texts_that_count_have_both_forms():
    for key, text in english()._texts.items():
        if not isinstance(text, str):
            assert set(text) == {"one", "other"}, key
