"""Verifies signed requests of a relay (Standard Webhooks, scheme `v1`), and reads their events."""

import base64
import hmac
import time
from collections.abc import Mapping

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from revor_relay_client.errors import ChangedBody, Reason, TimestampError, VerificationError, WrongSecret
from revor_relay_client.models import CloudEvent

TOLERANCE_SECONDS = 300.0
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
BATCH = "application/cloudevents-batch+json"


class Event(CloudEvent):
    """A CloudEvent as a relay sent it.

    relay_id        the relay's id of the event, as `webhook-id` has it; "" in a batch
    attempt_number  of a pulled event: 1, or more if it was handed out before
    """

    relay_id: str = Field(default="", exclude=True)
    attempt_number: int = Field(default=1, exclude=True)

    @property
    def key(self) -> tuple[str, str]:
        """Identifies the event. It is the same when the event is sent again."""
        return self.source, self.id


_EVENTS = TypeAdapter(list[Event])


def verify(
    body: bytes, headers: Mapping[str, str], secret: str, *, tolerance_seconds: float = TOLERANCE_SECONDS
) -> Event:
    """The event of a signed request.

    body               the raw bytes, before any JSON parser
    headers            of the request; their names in any case
    secret             `whsec_…` of the subscription, or the relay's for callbacks
    tolerance_seconds  how far its time may be off

    Raises VerificationError: ChangedBody, TimestampError or WrongSecret. ValueError for a malformed secret, TypeError
    for a body that is not bytes.
    """
    events = verify_all(body, headers, secret, tolerance_seconds=tolerance_seconds)
    if len(events) != 1:
        raise VerificationError("unfit_body", f"the request has {len(events)} events: use verify_all")
    return events[0]


def verify_all(
    body: bytes, headers: Mapping[str, str], secret: str, *, tolerance_seconds: float = TOLERANCE_SECONDS
) -> list[Event]:
    """The events of a signed request of a subscription whose content mode is `structured` or `batch`. As `verify`."""
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError(f"verify takes the raw bytes of the body, before any JSON parser, not {type(body).__name__}")
    key = key_of(secret)
    given = {name.lower(): value.strip() for name, value in headers.items()}
    missing = [name for name in (ID, TIMESTAMP, SIGNATURE) if not given.get(name)]
    if missing:
        raise VerificationError("missing_header", f"the request has no {' and no '.join(missing)} header")
    written = given[TIMESTAMP]
    if not (written.isascii() and written.isdigit() and len(written) <= 15):
        raise VerificationError("malformed_timestamp", f"{TIMESTAMP} is not whole seconds")
    signatures = [one[3:] for one in given[SIGNATURE].split(" ") if one.startswith("v1,")]
    if not signatures:
        raise VerificationError("no_v1_signature", f"{SIGNATURE} has no v1: set config.signature to v1 or both")
    signed = f"{given[ID]}.{written}.".encode(errors="replace") + body
    right = base64.b64encode(hmac.digest(key, signed, "sha256"))
    if not any(hmac.compare_digest(right, one.encode(errors="replace")) for one in signatures):
        changed = _change_of(given, body)
        if changed:
            raise ChangedBody("changed_body", f"the body was changed after it was signed: {changed}")
        raise WrongSecret("wrong_secret", "no signature matches: the secret is another one, or the body was changed")
    age_seconds = time.time() - int(written)
    if abs(age_seconds) > tolerance_seconds:
        when = f"{abs(age_seconds):.0f} s {'ago' if age_seconds > 0 else 'ahead'}"
        reason: Reason = "old_timestamp" if age_seconds > 0 else "future_timestamp"
        raise TimestampError(reason, f"the request was signed {when}: sent again, or a wrong clock")
    return _events_of(given, body)


def _events_of(headers: Mapping[str, str], body: bytes) -> list[Event]:
    try:
        if headers.get("content-type", "").startswith(BATCH):
            return _EVENTS.validate_json(body)
        event = Event.model_validate_json(body)
    except ValidationError:
        detail = "the body is signed and no CloudEvent: set config.content_mode to structured or batch, and no template"
        raise VerificationError("unfit_body", detail) from None
    event.relay_id, event.attempt_number = headers[ID], 1
    return [event]


def _change_of(headers: Mapping[str, str], body: bytes) -> str | None:
    """The proof that the body does not belong to these headers; None without one."""
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and length.lstrip("0") != str(len(body)).lstrip("0"):
        return f"it has {len(body)} bytes, and Content-Length says {length[:20]}"
    if "json" not in headers.get("content-type", ""):
        return None
    try:
        found = from_json(body)
    except ValueError:
        return "it is not complete JSON"
    own = found.get("id") if isinstance(found, dict) and "specversion" in found else None
    # A published event has the id of its program, and webhook-id the relay's.
    is_relays = isinstance(own, str) and own.startswith("evt_") and headers[ID].startswith("evt_")
    return f"its event has another id than {ID}" if is_relays and own != headers[ID] else None


def key_of(secret: str) -> bytes:
    """The key of a secret. Raises ValueError, which does not quote it."""
    encoded = str(secret).removeprefix("whsec_")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        key = b""
    if not str(secret).startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValueError("a signing secret is whsec_ and base64 of 24 to 64 bytes")
    return key
