"""The connect accounts of the sandbox, and when each could not send. Pure: time is passed in.

Every Revor account has the same ones. A test breaks, repairs, adds and removes them under /_sandbox/accounts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from relay.sandbox.fields import Refused, invalid

CHANNELS = ("email", "linkedin", "whatsapp")
ACCOUNT_STATUSES = ("ok", "credentials", "error")
MAX_CONNECT_ACCOUNTS = 10_000
MAX_OUTAGES = 100
"""Outages kept for each account, the latest ones."""

PLACEHOLDER_ACCOUNT_ID = "connect_account_xxx"
"""The id in Revor's documentation. Listed as a LinkedIn account, but accepted for a dispatch on any channel, so that
every documented request works unchanged."""

Outage = tuple[float, float]
"""From when until when an account cannot send; `math.inf`: until it is repaired."""


Item = dict[str, Any]
"""A connect account as Revor lists it."""


def _item(account_id: str, channel: str, name: str, identifier: str, *, ok: bool = True) -> Item:
    return {
        "account_id": account_id,
        "channel": channel,
        "name": name,
        "account_identifier": identifier,
        "status": "ok" if ok else "credentials",
        "lifecycle_status": "active",
        "can_send": ok,
        "can_receive": ok,
    }


_AT_START = (
    _item(PLACEHOLDER_ACCOUNT_ID, "linkedin", "LinkedIn Account", "https://www.linkedin.com/in/example/"),
    _item("connect_account_email", "email", "Email Account", "sender@example.com"),
    _item("connect_account_whatsapp", "whatsapp", "WhatsApp Account", "+14155550100"),
    _item(
        "connect_account_signed_out",
        "linkedin",
        "Signed-out LinkedIn Account",
        "https://www.linkedin.com/in/example-signed-out/",
        ok=False,
    ),
)


@dataclass(slots=True)
class ConnectAccounts:
    """The connect accounts by id, and the outages of each that was broken since the start."""

    _accounts: dict[str, Item] = field(default_factory=lambda: {one["account_id"]: one for one in _AT_START})
    _outages: dict[str, list[Outage]] = field(default_factory=dict)

    def __contains__(self, account_id: str) -> bool:
        return account_id in self._accounts

    def listed(self, query: Mapping[str, str] | None = None) -> list[Item]:
        """The items of Revor's listing, filtered by `channel` and `can_send` (true or false)."""
        wanted = query or {}
        channel, can_send = wanted.get("channel") or None, wanted.get("can_send") or None
        if channel not in (None, *CHANNELS):
            raise Refused(400, "invalid_channel")
        if can_send not in (None, "true", "false"):
            raise Refused(400, "invalid_can_send")
        return [
            dict(one)
            for one in self._accounts.values()
            if channel in (None, one["channel"]) and can_send in (None, str(one["can_send"]).lower())
        ]

    def check(self, account_id: str, channel: str) -> None:
        """Raises Refused unless a job of this channel can be created with the account."""
        account = self._accounts.get(account_id)
        if account is None:
            raise Refused(404, "account_not_found")
        # Revor documents status 409 for both cases, but not the codes: these two are the sandbox's own.
        if account["channel"] != channel and account_id != PLACEHOLDER_ACCOUNT_ID:
            raise Refused(409, "account_channel_conflict")
        if not account["can_send"]:
            raise Refused(409, "account_cannot_send")

    def set(self, account_id: str, now: float, **fields: Any) -> Item:
        """Changes an account, or adds one that is given a `channel`. Without `can_send`, `status` decides whether it
        can send. Raises Refused."""
        known = self._accounts.get(account_id)
        if known is None:
            if fields.get("channel") is None:
                raise Refused(404, "account_not_found", f"there is no account {account_id!r}: add it with a channel")
            if len(self._accounts) >= MAX_CONNECT_ACCOUNTS:
                raise invalid(f"there are {MAX_CONNECT_ACCOUNTS} accounts already")
            name = f"{fields['channel'].capitalize()} Account"
            known = _item(account_id, fields["channel"], name, f"{account_id}@example.com")
        if fields.get("status") is not None and fields.get("can_send") is None:
            fields["can_send"] = fields["status"] == "ok"
        changed = known | {name: value for name, value in fields.items() if value is not None}
        changed["can_receive"] = changed["status"] == "ok"
        self._accounts[account_id] = changed
        self._note(account_id, now, can_send=changed["can_send"])
        return changed

    def remove(self, account_id: str, now: float) -> None:
        """Removes an account; its jobs fail as those of a broken one. Raises Refused."""
        if self._accounts.pop(account_id, None) is None:
            raise Refused(404, "account_not_found")
        self._note(account_id, now, can_send=False)

    def outages(self, account_id: str) -> Sequence[Outage]:
        """When the account could not send."""
        return self._outages.get(account_id, ())

    def _note(self, account_id: str, now: float, *, can_send: bool) -> None:
        """Begins or ends an outage, if that changes."""
        outages = self._outages.setdefault(account_id, [])
        is_down = bool(outages) and outages[-1][1] == math.inf
        if is_down and can_send:
            outages[-1] = (outages[-1][0], now)
        elif not is_down and not can_send:
            outages.append((now, math.inf))
            del outages[:-MAX_OUTAGES]
