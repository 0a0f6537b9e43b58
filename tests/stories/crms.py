"""The CRMs of the story `wired`: a stand-in of each, which knows the deals of all jobs but the first.

The answer to the first record of each is lost on the way, as a crash of a proxy loses one: the record must not be made
again.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tests.vendors import hubspot, pipedrive, salesforce
from tests.vendors.endpoint import Message

DEAL_STEP = 10
UNKNOWN = 0
"""The number of the job whose deal no CRM knows."""


def metadata_of(index: int) -> dict[str, Any]:
    """The metadata of a job, by its number from 0."""
    return {"deal": DEAL_STEP * (index + 1), "deal_id": index + 1, "email": _email(index)}


def _email(index: int) -> str:
    return f"buyer-{index + 1}@example.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crm:
    """One CRM.

    open     the stand-in that knows these numbers of jobs
    paths    of its API
    record   "METHOD path" of the requests that make a record
    token    of the subscription
    """

    open: Callable[[range], Any]
    paths: tuple[str, ...]
    record: re.Pattern[str]
    token: str

    @property
    def credential(self) -> Mapping[str, str]:
        """The `sinkcredential` of a subscription."""
        return {"credentialtype": "ACCESSTOKEN", "accesstoken": self.token}


@dataclass(kw_only=True)
class Account:
    """A customer's account at a CRM while the demo runs. `lost`: the requests whose answer did not arrive."""

    crm: Crm
    jobs: int
    lost: int = 0
    mentioned: tuple[str, ...] = ()
    stand_in: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.stand_in = self.crm.open(range(UNKNOWN + 1, self.jobs))

    async def receive(self, request: Request) -> Response:
        """Takes a request, and loses the answer to the first record."""
        answer: Response = await self.stand_in.receive(request)
        if not self.lost and self.crm.record.fullmatch(f"{request.method} {request.url.path}"):
            self.lost += 1
            return Response("Bad gateway", 502)
        return answer

    @property
    def messages(self) -> list[Message]:
        """Its records, as people read them."""
        messages: list[Message] = self.stand_in.messages
        return messages

    @property
    def refused(self) -> list[str]:
        """What it has refused, but for look-ups of what it does not have."""
        mistakes: list[str] = self.stand_in.mistakes
        return mistakes


def _pipedrive(indexes: range) -> pipedrive.Pipedrive:
    company = pipedrive.Pipedrive()
    company.burst = 40  # of the second smallest plan
    for index in indexes:
        company.add_deal(f"Deal {index + 1}")["id"] = index + 1
    return company


PIPEDRIVE = Crm(
    open=_pipedrive,
    paths=("/v1/{path:path}", "/api/v2/{path:path}"),
    record=re.compile(r"POST /v1/notes"),
    token=pipedrive.TOKEN,
)


def _hubspot(indexes: range) -> hubspot.HubSpot:
    account = hubspot.HubSpot()
    for index in indexes:
        account.add("contacts", email=_email(index))
        id = str(index + 1)
        account.records["deals"][id] = hubspot.Record(id=id, properties={"dealname": f"Deal {id}"})
    return account


HUBSPOT = Crm(
    open=_hubspot,
    paths=("/crm/{path:path}", "/account-info/{path:path}"),
    record=re.compile(r"POST /crm/objects/[^/]+/notes"),
    token=hubspot.TOKEN,
)


def _salesforce(indexes: range) -> salesforce.Salesforce:
    org = salesforce.Salesforce()
    for index in indexes:
        org.add("Contact", LastName=f"Buyer {index + 1}", Email=_email(index))
    return org


SALESFORCE = Crm(
    open=_salesforce,
    paths=("/services/{path:path}",),
    record=re.compile(r"PATCH /services/data/[^/]+/sobjects/Job_Event__c/.+"),
    token=salesforce.TOKEN,
)
