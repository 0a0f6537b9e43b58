"""The settings at /ui/settings, to read: each with its value, and where that comes from. For admins."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson

from relay.core.values import DEFAULT
from relay.web.page import Content, Page, PageRequest, equivalent
from relay.web.texts import english

PAGES: list[Page] = []
page = partial(Page.add, into=PAGES)
NEEDED = "(needed)"
"""The default of a setting that has none."""
text = english()


@page("GET /ui/settings", live=True)
async def settings(visit: PageRequest) -> Content:
    """Every setting in force, by section."""
    changed = visit.query.get("changed") == "true"
    found = await visit.api.get("/v1/settings")
    sections: dict[str, list[Mapping[str, Any]]] = {}
    for one in found["items"]:
        if not changed or one["place"] != DEFAULT:
            sections.setdefault(one["key"].partition(".")[0], []).append({**one, "shown": _shown(one)})
    return Content(
        template="settings.html",
        title=text("settings.title"),
        values={
            "sections": sections,
            "changed": changed,
            "node_id": found["node_id"],
            "default": DEFAULT,
            "needed": NEEDED,
        },
        equivalent=equivalent(["relay", "settings", *(["--changed"] if changed else [])], "GET /v1/settings"),
    )


def _shown(one: Mapping[str, Any]) -> str:
    """The value for a person; of a secret only whether it is set."""
    if not one["set"]:
        return text("settings.not_set")
    if one["secret"] and one["value"] is None:
        return text("settings.set")
    value = _rounded(one["value"])
    if isinstance(value, list):
        return ", ".join(one if isinstance(one, str) else orjson.dumps(one).decode() for one in value)
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _rounded(value: Any) -> Any:
    """Whole numbers without a fraction, others without the digits that a computation leaves."""
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    if isinstance(value, float):
        return int(value) if value.is_integer() else round(value, 9)
    return value
