"""Sends requests with their subscription's credential, and fetches access tokens.

A token is fetched once for all attempts of a subscription on this node, and kept until shortly before it expires. A
refresh token, which a token endpoint may replace at each use, is traded by one node at a time. A failing token endpoint
is retried after growing pauses, in which attempts fail without a request. Secrets go to the sink's own origin and to
the token endpoint only.
"""

import asyncio
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from relay.clock import Clock
from relay.core.deliveries import credentials
from relay.core.deliveries.credentials import Header, NoToken, SinkCredential, Token
from relay.core.deliveries.delivery import CREDENTIAL_ERROR, PROXY_ERROR, OutboundRequest, Outcome, Response
from relay.core.deliveries.dialogue import Memory
from relay.core.subscriptions.subscription import Subscription
from relay.core.values import value_class
from relay.errors import StoreError
from relay.http.tokens import TOKEN_SECONDS, fetch_token
from relay.redaction import REDACTED
from relay.tasks import Tasks

if TYPE_CHECKING:
    from relay.core.records import RefreshTurn
    from relay.http.sender import Transport
    from relay.store.subscriptions.secrets import CredentialStore

TURN_SECONDS = 2 * TOKEN_SECONDS + 10.0
"""Time limit for a node to trade a refresh token: two requests, and storing the answer."""
TURN_WAIT_SECONDS = 5.0
TURN_POLL_SECONDS = 0.25
STORE_RETRY_SECONDS = 1.0
REFUSED_SECONDS = 60.0
"""Pause of renewals on 401 after a sink has refused a new token too."""
MAX_KEPT = 10_000

log = structlog.get_logger("relay.delivery")


@value_class(frozen=True, slots=True, kw_only=True)
class Sent:
    """A request that was sent, and its response.

    headers   those sent; the credential's value is redacted
    outcome   the outcome if known, for example without a token; None: the kind of sink decides
    secrets   texts that the sink could echo
    remember  see `relay.core.deliveries.dialogue.Ended`, also for `share`
    made_up   the requests of a dry run, none of them sent; None: no dry run
    """

    headers: tuple[Header, ...]
    response: Response
    outcome: Outcome | None = None
    secrets: tuple[str, ...] = ()
    remember: Memory | None = None
    share: Memory | None = None
    made_up: tuple[OutboundRequest, ...] | None = None


@dataclass(slots=True, eq=False)
class _Kept:
    """This node's state of one subscription's token.

    fetching        the token request in progress
    no_token        why the last request failed; the next one is not sent before `not_before`
    refused_until   a 401 causes no renewal before this time
    secret_in_body  the token endpoint expects the client's secret in the body
    """

    credential_id: str
    token: Token | None = None
    fetching: "asyncio.Future[Token | NoToken] | None" = None
    no_token: NoToken | None = None
    failures: int = 0
    not_before: float = 0.0
    refused_until: float = 0.0
    secret_in_body: bool = False


class Credentials:
    """The tokens of this node."""

    def __init__(self, *, transport: "Transport", store: "CredentialStore", clock: Clock, tasks: Tasks) -> None:
        self._transport = transport
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._kept: dict[str, _Kept] = {}

    def apart(self) -> "Credentials":
        """A separate, empty set of tokens, which deliveries do not use."""
        return Credentials(transport=self._transport, store=self._store, clock=self._clock, tasks=self._tasks)

    async def send(self, subscription: Subscription, request: OutboundRequest, timeout_seconds: float) -> Sent:
        """Sends a request with the subscription's credential, all within the timeout. On a 401 it renews a fetched
        token once and sends the request again: the sink has not accepted the first one."""
        credential = subscription.credential
        assert credential is not None
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + timeout_seconds
        if credentials.origin_text(request.url) != credential.origin:
            return self._unsent(NoToken(detail="it was given for another origin than this request's"), credential)
        if credential.token_url is None:
            header = credentials.fixed_header(credential, self._clock())
            if isinstance(header, NoToken):
                return self._unsent(header, credential)
            header = credentials.placed(request, header)
            response = await self._transport.send(_with(request, header), timeout_seconds=timeout_seconds)
            return _sent(request, header[0], response, credential.secrets)

        kept = self._kept_of(subscription.id, credential)
        token = await self._token(subscription, credential, kept, ends_at)
        if isinstance(token, NoToken):
            return self._unsent(token, credential)
        response = await self._send(request, token, ends_at - loop.time())
        secrets = (*credential.secrets, token.value)
        if response.status_code == 401 and self._clock() >= kept.refused_until:
            renewed = await self._token(subscription, credential, kept, ends_at, refused=token.value)
            response, used = await self._send_again(kept, request, token, response, ends_at, renewed)
            secrets = (*secrets, used.value)
        return _sent(request, credentials.placed(request, credentials.bearer(""))[0], response, secrets)

    async def _send_again(
        self,
        kept: _Kept,
        request: OutboundRequest,
        token: Token,
        first: Response,
        ends_at: float,
        renewed: Token | NoToken,
    ) -> tuple[Response, Token]:
        """The response to a second request with a new token, and that token. Without a new token, the first ones."""
        if isinstance(renewed, NoToken):
            return _noted(first, f"no new token: {renewed.detail}"), token
        seconds = ends_at - asyncio.get_running_loop().time()
        if renewed.value == token.value or seconds <= 0:
            kept.refused_until = self._clock() + REFUSED_SECONDS
            why = "the token endpoint gave the same token again" if seconds > 0 else "no time was left to send it again"
            return _noted(first, why), token
        second = await self._send(request, renewed, seconds)
        if second.status_code == 401:
            kept.refused_until = self._clock() + REFUSED_SECONDS
        both = replace(second, started_at=first.started_at, duration_ms=first.duration_ms + second.duration_ms)
        return _noted(both, "sent twice: the first answer was 401, the second request had a new token"), renewed

    async def _send(self, request: OutboundRequest, token: Token, seconds: float) -> Response:
        tenths = max(math.ceil(seconds * 10), 1)  # the sender keeps a timer per length
        header = credentials.placed(request, credentials.bearer(token.value))
        return await self._transport.send(_with(request, header), timeout_seconds=tenths / 10)

    def _unsent(self, why: NoToken, credential: SinkCredential) -> Sent:
        error = PROXY_ERROR if why.by_proxy else CREDENTIAL_ERROR
        response = Response(started_at=self._clock(), duration_ms=0.0, error=error, detail=why.detail)
        pause = credentials.pause_seconds(1, why.retry_after_seconds)
        outcome = Outcome(verdict="retry", reason=error, retry_after_seconds=pause)
        return Sent(headers=(), response=response, outcome=outcome, secrets=credential.secrets)

    # --- tokens

    def _kept_of(self, subscription_id: str, credential: SinkCredential) -> _Kept:
        kept = self._kept.get(subscription_id)
        if kept is None or kept.credential_id != credential.id:
            if len(self._kept) >= MAX_KEPT:
                self._kept.pop(next(iter(self._kept)))
            kept = _Kept(credential.id, token=credentials.stored_token(credential))
            self._kept[subscription_id] = kept
        return kept

    async def _token(
        self,
        subscription: Subscription,
        credential: SinkCredential,
        kept: _Kept,
        ends_at: float,
        refused: str | None = None,
    ) -> Token | NoToken:
        """A valid token other than `refused`. Shares the token request of another attempt."""
        now = self._clock()
        if kept.token is not None and kept.token.stale_at > now and kept.token.value != refused:
            return kept.token
        if kept.fetching is None:
            if kept.no_token is not None and now < kept.not_before:
                return replace(kept.no_token, retry_after_seconds=kept.not_before - now)
            kept.fetching = asyncio.get_running_loop().create_future()
            self._tasks.start(self._fetch(subscription, credential, kept, kept.fetching))
        try:
            async with asyncio.timeout_at(ends_at):
                return await asyncio.shield(kept.fetching)
        except TimeoutError:
            return NoToken(detail="no token came within the time limit of the attempt")

    async def _fetch(
        self,
        subscription: Subscription,
        credential: SinkCredential,
        kept: _Kept,
        fetched: "asyncio.Future[Token | NoToken]",
    ) -> None:
        """Fetches a token for all waiting attempts."""
        result: Token | NoToken = NoToken(detail="no token was fetched, because the relay is stopping")
        instance = credentials.instance_of(subscription)
        try:
            if credential.type == "REFRESHTOKEN":
                result = await self._trade(subscription.id, credential, kept, instance)
            else:
                result = await self._ask(credential, kept, instance)
        except Exception as error:
            log.exception("token_failed", subscription=subscription.id)
            result = NoToken(detail=f"no token could be fetched ({type(error).__name__}): the relay's log says more")
        finally:
            kept.fetching = None
            if isinstance(result, Token):
                kept.token, kept.no_token, kept.failures = result, None, 0
            else:
                kept.failures += 1
                pause = credentials.pause_seconds(kept.failures, result.retry_after_seconds)
                result = replace(result, retry_after_seconds=pause)
                kept.no_token, kept.not_before = result, self._clock() + pause
                log.warning("no_token", subscription=subscription.id, why=result.detail, pause_seconds=round(pause, 1))
            fetched.set_result(result)

    async def _ask(self, credential: SinkCredential, kept: _Kept, instance: str | None) -> Token | NoToken:
        result, kept.secret_in_body = await fetch_token(
            self._transport, credential, instance, secret_in_body=kept.secret_in_body, clock=self._clock
        )
        return result

    # --- refresh tokens

    async def _trade(
        self, subscription_id: str, credential: SinkCredential, kept: _Kept, instance: str | None
    ) -> Token | NoToken:
        """Trades the stored refresh token in this node's turn, or uses the token that another node received.

        The new tokens are stored before they are used. A node killed between the answer and the commit loses them;
        access then continues only if the endpoint accepts the old refresh token once more.
        """
        used = None if kept.token is None else kept.token.value
        turn = await self._turn(subscription_id, credential, used)
        if turn.credential is None:
            return NoToken(detail="the sinkcredential was replaced meanwhile")
        stored = credentials.stored_token(turn.credential)
        if not turn.mine:
            if turn.until == 0.0 and stored is not None:
                return stored
            seconds = max(turn.until - self._clock(), 0.0)
            return NoToken(detail="another node has not got a new token yet", retry_after_seconds=seconds)
        result = await self._ask(turn.credential, kept, instance)
        if isinstance(result, NoToken):
            pause = credentials.pause_seconds(kept.failures + 1, result.retry_after_seconds)
            await self._store.pause_refresh(subscription_id, self._clock() + pause)
            return result
        while True:
            try:
                kept_it = await self._store.keep_credential(
                    subscription_id, credentials.renewed(turn.credential, result)
                )
                break
            except StoreError as error:
                log.error("token_not_stored", subscription=subscription_id, error=str(error))
                await asyncio.sleep(STORE_RETRY_SECONDS)
        return result if kept_it else NoToken(detail="the sinkcredential was replaced meanwhile")

    async def _turn(self, subscription_id: str, credential: SinkCredential, used: str | None) -> "RefreshTurn":
        """Takes the turn, or waits up to TURN_WAIT_SECONDS for the node that has it."""
        tries = int(TURN_WAIT_SECONDS / TURN_POLL_SECONDS)
        while True:
            now = self._clock()
            turn = await self._store.refresh_turn(
                subscription_id, credential.id, used=used, now=now, until=now + TURN_SECONDS
            )
            tries -= 1
            if turn.mine or turn.until == 0.0 or not tries:
                return turn
            await asyncio.sleep(TURN_POLL_SECONDS)


def _with(request: OutboundRequest, header: Header) -> OutboundRequest:
    """The request with the credential's header, which replaces others of that name."""
    return replace(request, headers=(*_others(request, header[0]), header))


def _others(request: OutboundRequest, name: str) -> tuple[Header, ...]:
    return tuple(header for header in request.headers if header[0].lower() != name.lower())


def _sent(request: OutboundRequest, name: str, response: Response, secrets: tuple[str, ...]) -> Sent:
    return Sent(headers=(*_others(request, name), (name, REDACTED)), response=response, secrets=secrets)


def _noted(response: Response, note: str) -> Response:
    return replace(response, detail=note if response.detail is None else f"{note}; {response.detail}")
