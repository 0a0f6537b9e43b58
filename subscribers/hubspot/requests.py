"""The requests to HubSpot's API, version 2026-09, each as a step of a delivery. All are private: URLs, bodies and
answers may contain personal data.

Sources: HubSpot's OpenAPI documents of contacts, deals, notes, tasks, associations, properties and account details.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from relay.core.deliveries.delivery import OutboundRequest
from relay.core.deliveries.dialogue import Memory, Step
from relay.core.jsontext import dumps
from relay.core.subscriptions.subscription import Subscription
from subscribers.common import crm
from subscribers.hubspot.render import GROUP, KEY_PROPERTY

VERSION = "2026-09"
"""Version of the API. HubSpot supports each for at least 18 months; v3 ends in September 2027."""
ASSOCIATIONS = {
    ("notes", "contacts"): 202,
    ("notes", "deals"): 214,
    ("tasks", "contacts"): 204,
    ("tasks", "deals"): 216,
}
"""`associationTypeId`, defined by HubSpot."""
PAGE = 500
"""Maximum associations of one answer."""

_BY_EMAIL = "idProperty=email"


def account(subscription: Subscription) -> Step:
    """Reads the token's account."""
    expected = {"portalId": "{portal}"}
    return _step(subscription, "GET", f"/account-info/{VERSION}/details", "read the account", expected)


def read(subscription: Subscription, object: str, id: str, *properties: str, by_email: bool = False) -> Step:
    """Reads an object, with some of its properties."""
    query = "&".join([*([_BY_EMAIL] if by_email else []), f"properties={','.join(properties) or 'hs_object_id'}"])
    return _step(subscription, "GET", f"{_path(object, id)}?{query}", f"find the {_one(object)}", _named(object))


def read_by_key(subscription: Subscription, object: str, key: str) -> Step:
    """Reads the note or task with our key. HubSpot refuses this if the property's values are not unique."""
    path = f"{_path(object, key)}?idProperty={KEY_PROPERTY}&properties=hs_object_id"
    return _step(subscription, "GET", path, f"ask for the {_one(object)}", _named(object))


def update(
    subscription: Subscription, object: str, id: str, properties: Mapping[str, str], *, by_email: bool = False
) -> Step:
    """Sets properties of an object. May be repeated."""
    path = _path(object, id) + (f"?{_BY_EMAIL}" if by_email else "")
    document = {"properties": dict(properties)}
    return _step(subscription, "PATCH", path, f"update the {_one(object)}", _named(object), document)


def create(
    subscription: Subscription,
    object: str,
    properties: Mapping[str, str],
    about: Iterable[tuple[str, str]] = (),
    remember: Memory | None = None,
) -> Step:
    """Creates an object, associated with others, given as (type, id)."""
    associations = [
        {
            "to": {"id": id},
            "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": ASSOCIATIONS[object, target]}],
        }
        for target, id in about
    ]
    document = {"properties": dict(properties), "associations": associations}
    path, name = f"/crm/objects/{VERSION}/{object}", f"create the {_one(object)}"
    return _step(subscription, "POST", path, name, _named(object), document, remember)


def associated(subscription: Subscription, target: str, id: str, object: str) -> Step:
    """Lists the notes or tasks of a contact or deal."""
    path = f"{_path(target, id)}/associations/{object}?limit={PAGE}"
    return _step(subscription, "GET", path, f"list the {object} of the {_one(target)}", {"results": []})


def read_several(subscription: Subscription, object: str, ids: Sequence[str]) -> Step:
    """Reads the creation times of several objects."""
    document = {
        "inputs": [{"id": id} for id in ids],
        "properties": ["hs_object_id"],
        "propertiesWithHistory": [],
    }
    path = f"/crm/objects/{VERSION}/{object}/batch/read"
    return _step(subscription, "POST", path, f"read the newest {object}", {"results": []}, document)


def read_property(subscription: Subscription, object: str, definition: Mapping[str, Any]) -> Step:
    """Reads the definition of a property."""
    name = definition["name"]
    expected = {"name": name, "hasUniqueValue": True}
    path = f"/crm/properties/{VERSION}/{object}/{name}"
    return _step(subscription, "GET", path, f"read {name} of {object}", expected)


def create_group(subscription: Subscription, object: str) -> Step:
    """Creates the group of the relay's properties."""
    path, name = f"/crm/properties/{VERSION}/{object}/groups", f"create the group of {object}"
    return _step(subscription, "POST", path, name, {"name": GROUP["name"]}, GROUP)


def create_property(subscription: Subscription, object: str, definition: Mapping[str, Any]) -> Step:
    """Creates a property."""
    path, name = f"/crm/properties/{VERSION}/{object}", f"create {definition['name']} of {object}"
    return _step(subscription, "POST", path, name, {"name": definition["name"]}, definition)


def _one(object: str) -> str:
    return object.removesuffix("s")


def _path(object: str, id: str) -> str:
    shown = id if crm.PLACEHOLDER.fullmatch(id) else quote(id, safe="")
    return f"/crm/objects/{VERSION}/{object}/{shown}"


def _named(object: str) -> Mapping[str, Any]:
    """The answer assumed by a preview."""
    return {"id": f"{{{_one(object)}}}"}


def _step(
    subscription: Subscription,
    method: str,
    path: str,
    name: str,
    expected: Mapping[str, Any],
    document: Mapping[str, Any] | None = None,
    remember: Memory | None = None,
) -> Step:
    request = OutboundRequest(
        url=subscription.sink.rstrip("/") + path,
        method=method,
        headers=() if document is None else (("Content-Type", "application/json"),),
        body=b"" if document is None else dumps(dict(document)),
    )
    return Step(request=request, name=name, expected=dumps(dict(expected)), remember=remember, private=True)
