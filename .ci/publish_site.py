#!/usr/bin/env python3
"""Adds site/ to a folder that has the site of each version, such as a checkout of the branch gh-pages.

`publish_site.py FOLDER 0.2` writes FOLDER/0.2, and FOLDER/latest if no version there is newer. versions.json lists
them for the menu of versions, and index.html leads to latest.
"""

import json
import shutil
import sys
from pathlib import Path

SITE = Path(__file__).resolve().parent.parent / "site"
TO_LATEST = '<!doctype html><title>revor-relay</title><meta http-equiv="refresh" content="0; url=latest/">'
NO_MENU, MENU = '"version": null', '"version": {"provider": "mike"}'


def number(version: str) -> tuple[int, ...]:
    """A version as what sorts."""
    return tuple(map(int, version.split(".")))


def publish(site: Path, folder: Path, version: str) -> None:
    """Adds one version, or replaces it. The pages of the others stay as they are."""
    menu = folder / "versions.json"
    known = [one["version"] for one in json.loads(menu.read_text())] if menu.exists() else []
    versions = sorted({*known, version}, key=number, reverse=True)
    for name in (version, "latest") if versions[0] == version else (version,):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(site, folder / name)
        for page in (folder / name).rglob("*.html"):
            page.write_text(page.read_text(encoding="utf-8").replace(NO_MENU, MENU), encoding="utf-8")
    listed = [{"version": one, "title": one, "aliases": ["latest"] if one == versions[0] else []} for one in versions]
    menu.write_text(json.dumps(listed, indent=1) + "\n")
    (folder / "index.html").write_text(TO_LATEST + "\n")


if __name__ == "__main__":
    publish(SITE, Path(sys.argv[1]), sys.argv[2])
