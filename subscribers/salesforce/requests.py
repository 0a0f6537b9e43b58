"""The requests that the relay sends to Salesforce's REST API. All of them are private: a URL may have an address, and
an answer the values of a record.

Sources: Salesforce's REST API Developer Guide, and SOQL's Quoted String Escape Sequences.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from relay.core.deliveries.delivery import OutboundRequest
from relay.core.deliveries.dialogue import Step
from relay.core.events.event import Event
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Subscription
from subscribers.common import crm
from subscribers.salesforce.answers import KEY_FIELD, NEWEST_VERSION
from subscribers.salesforce.render import LEAD

CHECK = "relay-check@relay.invalid"
"""An address and a key that no record has."""
PLACEHOLDERS = {"Contact": "{contact}", "Lead": "{lead}", "Opportunity": "{opportunity}"}
"""What a preview shows for an id that is looked up."""

_ACCEPT = (("Accept", "application/json"),)
_SOQL = str.maketrans(
    {"\\": "\\\\", "'": "\\'", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
)


def base_url(subscription: Subscription) -> str:
    """The org's address without a final slash."""
    return subscription.sink.rstrip("/")


def versions(subscription: Subscription) -> Step:
    """Which versions of the API the instance has. It needs no token, and counts towards no limit."""
    expected = dumps([{"label": "…", "url": f"/services/data/v{NEWEST_VERSION}.0", "version": f"{NEWEST_VERSION}.0"}])
    return _get(f"{base_url(subscription)}/services/data/", "versions", expected)


def look_up(subscription: Subscription, version: str, object: str, condition: str) -> Step:
    """Two ids at most. Only ids are selected, so that nothing more about people comes here."""
    asked = f"({condition}) AND IsConverted = false" if object == LEAD else condition
    soql = f"SELECT Id FROM {object} WHERE {asked} LIMIT 2"  # noqa: S608  (escaped SOQL)
    expected = dumps({"totalSize": 1, "done": True, "records": [{"Id": PLACEHOLDERS[object]}]})
    return _query(subscription, version, soql, f"look-up of the {object.lower()}", expected)


def record(
    event: Event, subscription: Subscription, version: str, object: str, fields: Mapping[str, Any], *, linked: bool
) -> Step:
    """The record, made or updated by its external id."""
    key = quote(crm.key_of(event, subscription), safe="", errors="replace")
    request = OutboundRequest(
        url=f"{_place(subscription, version)}/sobjects/{object}/{KEY_FIELD}/{key}",
        method="PATCH",
        headers=(*_ACCEPT, ("Content-Type", "application/json")),
        body=dumps(dict(fields)),
    )
    expected = dumps({"id": "{record}", "success": True, "errors": [], "created": True})
    name = f"{object} by {KEY_FIELD}" + ("" if linked else ", without links")
    return Step(request=request, name=name, expected=expected, private=True)


def description(subscription: Subscription, version: str, object: str) -> Step:
    """An object and all of its fields."""
    expected = dumps({"name": object, "createable": True, "updateable": True, "fields": []})
    url = f"{_place(subscription, version)}/sobjects/{object}/describe"
    return _get(url, f"description of {object}", expected)


def summary(subscription: Subscription, version: str, object: str) -> Step:
    """An object without its fields."""
    expected = dumps({"objectDescribe": {"name": object, "createable": True, "updateable": True}})
    return _get(f"{_place(subscription, version)}/sobjects/{object}/", f"summary of {object}", expected)


def fields_of(subscription: Subscription, version: str, object: str, names: Sequence[str], unique: str) -> Step:
    """Whether an object has these fields, and the user may see them: a query for no record. `unique`: the field that it
    is asked by."""
    soql = f"SELECT {', '.join(names)} FROM {object} WHERE {unique} = {soql_text(CHECK)} LIMIT 1"  # noqa: S608
    return _query(subscription, version, soql, f"fields of {object}", dumps({"records": []}))


def soql_text(text: str) -> str:
    """A text in a query."""
    return f"'{text.translate(_SOQL)}'"


def _query(subscription: Subscription, version: str, soql: str, name: str, expected: bytes) -> Step:
    asked = quote(soql, safe="{}", errors="replace")  # the braces of placeholders
    return _get(f"{_place(subscription, version)}/query?q={asked}", name, expected)


def _place(subscription: Subscription, version: str) -> str:
    return f"{base_url(subscription)}/services/data/v{version}"


def _get(url: str, name: str, expected: bytes) -> Step:
    request = OutboundRequest(url=url, method="GET", headers=_ACCEPT)
    return Step(request=request, name=name, expected=expected, private=True)
