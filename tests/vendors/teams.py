"""Workflows of Microsoft Teams that start from a webhook, and post a card.

Sources: https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using (a message
with attachments), https://learn.microsoft.com/microsoftteams/platform/task-modules-and-cards/cards/cards-format (28 KB,
mentions), https://learn.microsoft.com/azure/connectors/connectors-native-reqres (202, errors of a Request trigger),
https://adaptivecards.io/explorer (elements of version 1.4 and their properties).
"""

from typing import Any

import orjson

from tests.vendors.endpoint import (
    Answer,
    Limit,
    Message,
    Sent,
    Vendor,
    Wrong,
    is_json,
    items,
    members,
    one_of,
    plain,
    seconds,
    text,
    url,
)

MAX_BYTES = 28 * 1024
_ELEMENT = ("id", "isVisible", "spacing", "separator", "height")
_TEXT = ("color", "fontType", "horizontalAlignment", "isSubtle", "maxLines", "size", "weight", "wrap", "style")
_SIZES = ("Default", "Small", "Medium", "Large", "ExtraLarge")
_COLOURS = ("Default", "Dark", "Light", "Accent", "Good", "Warning", "Attention")
_STYLES = ("default", "emphasis", "good", "attention", "warning", "accent")
_SPACINGS = ("Default", "None", "Small", "Medium", "Large", "ExtraLarge", "Padding")


def accept(sent: Sent) -> tuple[Answer, Any]:
    """The answer of the trigger, and the card."""
    if len(sent.body) > MAX_BYTES:
        return _refusal(413, "RequestEntityTooLarge"), None
    if not is_json(sent):
        return _refusal(400, "InvalidRequestContent"), None
    try:
        message = orjson.loads(sent.body)
        card = _check(message)
    except orjson.JSONDecodeError:
        return _refusal(400, "InvalidRequestContent"), None
    except Wrong as wrong:
        return _refusal(400, "TriggerInputSchemaMismatch", str(wrong)), None
    return Answer(202), card


def _check(message: Any) -> Any:
    members(message, "", ("type", "attachments"))
    one_of(message["type"], "/type", ("message",))
    [(attachment, at)] = items(message["attachments"], "/attachments", 1)
    members(attachment, at, ("contentType", "content"), ("contentUrl",))
    one_of(attachment["contentType"], f"{at}/contentType", ("application/vnd.microsoft.card.adaptive",))
    one_of(attachment.get("contentUrl"), f"{at}/contentUrl", (None,))
    card, at = attachment["content"], f"{at}/content"
    members(card, at, ("type", "version", "body"), ("$schema", "actions", "fallbackText", "lang", "speak", "msteams"))
    one_of(card["type"], f"{at}/type", ("AdaptiveCard",))
    one_of(card["version"], f"{at}/version", ("1.0", "1.1", "1.2", "1.3", "1.4"))
    one_of(
        members(card.get("msteams", {}), f"{at}/msteams", (), ("width", "entities")).get("width", "Full"), at, ("Full",)
    )
    _check_elements(card["body"], f"{at}/body")
    _check_actions(card.get("actions", []), f"{at}/actions")
    return card


def _check_elements(elements: Any, at: str) -> None:
    for element, place in items(elements, at, 100):
        check = _ELEMENTS.get(str(element.get("type"))) if isinstance(element, dict) else None
        if check is None:
            raise Wrong(f"{place}/type", "no such element")
        one_of(element.get("spacing", "Default"), f"{place}/spacing", _SPACINGS)
        one_of(element.get("separator", False), f"{place}/separator", (True, False))
        check(element, place)


def _check_text_block(element: Any, at: str) -> None:
    members(element, at, ("type", "text"), (*_ELEMENT, *_TEXT))
    text(element["text"], f"{at}/text", MAX_BYTES)
    one_of(element.get("size", "Default"), f"{at}/size", _SIZES)
    one_of(element.get("weight", "Default"), f"{at}/weight", ("Default", "Lighter", "Bolder"))
    one_of(element.get("color", "Default"), f"{at}/color", _COLOURS)
    one_of(element.get("style", "default"), f"{at}/style", ("default", "heading"))
    for name in ("wrap", "isSubtle"):
        one_of(element.get(name, False), f"{at}/{name}", (True, False))


def _check_facts(element: Any, at: str) -> None:
    members(element, at, ("type", "facts"), _ELEMENT)
    for fact, place in items(element["facts"], f"{at}/facts", 100):
        members(fact, place, ("title", "value"))
        text(fact["title"], f"{place}/title", MAX_BYTES)
        text(fact["value"], f"{place}/value", MAX_BYTES)


def _check_container(element: Any, at: str) -> None:
    members(element, at, ("type", "items"), (*_ELEMENT, "style", "bleed", "minHeight", "verticalContentAlignment"))
    one_of(element.get("style", "default"), f"{at}/style", _STYLES)
    _check_elements(element["items"], f"{at}/items")


def _check_actions(actions: Any, at: str) -> None:
    for action, place in items(actions, at, 6, least=0):
        members(action, place, ("type", "title", "url"), ("id", "style", "iconUrl", "tooltip"))
        one_of(action["type"], f"{place}/type", ("Action.OpenUrl",))
        text(action["title"], f"{place}/title", 300)
        url(action["url"], f"{place}/url")


_ELEMENTS = {"TextBlock": _check_text_block, "FactSet": _check_facts, "Container": _check_container}


def _refusal(status: int, code: str, why: str = "") -> Answer:
    return Answer.json(status, {"error": {"code": code, "message": why or "The request is not valid."}})


def _limited(pause: float) -> Answer:
    answer = _refusal(429, "WorkflowTriggerRequestThrottled")
    return answer._replace(headers=(*answer.headers, ("Retry-After", seconds(pause))))


def _read(card: Any) -> Message:
    texts: list[str] = []
    fields: list[tuple[str, str]] = []
    pending = list(card["body"])
    while pending:
        element = pending.pop(0)
        if element["type"] == "TextBlock":
            texts.append(plain(element["text"]))
        fields += [(plain(fact["title"]), plain(fact["value"])) for fact in element.get("facts", ())]
        pending = [*element.get("items", ()), *pending]
    links = [f" ({action['url']})" for action in card.get("actions", ())]
    return Message(title=texts[0] + "".join(links), fields=tuple(fields), footer=" · ".join(texts[1:]))


def _mentions(card: Any) -> list[str]:
    return [entity["text"] for entity in card.get("msteams", {}).get("entities", ())]


VENDOR = Vendor("Teams", accept, Limit(4, 1.0), _limited, _read, _mentions)
