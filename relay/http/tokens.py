"""Requests of access tokens from an OAuth token endpoint, for sinks and for sources."""

from typing import TYPE_CHECKING

from relay.clock import Clock
from relay.core.deliveries.credentials import NoToken, SinkCredential, Token, read_token, token_request

if TYPE_CHECKING:
    from relay.http.sender import Transport

TOKEN_SECONDS = 10.0
"""Time limit of one request to a token endpoint."""


async def fetch_token(
    sender: "Transport", credential: SinkCredential, instance: str | None, *, secret_in_body: bool, clock: Clock
) -> tuple[Token | NoToken, bool]:
    """The token, or why there is none, and where the secret is to be sent next time. If the endpoint refuses the
    client, the secret is sent once more by the other method."""
    request = token_request(credential, secret_in_body=secret_in_body)
    found = read_token(await sender.send(request, timeout_seconds=TOKEN_SECONDS), clock(), instance)
    if isinstance(found, Token) or not found.other_method or "client_secret" not in credential.fields:
        return found, secret_in_body
    request = token_request(credential, secret_in_body=not secret_in_body)
    again = read_token(await sender.send(request, timeout_seconds=TOKEN_SECONDS), clock(), instance)
    return (again, not secret_in_body) if isinstance(again, Token) else (found, secret_in_body)
