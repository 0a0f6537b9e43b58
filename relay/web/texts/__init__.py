"""Every text of the dashboard, in one catalogue: the files of texts/en, by page.

A key is `file.name`, such as `jobs.title`. A text with `{name}` takes values; one that counts has the forms `one` and
`other`. Values are escaped where the text is shown: the catalogue holds no HTML.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads them ten times faster


class Texts:
    """The texts of one language."""

    def __init__(self, texts: Mapping[str, str | Mapping[str, str]]) -> None:
        self._texts = texts

    def __call__(self, key: str, /, **values: object) -> str:
        """The text of a key with these values. `n` chooses the form of a text that counts. Raises KeyError."""
        found = self._texts[key]
        if not isinstance(found, str):
            found = found["one" if values["n"] == 1 else "other"]  # a number, not shown as text yet
        if not values:
            return found
        return found.format(**{name: f"{value:,}" if type(value) is int else value for name, value in values.items()})

    def __contains__(self, key: object) -> bool:
        return key in self._texts

    def get(self, key: str, default: str) -> str:
        """The text of a key that comes from outside, such as a state; `default` if there is none."""
        found = self._texts.get(key, default)
        return found if isinstance(found, str) else default

    @property
    def keys(self) -> frozenset[str]:
        """Every key."""
        return frozenset(self._texts)


@cache
def english() -> Texts:
    """The English texts."""
    texts: dict[str, str | Mapping[str, str]] = {}
    for path in sorted((FOLDER / "en").glob("*.yaml")):
        for name, text in yaml.load(path.read_text("utf-8"), Loader=_LOADER).items():  # noqa: S506 (safe either way)
            texts[f"{path.stem}.{name}"] = text
    return Texts(texts)
