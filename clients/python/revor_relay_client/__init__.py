"""Client of revor-relay: track jobs, wait for them, receive, pull and publish signed CloudEvents.

Guarantees: a create that is sent again over a bad network is carried out once; an event is handed out at least once.
"""

from revor_relay_client._core import Signed, Subscribed
from revor_relay_client._version import __version__
from revor_relay_client.client import AsyncPull, AsyncRelay, Pull, Relay
from revor_relay_client.errors import (
    ChangedBody,
    EventsRejected,
    RelayError,
    TimestampError,
    UnfitAnswer,
    Unreachable,
    VerificationError,
    WaitTimeout,
    WrongSecret,
)
from revor_relay_client.receiver import Receiver, Reply
from revor_relay_client.verification import Event, verify, verify_all

__all__ = [
    "AsyncPull",
    "AsyncRelay",
    "ChangedBody",
    "Event",
    "EventsRejected",
    "Pull",
    "Receiver",
    "Relay",
    "RelayError",
    "Reply",
    "Signed",
    "Subscribed",
    "TimestampError",
    "UnfitAnswer",
    "Unreachable",
    "VerificationError",
    "WaitTimeout",
    "WrongSecret",
    "__version__",
    "verify",
    "verify_all",
]
