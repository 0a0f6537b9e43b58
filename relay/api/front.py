"""The outermost ASGI layer: request id, caller identity, errors as problems, common headers, the log line."""

import logging
import re
import time
from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.api.access.callers import LIMITS
from relay.api.http.auth import (
    TELLS_MORE_PATHS,
    WrongToken,
    client_of,
    identify,
    identify_if_named,
    needs_identity,
    refuse_loop,
)
from relay.api.http.limits import is_long_body
from relay.api.http.operations import Context, request_id_of
from relay.api.http.problems import http_problem, internal_error, problem_response, store_problem
from relay.clock import http_date
from relay.errors import InvalidRequest, NotFound, RequestError, StoreError, Unauthorized

if TYPE_CHECKING:
    from relay.proxy.asgi import Proxy

log = structlog.get_logger()

UI = "/ui"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_EMPTY_BODY = {"type": "http.response.body", "body": b"", "more_body": False}


class Front:
    """The outermost layer. No exception leaves it unless the response has started."""

    def __init__(self, app: ASGIApp, proxy: "Proxy", context: Context, web: ASGIApp | None = None) -> None:
        """`app` serves the API's own paths, `proxy` those of an upstream's API, `web` the dashboard."""
        self.context = context
        self._app = app
        self._passed_paths = context.dependencies.settings.passed_paths
        self._proxy = proxy
        self._web = web
        self.log_all = bool(log.bind().is_enabled_for(logging.DEBUG))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self.context.dependencies.access.trusted_proxies:
            self.context.dependencies.access.address(scope)
        if scope["path"].startswith(self._passed_paths):
            reply = None if self.log_all else self._proxy.from_memory(scope)
            if reply is not None:
                await self._proxy.answer(reply, scope, receive, send)
                self.context.dependencies.count_request(scope["method"], reply.status)
                return
            app: ASGIApp = self._proxy
        elif self._web is not None and (
            scope["path"].startswith(f"{UI}/") or scope["path"] == UI or (scope["path"] == "/" and _browses(scope))
        ):
            app = self._web
        else:
            scope["app"] = self  # starlette then raises HTTPException, which becomes a problem
            app = self._app
        await _Exchange(self, scope, send, unchanged=app is not self._app).run(app, receive)


def _browses(scope: Scope) -> bool:
    """True if a person opens the relay's first page in a browser, which the dashboard leads on from. A request with a
    token comes from a client of the API; a password is for the proxy that signs people in, and may be passed on."""
    headers = Headers(scope=scope)
    has_token = headers.get("authorization", "").lower().startswith("bearer")
    return scope["method"] == "GET" and "text/html" in headers.get("accept", "") and not has_token


class _Exchange:
    """One request and its response."""

    def __init__(self, front: Front, scope: Scope, send: Send, *, unchanged: bool) -> None:
        """`unchanged`: the app knows its callers, and its response is complete."""
        self._log_all = front.log_all
        self._context = front.context
        self._scope = scope
        self._send = send
        self._status = 0
        self._began = time.perf_counter()
        self._unchanged = unchanged

    @property
    def _request_id(self) -> str:
        return request_id_of(self._scope, self._context.dependencies.clock)

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        """Answers by the app, or with the problem that it raises."""
        scope, failed = self._scope, False
        try:
            self._admit()
            await app(scope, receive, self._answer)
        except RequestError as error:
            if self._status:
                raise  # part of the answer was sent: the connection ends, so that it is not taken for the whole
            if isinstance(error, Unauthorized):
                self._context.dependencies.audit.login_refused(client_of(scope))
            answer = await self._context.dependencies.access.slowed(error) if isinstance(error, WrongToken) else error
            await problem_response(answer)(scope, receive, self._answer)
        except HTTPException as error:
            await http_problem(error)(scope, receive, self._answer)
        except ClientDisconnect:
            pass  # the client has left
        except StoreError as error:
            failed = True
            log.error("api_request_failed", request_id=self._request_id, method=scope["method"], error=str(error))
            if self._status:
                raise
            await problem_response(store_problem(error), request_id=self._request_id)(scope, receive, self._answer)
        except Exception:
            failed = True
            log.exception("api_request_failed", request_id=self._request_id, method=scope["method"])
            if self._status:
                raise
            await internal_error(self._request_id)(scope, receive, self._answer)
        finally:
            self._write_log(failed)

    def _admit(self) -> None:
        settings = self._context.dependencies.settings
        refuse_loop(self._scope["headers"], settings.node_id)
        if self._unchanged:
            return
        if _CONTROL.search(self._scope["path"]):
            detail = "the path contains a control character"
            raise InvalidRequest(detail, code="invalid_path", status=400)
        headers = Headers(scope=self._scope)
        if needs_identity(self._scope["path"]):
            self._scope["relay.identity"] = identify(self._scope, headers, settings, self._context.dependencies.access)
        elif self._scope["path"] in TELLS_MORE_PATHS:
            self._scope["relay.identity"] = identify_if_named(
                self._scope, headers, settings, self._context.dependencies.access
            )
        if b"%2f" in self._scope.get("raw_path", b"").lower():
            # Decoded, it would act as a separator and select another path.
            detail = "the path contains an encoded slash: use the uid (job_…) of a job whose id has one"
            raise NotFound(detail, code="slash_in_path")

    async def _answer(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            if self._scope.get("relay.identity") is None and self._leaves_body():
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            if not self._unchanged:
                message["headers"] = [
                    *message["headers"],
                    (b"date", http_date(self._context.dependencies.clock()).encode()),
                    (b"x-request-id", self._request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"cache-control", b"no-store"),
                    *self._scope.get(LIMITS, ()),
                ]
        elif self._scope["method"] == "HEAD":
            if message.get("more_body", False):
                return
            message = _EMPTY_BODY
        await self._send(message)

    def _leaves_body(self) -> bool:
        """True if the answer ends the connection, so that the long body of an unknown caller is not read. A caller
        whose key was passed to the upstream counts as known."""
        passed_paths = self._context.dependencies.settings.passed_paths
        is_known = self._status != 401 and self._scope["path"].startswith(passed_paths)
        return not is_known and is_long_body(Headers(scope=self._scope))

    def _write_log(self, failed: bool) -> None:
        self._context.dependencies.count_request(self._scope["method"], self._status)
        quiet = self._status < 400 and not failed
        if quiet and not self._log_all:
            return  # early, because building the line costs more than the rest of an answer from memory
        write = log.debug if quiet else log.info
        identity = self._scope.get("relay.identity")
        write(
            "api_request",
            request_id=self._request_id,
            method=self._scope["method"],
            path=self._scope["path"],
            operation=self._scope.get("relay.operation"),
            status=self._status,
            caller=None if identity is None else identity.name,
            client=client_of(self._scope) or None,
            **({"refused": refused} if (refused := self._scope.get("relay.refused")) else {}),
            duration_ms=round((time.perf_counter() - self._began) * 1000, 3),
        )
