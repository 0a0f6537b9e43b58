"""Whom a create is for, where `proxy.capture` keeps it. Values only; nothing that is shown, logged or stored in clear
contains one."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """The parts of a create's recipient that are captured; None: not given, or not captured."""

    address: str | None = field(default=None, repr=False)
    profile_url: str | None = field(default=None, repr=False)
    phone: str | None = field(default=None, repr=False)
