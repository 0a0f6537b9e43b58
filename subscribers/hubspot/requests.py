"""Requests to HubSpot's API, version 2026-09.

Sources: HubSpot's OpenAPI documents of contacts, deals, notes, tasks, associations, properties and account details.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from relay.core.deliveries.delivery import Response
from relay.core.deliveries.dialogue import Memory, Step
from relay.core.subscriptions.subscription import Subscription
from subscribers.common import crm
from subscribers.hubspot.answers import Answer, read_answer
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


Asked = Generator[Step, Response, Answer]


@dataclass(slots=True)
class Account:
    """The requests to an account. `pause_seconds`: by the newest answer."""

    subscription: Subscription
    now: float
    pause_seconds: float | None = None

    def details(self) -> Asked:
        """Reads the token's account."""
        path, expected = f"/account-info/{VERSION}/details", {"portalId": "{portal}"}
        return self._ask(path, "read the account", expected)

    def read(self, object: str, id: str, *properties: str, by_email: bool = False) -> Asked:
        """Reads an object, with some of its properties."""
        query = "&".join([*([_BY_EMAIL] if by_email else []), f"properties={','.join(properties) or 'hs_object_id'}"])
        return self._ask(f"{_path(object, id)}?{query}", f"find the {_one(object)}", _named(object))

    def read_by_key(self, object: str, key: str) -> Asked:
        """Reads the note or task with our key. HubSpot refuses this if the property's values are not unique."""
        path = f"{_path(object, key)}?idProperty={KEY_PROPERTY}&properties=hs_object_id"
        return self._ask(path, f"ask for the {_one(object)}", _named(object))

    def update(self, object: str, id: str, properties: Mapping[str, str], *, by_email: bool = False) -> Asked:
        """Sets properties of an object. May be repeated."""
        path, document = _path(object, id) + (f"?{_BY_EMAIL}" if by_email else ""), {"properties": dict(properties)}
        return self._ask(path, f"update the {_one(object)}", _named(object), document, method="PATCH")

    def create(
        self,
        object: str,
        properties: Mapping[str, str],
        about: Iterable[tuple[str, str]] = (),
        remember: Memory | None = None,
    ) -> Asked:
        """Creates an object, associated with others, given as (type, id)."""
        associations = []
        for target, id in about:
            kind = {"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": ASSOCIATIONS[object, target]}
            associations.append({"to": {"id": id}, "types": [kind]})
        document = {"properties": dict(properties), "associations": associations}
        path, name = f"/crm/objects/{VERSION}/{object}", f"create the {_one(object)}"
        return self._ask(path, name, _named(object), document, remember=remember)

    def associated(self, target: str, id: str, object: str) -> Asked:
        """Lists the notes or tasks of a contact or deal."""
        path, name = (
            f"{_path(target, id)}/associations/{object}?limit={PAGE}",
            f"list the {object} of the {_one(target)}",
        )
        return self._ask(path, name, {"results": []})

    def read_several(self, object: str, ids: Sequence[str]) -> Asked:
        """Reads the creation times of several objects."""
        inputs = [{"id": id} for id in ids]
        document = {"inputs": inputs, "properties": ["hs_object_id"], "propertiesWithHistory": []}
        path, name = f"/crm/objects/{VERSION}/{object}/batch/read", f"read the newest {object}"
        return self._ask(path, name, {"results": []}, document)

    def read_property(self, object: str, definition: Mapping[str, Any]) -> Asked:
        """Reads the definition of a property."""
        name = definition["name"]
        path, expected = f"/crm/properties/{VERSION}/{object}/{name}", {"name": name, "hasUniqueValue": True}
        return self._ask(path, f"read {name} of {object}", expected)

    def create_group(self, object: str) -> Asked:
        """Creates the group of the relay's properties."""
        path, name = f"/crm/properties/{VERSION}/{object}/groups", f"create the group of {object}"
        return self._ask(path, name, {"name": GROUP["name"]}, GROUP)

    def create_property(self, object: str, definition: Mapping[str, Any]) -> Asked:
        """Creates a property."""
        path, name = f"/crm/properties/{VERSION}/{object}", definition["name"]
        return self._ask(path, f"create {name} of {object}", {"name": name}, definition)

    def _ask(
        self, path: str, name: str, expected: Mapping[str, Any], document: Mapping[str, Any] | None = None, **more: Any
    ) -> Asked:
        step = crm.step(self.subscription, path, name, expected, document, **more)
        answer = read_answer((yield step), self.now, about_object="id" in expected)
        self.pause_seconds = answer.outcome.retry_after_seconds
        return answer


def _one(object: str) -> str:
    return object.removesuffix("s")


def _path(object: str, id: str) -> str:
    shown = id if crm.PLACEHOLDER.fullmatch(id) else quote(id, safe="")
    return f"/crm/objects/{VERSION}/{object}/{shown}"


def _named(object: str) -> Mapping[str, Any]:
    """The answer assumed by a preview."""
    return {"id": f"{{{_one(object)}}}"}
