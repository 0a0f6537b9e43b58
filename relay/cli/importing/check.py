"""The target of a dry run: runs the relay's own checks of a registration. Sends nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from relay.api.registration import read_registration, rejection
from relay.cli.client import Api, ApiError, Unreachable
from relay.cli.importing.lines import Fault
from relay.cli.importing.send import Body, Result
from relay.cli.output import note
from relay.core.events import Origin
from relay.core.job import Observation
from relay.core.netguard import GuardPolicy
from relay.errors import InvalidRequest
from relay.sources.definition import load_definition
from relay.sources.mapping import registered

MAX_ACCOUNTS = 100_000
# Only the relay knows which addresses it allows. Here only URLs that no relay could allow are refused.
ANYWHERE = GuardPolicy(allow_http=True, allow_networks=(IPv4Network("0.0.0.0/0"), IPv6Network("::/0")))

Accounts = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    accounts: Accounts
    origins: Mapping[str, Origin]
    guard: GuardPolicy = ANYWHERE
    account: tuple[str, str] | None = None


class Check:
    """Checks registrations like the relay. Without `accounts` any account names are accepted."""

    def __init__(self, accounts: Accounts | None) -> None:
        self._accounts = accounts
        self._definition = load_definition("revor")
        self._origin = Origin(source="", type_prefix=self._definition.type_prefix, dataschema="")

    def register(self, bodies: Sequence[Body]) -> Result:
        """Counts valid registrations as created, including jobs that may be tracked already."""
        faults = {index: fault for index, body in enumerate(bodies) if (fault := self._fault(body)) is not None}
        return Result(created=len(bodies) - len(faults), faults=faults)

    def _fault(self, body: Body) -> Fault | None:
        accounts = self._accounts if self._accounts is not None else _named_in(body)
        rules = _Rules(accounts=accounts, origins=dict.fromkeys(accounts, self._origin))
        try:
            read_registration(dict(body), rules, self._read_answer)
        except InvalidRequest as error:
            found = rejection(0, error)
            return Fault(code=found["code"], detail=found["detail"])
        return None

    def _read_answer(self, source: str, body: Mapping[str, Any]) -> tuple[str, Observation | None] | None:
        found = registered(self._definition, body, now=0.0)
        return None if found is None else (found.external_id, None)


def known_accounts(api: Api) -> Accounts | None:
    """The relay's accounts by source. If it does not answer: None, with a note."""
    try:
        found = api.items("/v1/sources", {}, MAX_ACCOUNTS)
    except (Unreachable, ApiError) as error:
        note(f"relay: the names of sources and accounts are not checked: {error}")
        return None
    accounts: dict[str, tuple[str, ...]] = {}
    for one in found:
        accounts[one["source"]] = (*accounts.get(one["source"], ()), one["account"])
    return accounts


def _named_in(body: Body) -> Accounts:
    source, account = body.get("source", "revor"), body.get("account", "default")
    return {source: (account,)} if isinstance(source, str) and isinstance(account, str) else {}
