"""Entries of the audit in words: who did what to what. Pure functions.

The words of an action are the text `audit.do_ACTION`: its verb in the past and in the infinitive, then the object, such
as "paused/pause the subscription {what}".
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from relay.web.texts import english

Entry = Mapping[str, Any]
_DONE = "ok"
_WHAT = "{what}"
text = english()


class Said(NamedTuple):
    """A sentence in parts: who, the words before and after `what`, and the name of what it was done to ("" if the
    sentence has none). `path`: the page of that thing; "" without one."""

    who: str
    before: str
    what: str
    after: str
    path: str


def said(entry: Entry, names: Mapping[str, str]) -> Said:
    """The sentence of an entry. `names`: of subscriptions and tokens that exist, by id. Without a name, `what` is the
    target itself."""
    key = f"audit.do_{_key(entry['action'])}"
    target = entry["target"] or ""
    verb, _, rest = (text(key, n=entry["count"], what=_WHAT) if key in text else entry["action"]).partition(" ")
    past, _, infinitive = verb.partition("/")
    doing = past if entry["result"] == _DONE or key not in text else text("audit.tried", what=infinitive)
    before, has, after = f"{doing} {rest}".strip().partition(_WHAT)
    known = names.get(target) or _name_in(entry)
    what = (known or target) if has or key not in text else ""
    return Said(who(entry), before, what, after, _path(target) if target in names else "")


def who(entry: Entry) -> str:
    """The actor in words."""
    actor = entry["actor"]
    word = text.get(f"audit.actor_{_key(actor)}", "")
    return word if word and not entry["token_id"] else text("audit.token", name=actor)


def words_of(action: str) -> str:
    """An action in the infinitive, to choose it from a list."""
    key = f"audit.do_{_key(action)}"
    if key not in text:
        return action
    verb, _, rest = text(key, n=2, what="").partition(" ")
    words = f"{verb.partition('/')[2]} {rest}".replace(" 2 ", " ")
    return " ".join(words.split())


def _key(action: str) -> str:
    return action.replace(".", "_").replace(" ", "_").lower()


def _name_in(entry: Entry) -> str:
    name = (entry["detail"] or {}).get("name")
    return name if isinstance(name, str) else ""


def _path(target: str) -> str:
    return f"/ui/subscriptions/{target}" if target.startswith("sub_") else ""
