"""Requests to Salesforce's REST API.

Sources: Salesforce's REST API Developer Guide, and SOQL's Quoted String Escape Sequences.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from relay.core.deliveries.delivery import Response
from relay.core.deliveries.dialogue import Step
from relay.core.events.event import Event
from relay.core.subscriptions.subscription import Subscription
from subscribers.common import crm
from subscribers.salesforce.answers import KEY_FIELD, NEWEST_VERSION, Answer, Shape, read_answer
from subscribers.salesforce.options import SalesforceOptions
from subscribers.salesforce.render import LEAD

CHECK = "relay-check@relay.invalid"
"""An address and a key that no record has."""
PLACEHOLDERS = {"Contact": "{contact}", "Lead": "{lead}", "Opportunity": "{opportunity}"}
"""In a preview, in place of an id that is looked up."""

Asked = Generator[Step, Response, Answer]

_ACCEPT = (("Accept", "application/json"),)
_SOQL = str.maketrans(
    {"\\": "\\\\", "'": "\\'", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
)


def versions(subscription: Subscription, now: float) -> Asked:
    """The versions of the API that the instance has. It needs no token, and counts towards no limit."""
    expected = [{"label": "…", "url": f"/services/data/v{NEWEST_VERSION}.0", "version": f"{NEWEST_VERSION}.0"}]
    step = crm.step(subscription, "/services/data/", "versions", expected, headers=_ACCEPT)
    return read_answer((yield step), now, subscription, "", "versions")


@dataclass(slots=True, kw_only=True)
class Org:
    """The requests to an org with a version of its API. `pause_seconds`: by the newest answer, for the day's limit."""

    subscription: Subscription
    now: float
    version: str
    pause_seconds: float | None = None

    @property
    def object(self) -> str:
        """The object of the records."""
        return SalesforceOptions.of(self.subscription).of_records

    def look_up(self, object: str, condition: str) -> Asked:
        """Two ids at most. Only ids are selected, so that nothing more about people comes here."""
        asked = f"({condition}) AND IsConverted = false" if object == LEAD else condition
        soql = f"SELECT Id FROM {object} WHERE {asked} LIMIT 2"  # noqa: S608  (escaped SOQL)
        records = [{"Id": PLACEHOLDERS[object]}]
        return self._query(object, soql, f"look-up of the {object.lower()}", records)

    def write(self, event: Event, fields: Mapping[str, Any], *, linked: bool) -> Asked:
        """The record, made or updated by its external id."""
        key = quote(crm.key_of(event, self.subscription), safe="", errors="replace")
        path = f"/sobjects/{self.object}/{KEY_FIELD}/{key}"
        name = f"{self.object} by {KEY_FIELD}" + ("" if linked else ", without links")
        expected = {"id": "{record}", "success": True, "errors": [], "created": True}
        return self._ask(self.object, "record", path, name, expected, fields)

    def description(self) -> Asked:
        """The object of the records, and all of its fields."""
        expected = {"name": self.object, "createable": True, "updateable": True, "fields": []}
        path = f"/sobjects/{self.object}/describe"
        return self._ask(self.object, "description", path, f"description of {self.object}", expected)

    def summary(self) -> Asked:
        """The object of the records, without its fields."""
        expected = {"objectDescribe": {"name": self.object, "createable": True, "updateable": True}}
        return self._ask(self.object, "summary", f"/sobjects/{self.object}/", f"summary of {self.object}", expected)

    def fields(self, names: Sequence[str]) -> Asked:
        """A query for no record, which is refused if the object has not these fields, or the user may not see them."""
        soql = f"SELECT {', '.join(names)} FROM {self.object} WHERE {KEY_FIELD} = {soql_text(CHECK)} LIMIT 1"  # noqa: S608
        return self._query(self.object, soql, f"fields of {self.object}", [])

    def _query(self, object: str, soql: str, name: str, records: Sequence[Any]) -> Asked:
        asked = quote(soql, safe="{}", errors="replace")  # the braces of placeholders
        expected = {"totalSize": len(records), "done": True, "records": records}
        return self._ask(object, "query", f"/query?q={asked}", name, expected)

    def _ask(
        self, object: str, shape: Shape, path: str, name: str, expected: Any, document: Mapping[str, Any] | None = None
    ) -> Asked:
        path, method = f"/services/data/v{self.version}{path}", "GET" if document is None else "PATCH"
        step = crm.step(self.subscription, path, name, expected, document, method=method, headers=_ACCEPT)
        answer = read_answer((yield step), self.now, self.subscription, object, shape)
        self.pause_seconds = answer.outcome.retry_after_seconds
        return answer


def soql_text(text: str) -> str:
    """A text in a query."""
    return f"'{text.translate(_SOQL)}'"
