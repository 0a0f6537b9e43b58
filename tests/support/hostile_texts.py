"""Hostile texts, and events that have one in their fields: what strangers write reaches people in chats through these.

The texts are in `tests/fixtures/hostile-strings.json`: `text`, how many `times` it comes, and `why` it is hostile.
"""

import copy
import json
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from itertools import cycle
from pathlib import Path
from typing import Any

from relay.clock import from_rfc3339
from relay.core.events.event import GROUP_FINISHED, INCIDENT_CLOSED, RELAY_SOURCE, Event, Origin
from relay.core.jsontext import dumps
from relay.core.samples import sample_event
from relay.core.subscriptions.filters import known_types

NOW = 1779271208.0
TYPE_PREFIX = "ai.revor.job"

TEXTS: tuple[str, ...] = tuple(
    row["text"] * row.get("times", 1)
    for row in json.loads((Path(__file__).parent.parent / "fixtures" / "hostile-strings.json").read_text())
)

Place = tuple[str | int, ...]
"""Where a text is in an event's JSON."""

_DECIDES: frozenset[Place] = frozenset(
    {
        *(("specversion",), ("source",), ("type",), ("datacontenttype",), ("dataschema",), ("time",)),
        *(("data", name) for name in ("kind", "state", "cause", "closed_because", "repeat")),
        ("data", "hint", "repeat"),
    }
)
"""Fields that choose the wording. Other fields are shown only if these have a known value."""
_JOINERS = "\u200c\u200d"
_SELECTORS = "\ufe0e\ufe0f"
_UNSEEN = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0\ufffc"
    + "".join(map(chr, (0x2065, *range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000))))
)
"""What Unicode's categories do not say: default ignorable code points, and characters drawn as nothing."""
_NUMBER_SIGNS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
"""Format characters of scripts that are drawn around the digits behind them."""
_ORIGIN = Origin(
    source="https://revor.ai/api/v1/outreach/jobs",
    type_prefix=TYPE_PREFIX,
    dataschema="http://x/schemas/job-status.v1.json",
)
TYPES = known_types([_ORIGIN])


def events_with(text: str, *, part: int = 0, parts: int = 1) -> Iterator[Event]:
    """An event of each type and wording with the text in every field that is shown, and as a key of metadata.

    With `parts` only one of so many parts of them.
    """
    for document, places in _documents()[part % parts :: parts]:
        changed = _changed(document, {place: text for place in places if place not in _DECIDES})
        for metadata in _metadata_of(changed["data"]):
            metadata[text] = text
            metadata["url"] = f"https://crm.example/{text}"
        yield _event(changed)
    unknown = {"specversion": "1.0", "id": "evt_1", "source": RELAY_SOURCE, "type": text, "subject": text}
    yield _event({**unknown, "time": text, "data": {text: text}})


@lru_cache(maxsize=4096)
def unseen(text: str, allowed: str = "") -> tuple[str, ...]:
    """The names of the characters of a text that nobody sees, that turn its direction, or that break its line.

    A joiner or a selector between two other characters that are not ASCII is part of a word or an emoji.
    """
    return tuple(
        f"U+{ord(character):04X}"
        for index, character in enumerate(text)
        if character not in allowed
        and (
            unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
            or character in _UNSEEN
            or ord(character) & 0xFFFE == 0xFFFE
            or "\ufdd0" <= character <= "\ufdef"
        )
        and character not in _NUMBER_SIGNS
        and not (character in _JOINERS and _is_visible(text, index - 1) and _is_visible(text, index + 1))
        and not (character in _SELECTORS and _is_visible(text, index - 1))
    )


def _is_visible(text: str, index: int) -> bool:
    """True if the text has a character there that is neither ASCII nor such a joiner."""
    return 0 <= index < len(text) and text[index] > "\x7f" and text[index] not in _JOINERS


def events_with_one_field() -> Iterator[tuple[str, Event]]:
    """For each type and each of its fields: where the text is, and the event. The texts take turns."""
    texts = cycle(TEXTS)
    for document, places in _documents():
        for place in places:
            if place not in (("type",), ("source",)):
                yield f"{document['type']}: {place}", _event(_changed(document, {place: next(texts)}))


@cache
def _documents() -> tuple[tuple[Mapping[str, Any], tuple[Place, ...]], ...]:
    """A sample of each type, with what a job may have besides, and each kind of incident; where its texts are."""
    found = []
    for type in TYPES:
        sample = sample_event(
            type, event_id="evt_1", now=NOW, origin=_ORIGIN, dataschema_base="http://x", source="revor", account="emea"
        ).document()
        data = sample["data"]
        if type.startswith(TYPE_PREFIX):
            sample |= {"group": "q4"}
            data["job"]["result"] = {"status": "accepted", "account_id": "acc_1"}
        found.append(sample)
        if type == GROUP_FINISHED:
            found.append({**sample, "data": {**data, "counts": {"succeeded": 3}, "failures": []}})
        if type.startswith("relay.incident."):
            aside = {"subscription": "sub_1", "sink": "https://x.example/…"}
            found += [{**sample, "data": {**data, **aside, "kind": kind}} for kind in ("creates", "sink")]
        if type == INCIDENT_CLOSED:
            found.append({**sample, "data": {**data, "connect_account_name": None}})
    return tuple((document, tuple(_places(document))) for document in found)


def _places(value: object, place: Place = ()) -> Iterator[Place]:
    if isinstance(value, str):
        yield place
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _places(each, (*place, name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _places(each, (*place, index))


def _changed(document: Mapping[str, Any], texts: Mapping[Place, str]) -> dict[str, Any]:
    changed: Any = copy.deepcopy(document)
    for place, text in texts.items():
        holder = changed
        for step in place[:-1]:
            holder = holder[step]
        holder[place[-1]] = text
    return dict(changed)


def _metadata_of(data: Any) -> Iterator[dict[str, Any]]:
    for holder in (data, data.get("request")):
        if holder and isinstance(holder.get("metadata"), dict):
            yield holder["metadata"]


def _event(document: Mapping[str, Any]) -> Event:
    try:
        moment = from_rfc3339(document["time"])
    except ValueError:
        moment = NOW
    return Event(
        id=document["id"] or "-",
        source=document["source"],
        type=document["type"],
        subject=document.get("subject"),
        time=moment,
        recorded_at=moment,
        body=dumps(document),
    )
