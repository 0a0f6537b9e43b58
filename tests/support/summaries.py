"""Data of the events about connect accounts, groups and incidents, by the names that these events use."""

from dataclasses import replace
from typing import Any

from relay.core import relay_events
from relay.core.events.event import Explain, Hint, unexplained
from relay.core.incidents import Incident, data_of
from relay.core.jobs.connect_accounts import ConnectAccount
from relay.core.jobs.groups import JobGroup


def account_data(*, account_id: str, open_jobs: int, hint: Hint | None = None, **fields: Any) -> dict[str, Any]:
    account = ConnectAccount(id=account_id, told_state=fields["state"], **fields)
    return relay_events.account_data(account, open_jobs=open_jobs, hint=hint)


def group_finished_data(*, group: str, missing: int, explain: Explain = unexplained, **fields: Any) -> dict[str, Any]:
    made = JobGroup(id="grp_1", name=group, last_at=fields["first_at"], **fields)
    return relay_events.group_finished_data(replace(made, expected=made.arrived + missing), explain)


def incident_data(
    *, incident: str, connect_account_name: str | None, subscription: str | None, likely: int | None, **fields: Any
) -> dict[str, Any]:
    made = Incident(id=incident, digest="", subscription_id=subscription, **fields)
    return data_of(made, name=connect_account_name, likely=likely)
