"""Verifies a `v1a` signature with the public keys of a relay: `pip install cryptography`."""

import base64
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def verify_v1a(public_keys, headers, body):
    """Whether the raw bytes of a request were signed with one of these public keys (`whpk_…`)."""
    timestamp = headers["webhook-timestamp"]
    if abs(time.time() - int(timestamp)) > 300:
        return False
    content = f"{headers['webhook-id']}.{timestamp}.".encode() + body
    for part in headers["webhook-signature"].split(" "):
        scheme, _, signature = part.partition(",")
        for key in public_keys if scheme == "v1a" else ():
            public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.removeprefix("whpk_")))
            try:
                public.verify(base64.b64decode(signature), content)
            except InvalidSignature:
                continue
            return True
    return False
