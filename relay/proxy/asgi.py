"""HTTP half of the proxy: an ASGI application for every path of the upstreams' APIs. One source's own paths are served
at the root, as its definition says; those of each are below /sources/NAME.

A request passes through: refusals -> the caller's account -> a job read, a create, or anything else -> the answer with
`Relay-Cache` (and `Age`) added. The relay's own errors have the upstream's shape. Next: `gateway.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from relay.api.access.callers import LIMITS
from relay.api.http import auth
from relay.api.http.auth import READS_TRACKED, USES_UPSTREAM
from relay.api.http.dependencies import ApiDependencies, ApiSettings
from relay.api.http.fields import GROUP_EXPECTED, is_group_name
from relay.api.http.limits import MAX_DEPTH, deeper_than
from relay.api.http.operations import request_id_of
from relay.api.jobs.registration import MAX_METADATA_BYTES, callback_types, url_refusal
from relay.api.jobs.waiting import preferred_seconds
from relay.config.fields import is_header_text
from relay.core.access.forwarding import (
    CACHE_HEADER,
    CALLBACK_HEADER,
    CALLBACK_TYPES_HEADER,
    FOR_THE_RELAY,
    GROUP_HEADER,
    GROUP_SIZE_HEADER,
    METADATA_HEADER,
    NODE_HEADER,
    OVERRIDE_HEADERS,
    SAFE_METHODS,
    Header,
    headers_to_forward,
    path_refusal,
    unforwardable,
    without_tokens,
)
from relay.core.jobs.groups import MAX_EXPECTED
from relay.core.jsontext import JSONDecodeError, loads
from relay.errors import InvalidRequest, NoAnswer, RequestError, Unauthorized
from relay.proxy.addresses import give_own, own_url
from relay.proxy.gateway import Gateway
from relay.proxy.spool import Spool
from relay.proxy.types import Caller, ForwardedRequest, ProxyResponse

_NOT_PLAIN = OVERRIDE_HEADERS | {b"content-length", b"transfer-encoding", b"cache-control", b"prefer", NODE_HEADER}
"""A request with any of these may need more than the cached answer, or may have to be refused."""
KEY_UNKNOWN = "key_unknown"
LEAVING_SECONDS = 0.05
"""Delay before a disconnecting caller is watched for. Most requests are over by then."""


class Proxy:
    """The ASGI application."""

    def __init__(self, dependencies: ApiDependencies, gateway: Gateway) -> None:
        self._dependencies = dependencies
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers; closes the connection if an answer that has begun breaks off."""
        try:
            response = await self._respond(scope, receive)
        except auth.WrongToken as error:
            self._dependencies.audit.login_refused(auth.client_of(scope))
            response = self._problem(scope, await self._dependencies.access.slowed(error))
        except RequestError as error:
            if error.code == KEY_UNKNOWN:  # no key was sent
                self._dependencies.audit.login_refused(auth.client_of(scope))
            response = self._problem(scope, error)
        if response is not None:
            await self.answer(response, scope, receive, send)

    def from_memory(self, scope: Scope) -> ProxyResponse | None:
        """The answer to a plain job read from the cache; None for any other request. Never waits.

        Most requests of polling programs end here.
        """
        headers = scope["headers"]
        named = dict(headers)
        if len(named) < len(headers) or not named.keys().isdisjoint(_NOT_PLAIN):
            return None
        gateway = self._gateway
        mount, path = gateway.mount_of(scope["raw_path"])
        query = scope["query_string"].decode("latin-1")
        try:
            caller = self._who(scope, gateway.key_of(headers, query, mount), mount)
        except RequestError:
            return None  # answered by `__call__`
        query = gateway.without_key(query, mount)
        place = gateway.job_read(caller, scope["method"], path.decode("ascii"), query)
        if place is None:
            return None
        scope["relay.operation"] = "read"
        self._note_addresses(scope, caller.source, path.decode("ascii"), query, mount)
        return gateway.reads.from_memory(place, ended=False)

    async def answer(self, response: ProxyResponse, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends and counts the answer."""
        addresses = scope.get("relay.addresses")
        if addresses is not None:
            try:
                await self._gateway.unless_stopping(give_own(response, *addresses))
            except NoAnswer as error:
                response.close()
                response = self._gateway.unreachable(scope["relay.request"], error)
        self._gateway.count(scope.get("relay.operation", "other"), response)
        await _answer(response, scope, receive, send)

    async def _respond(self, scope: Scope, receive: Receive) -> ProxyResponse | None:
        gateway = self._gateway
        self._refuse(scope)
        mount, path = gateway.mount_of(scope["raw_path"])
        caller, headers = self._caller(scope, mount)
        if (name := unforwardable(headers)) is not None:
            detail = f"the value of the header {name} is not UTF-8 and cannot be sent unchanged. Nothing was sent"
            raise InvalidRequest(detail, code="invalid_header", status=400)
        request = scope["relay.request"] = ForwardedRequest(
            caller=caller,
            identity=scope.get("relay.identity"),
            method=scope["method"],
            path=path.decode("ascii"),
            query=gateway.without_key(scope["query_string"].decode("latin-1"), mount),
            headers=headers,
            request_id=request_id_of(scope, self._dependencies.clock),
        )
        self._note_addresses(scope, caller.source, request.path, request.query, mount)
        has_body, fresh, prefers = _traits(scope["headers"])
        place = None if has_body else gateway.job_read(caller, request.method, request.path, request.query)
        queried = None
        if place is None and request.query and not has_body:
            queried = gateway.read_with_query(caller, request.method, request.path, request.query)
            place = None if queried is None else queried.place
        if place is not None:
            scope["relay.operation"] = "read"
            wait_seconds = float(preferred_seconds(Headers(scope=scope)) or 0) if prefers else 0.0
            if queried is not None and queried.wait_seconds:
                wait_seconds = queried.wait_seconds
            known = None
            if not fresh and (queried is None or queried.address is None):
                known = gateway.reads.from_memory(place, ended=wait_seconds > 0)
            if known is not None:
                return known
            with self._dependencies.admission.waits.held(request.by) if wait_seconds else nullcontext():
                work = gateway.reads.read(request, place, fresh=fresh, wait_seconds=wait_seconds, queried=queried)
                return await _unless_left(work, receive)
        request.require_upstream("this does not read a tracked job")
        resource = gateway.created_by(request)
        if resource is not None:
            scope["relay.operation"] = "create"
            attached = _attached(scope["headers"], (caller.source, resource), self._dependencies.settings)
            return await self._create(request, attached, resource, receive)
        upload = scope["relay.upload"] = _Upload(receive) if has_body else None
        response = await _unless_left(gateway.forward(request, upload), receive, upload)
        if request.method not in SAFE_METHODS and response is not None and response.status < 400:
            self._dependencies.audit.count("proxy.write", request.actor)
            if (changed := gateway.job_changed(request)) is not None:
                await gateway.reads.changed(changed)
        return response

    async def _create(
        self, request: ForwardedRequest, attached: Mapping[str, Any], resource: str, receive: Receive
    ) -> ProxyResponse:
        dependencies, arriving = self._dependencies, _Upload(receive)
        with Spool(dependencies.admission, request.by) as spool:
            try:
                await spool.read(arriving)
            except RequestError:
                await arriving.discard()
                raise
            # A caller that disconnects now does not cancel it: the outcome must be recorded and the job tracked.
            created = await self._gateway.creates.create(request, spool, attached, resource)
        if created.status < 400:
            dependencies.audit.count("proxy.create", request.actor)
        return created

    def _note_addresses(self, scope: Scope, source: str, path: str, query: str, mount: str) -> None:
        """Notes in the scope what `answer` puts in the place of the upstream's addresses."""
        places = self._gateway.addresses_in(source, path, query)
        if places is None:
            return
        relay_url = own_url(scope["scheme"], scope["headers"], self._dependencies.settings.public_url)
        if relay_url is not None:
            scope["relay.addresses"] = *self._gateway.own_url(source, mount, relay_url), places

    def _refuse(self, scope: Scope) -> None:
        """Raises InvalidRequest for a request that could reach past the forwarded paths with the account's key."""
        method = scope["method"]
        if method == "CONNECT":
            raise InvalidRequest("CONNECT asks for a tunnel. It is not forwarded", code="no_tunnels", status=400)
        if method == "TRACE":
            raise InvalidRequest(
                "TRACE echoes a request with its key. It is not forwarded", code="method_not_allowed", status=405
            )
        refusal = path_refusal(scope["raw_path"], self._dependencies.settings.passed_paths)
        if refusal is not None:
            raise InvalidRequest(f"{refusal}. Nothing was sent", code="invalid_path", status=400)
        overriding = next((name for name, _ in scope["headers"] if name in OVERRIDE_HEADERS), None)
        if overriding is not None:
            raise InvalidRequest(
                f"the header {overriding.decode()} overrides the method or path of the request line. Send that request "
                "itself. Nothing was sent",
                code="override_header",
                status=400,
            )

    def _caller(self, scope: Scope, mount: str) -> tuple[Caller, Sequence[Header]]:
        """The caller, and the headers to forward with the account's key. Raises RequestError.

        The caller's `Connection` header is applied before the key is added, so it cannot remove the key.
        """
        gateway, settings = self._gateway, self._dependencies.settings
        raw: list[Header] = scope["headers"]
        key, access = gateway.key_of(raw, scope["query_string"].decode("latin-1"), mount), self._dependencies.access
        # A token of a relay never goes upstream: it may be valid elsewhere, or from another address.
        passed = without_tokens(
            headers_to_forward(raw),
            lambda value: value != key and access.is_token(value),
            gateway.key_header(mount),
        )
        caller = self._who(scope, key, mount)
        if caller.account is not None:
            by_token = "relay.identity" in scope
            return caller, gateway.with_account_key(passed, caller) if by_token else passed
        is_token = "relay.refused" in scope or (key is not None and access.is_token(key))
        if key is None:
            if auth.is_local(scope, Headers(raw=raw), settings):
                return caller, passed  # the upstream answers as it does without the relay
            detail = "a key is needed: send the key of a configured account, or a token of this relay"
            raise Unauthorized(detail, code=KEY_UNKNOWN)
        if not is_token and gateway.adopts_keys and is_header_text(key):
            return caller, passed
        detail = (
            "the key belongs to no configured account and is not a valid token of this relay: configure it as "
            f"sources.{caller.source}.accounts.NAME.api_key, or set proxy.adopt_unknown_keys: true"
        )
        raise auth.WrongToken(detail, auth.client_of(scope), code=KEY_UNKNOWN)

    def _who(self, scope: Scope, key: str | None, mount: str) -> Caller:
        """The caller that a request acts for: the account of its key, or the account that its token stands for. Without
        either, a caller without an account. Raises RequestError if the token does not allow the request."""
        gateway = self._gateway
        caller = gateway.account_of(key, mount)
        if caller is not None or key is None:
            return caller or gateway.caller_for(key, mount)
        # A token is looked up and counted once for each request.
        identity: auth.Identity | None = scope.get("relay.identity") or self._dependencies.access.identify(key, scope)
        if identity is None:
            return gateway.caller_for(key, mount)
        scope["relay.identity"] = identity
        identity.require(READS_TRACKED if scope["method"] in SAFE_METHODS else USES_UPSTREAM)
        if identity.account is None:
            standing = gateway.default_caller(mount)
            why = "a relay token acts for the only account with a key, or for the account `default`. There is neither"
        else:
            standing = gateway.caller_bound_to(identity.account, mount)
            why = "this relay token acts for the account that it is bound to, which has no key, or is of another source"
        if standing is None:
            raise Unauthorized(f"{why}: send the account's own key", code="no_account_to_stand_for")
        return standing

    def _problem(self, scope: Scope, error: RequestError) -> ProxyResponse:
        gateway = self._gateway
        code, request_id = f"relay_{error.code}", request_id_of(scope, self._dependencies.clock)
        caller = gateway.caller_for(None, gateway.mount_of(scope["raw_path"])[0])
        response = gateway.problem(caller, error.status, code, str(error), request_id)
        added = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in error.headers.items()]
        response.headers = [*response.headers, *added]
        return response


def _traits(headers: Sequence[Header]) -> tuple[bool, bool, bool]:
    """Three facts about a request: it has a body, it bypasses the cache, it has a preference (RFC 7240)."""
    has_body = fresh = prefers = False
    for name, value in headers:
        if name == b"content-length":
            has_body = has_body or value.strip() != b"0"
        elif name == b"transfer-encoding":
            has_body = True
        elif name == b"cache-control":
            fresh = fresh or b"no-cache" in value.lower() or b"no-store" in value.lower()
        elif name == b"prefer":
            prefers = True
    return has_body, fresh, prefers


def _attached(headers: Sequence[Header], resource: tuple[str, str], settings: ApiSettings) -> dict[str, Any]:
    """The fields of a create's intent that its `Relay-*` headers attach to the job. `resource`: its source and its key.
    Raises InvalidRequest (400) before anything is sent."""
    given: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in given:
            raise _bad(name.decode().title(), "it is there more than once. Send one")
        if name in FOR_THE_RELAY:
            given[name] = value
    for name, needed in ((CALLBACK_TYPES_HEADER, CALLBACK_HEADER), (GROUP_SIZE_HEADER, GROUP_HEADER)):
        if name in given and needed not in given:
            raise _bad(name.decode().title(), f"there is no {needed.decode().title()}. Send both")
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name == METADATA_HEADER:
            found["metadata"] = _metadata(value)
        elif name == CALLBACK_HEADER:
            found["callback_url"] = callback = value.decode(errors="surrogateescape")
            if (refusal := url_refusal(callback, settings.guard)) is not None:
                raise _bad("Relay-Callback", refusal)
        elif name == CALLBACK_TYPES_HEADER:
            names = [word.strip() for word in value.decode(errors="replace").split(",") if word.strip()]
            found["callback_types"], errors = callback_types(names, resource, settings)
            if errors or not names:
                raise _bad("Relay-Callback-Types", errors[0].detail if errors else "it names no type")
        elif name == GROUP_HEADER:
            found["group"] = _group(value)
        else:
            found["group_size"] = _group_size(value)
    return found


def _group(value: bytes) -> str:
    try:
        name = value.decode()
    except UnicodeDecodeError:
        raise _bad("Relay-Group", "it is not UTF-8") from None
    if is_group_name(name) is None:
        raise _bad("Relay-Group", GROUP_EXPECTED)
    return name


def _group_size(value: bytes) -> int:
    if not (value.isdigit() and len(value) <= len(str(MAX_EXPECTED)) and 1 <= int(value) <= MAX_EXPECTED):
        raise _bad("Relay-Group-Size", f"a whole number from 1 to {MAX_EXPECTED} is expected")
    return int(value)


def _metadata(value: bytes) -> dict[str, Any]:
    if len(value) > MAX_METADATA_BYTES:
        raise _bad("Relay-Metadata", f"it is longer than {MAX_METADATA_BYTES} bytes")
    try:
        metadata = loads(value)
    except JSONDecodeError:
        raise _bad("Relay-Metadata", "it is not JSON") from None
    if not isinstance(metadata, dict):
        raise _bad("Relay-Metadata", "it is not a JSON object")
    if deeper_than(metadata, MAX_DEPTH):
        raise _bad("Relay-Metadata", f"it is nested deeper than {MAX_DEPTH} levels")
    return metadata


def _bad(header: str, why: str) -> InvalidRequest:
    code = header.lower().replace("relay-", "invalid_").replace("-", "_")
    return InvalidRequest(f"{header}: {why}. Nothing was sent", code=code, status=400)


# --- bodies


DISCARD_SECONDS = 2.0
DISCARD_BYTES = 64 << 20


class _Upload:
    """A request body as it arrives. `ended`: complete. `left`: the caller disconnected before that."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False
        self.left = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.left = True
                raise ClientDisconnect
            more = message.get("more_body", False)
            self.ended = not more
            if message.get("body"):
                yield message["body"]
            if not more:
                return

    async def discard(self) -> None:
        """Reads on for a while, and drops it: a client whose connection is closed in the middle of its request may not
        see the answer."""
        count = 0
        with suppress(ClientDisconnect, TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                async for part in self:
                    count += len(part)
                    if count > DISCARD_BYTES:
                        return


# --- callers that leave


async def _unless_left(
    work: Awaitable[ProxyResponse], receive: Receive, upload: _Upload | None = None
) -> ProxyResponse | None:
    """The response; None if the caller disconnected first, which cancels the work."""
    with _Watch(receive, upload):
        response = await work
        if upload is None or not upload.left:
            return response
        response.close()
    return None


class _Watch:
    """While inside, cancels the current task when the caller disconnects. It then goes on behind the `with`."""

    def __init__(self, receive: Receive, upload: _Upload | None) -> None:
        self._receive = receive
        self._upload = upload
        self._left = False
        self._watching: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._timer = self._loop.call_later(LEAVING_SECONDS, self._begin)

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> bool:
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()
        return self._left and kind is asyncio.CancelledError

    def _begin(self) -> None:
        if self._upload is not None and not self._upload.ended:
            self._timer = self._loop.call_later(LEAVING_SECONDS, self._begin)  # the upload notices a disconnect itself
        else:
            self._watching = self._loop.create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        if self._task is not None:
            self._task.cancel()


# --- answers


async def _answer(response: ProxyResponse, scope: Scope, receive: Receive, send: Send) -> None:
    headers = [*response.headers, (CACHE_HEADER, response.cache.encode()), *scope.get(LIMITS, ())]
    if response.age_seconds is not None:
        headers.append((b"age", b"%d" % response.age_seconds))  # only answers from the cache have one
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if response.body is not None:
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})
            return
        with _Watch(receive, scope.get("relay.upload")):  # an answer may begin before the request has ended
            try:
                async for part in response.parts():
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            except NoAnswer:
                _cut(receive)  # the caller has to see that the answer is incomplete, as it would without the relay
            else:
                await send({"type": "http.response.body", "body": b""})
    finally:
        response.close()


def _cut(receive: Receive) -> None:
    """Closes the connection mid-answer. ASGI has no message for that, so this uses the server's transport."""
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is None:
        raise NoAnswer("the upstream's answer broke off")
    transport.close()
