"""`Relay` and `AsyncRelay`: the same verbs over httpx. What they send and decide is in `_core.py`."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import httpx
from pydantic import BaseModel

from revor_relay_client import _core, models, verification
from revor_relay_client._core import (
    Answer,
    Body,
    Core,
    Failure,
    Following,
    Pause,
    Pulling,
    Send,
    Signed,
    Steps,
    Subscribed,
)
from revor_relay_client.errors import RelayError
from revor_relay_client.verification import TOLERANCE_SECONDS, Event

Value = TypeVar("Value")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


class _Both(Generic[Http]):
    """What both clients have."""

    _http: Http

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout_seconds: float = 30.0,
        retry_seconds: float = 60.0,
        transport: Any = None,
    ) -> None:
        """The relay at `url` (RELAY_URL), with `token` (RELAY_TOKEN).

        timeout_seconds  time limit of one answer
        retry_seconds    time limit of the retries of one request, where they are safe. 0: no retries
        transport        of httpx, in place of the default one, which ignores proxies of the environment on loopback

        Raises ValueError if the URL or the token is malformed.
        """
        self._core = Core(url, token, timeout_seconds=timeout_seconds, retry_seconds=retry_seconds)
        self._http = self._opened(transport)

    def _opened(self, transport: Any) -> Http:
        raise NotImplementedError

    @property
    def url(self) -> str:
        """The relay's address."""
        return self._core.url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def verify(
        self,
        body: bytes,
        headers: Mapping[str, str],
        secret: str,
        *,
        tolerance_seconds: float = TOLERANCE_SECONDS,
    ) -> Event:
        """The event of a signed request: `revor_relay_client.verify`."""
        return verification.verify(body, headers, secret, tolerance_seconds=tolerance_seconds)

    def _timeout(self, send: Send) -> httpx.Timeout:
        return httpx.Timeout(self._core.timeout_seconds, read=send.seconds)

    def _following(self, job_id: str | None, type: str | None, filters: Any, after: str | None) -> Following:
        filtered = None if filters is None else json.dumps(filters, allow_nan=False)
        return Following(self._core, job_id, after, {"type": type, "filters": filtered})


def _failure(error: Exception) -> Failure:
    return Failure(f"{error or type(error).__name__}", isinstance(error, httpx.ConnectError))


def _lowered(headers: httpx.Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


class Relay(_Both[httpx.Client]):
    """A relay. Use it with `with`, or `close` it."""

    def _opened(self, transport: httpx.BaseTransport | None) -> httpx.Client:
        return httpx.Client(transport=transport or (httpx.HTTPTransport() if self._core.is_local else None))

    def track(self, job_id: str, **fields: Any) -> models.RegisteredJob:
        """Tracks a job of the upstream. `fields`: `metadata`, `callback_url`, `callback_types`, `group`, `priority`,
        `source`, `account`, `resource`, `deadline_seconds`. Repeating it is safe: a job is tracked once."""
        return self._run(self._core.track(job_id, fields))

    def wait(self, job_id: str, *, timeout_seconds: float | None = None) -> models.Job:
        """The job once it has ended, over as many requests as it takes. Raises WaitTimeout."""
        return self._run(self._core.wait(job_id, timeout_seconds))

    def publish(self, *events: Mapping[str, Any] | BaseModel) -> models.Publishing:
        """Publishes CloudEvents, up to 1,000 at once. Each is recorded once: a missing `id` is made before the
        first attempt. Raises EventsRejected if one was not taken."""
        return self._run(self._core.publish(events))

    def subscribe(self, id: str, sink: str | None = None, *, secret: str | None = None, **fields: Any) -> Subscribed:
        """Creates or changes the subscription `id`. Without a sink its events are pulled.

        secret  `whsec_…`. Default: derived from the token and the id, so it is the same at the next start
        fields  those of the API: `types`, `filters`, `config`, `sinkcredential`, `protocolsettings`, `description` …
        """
        return self._run(self._core.subscribe(id, sink, secret, fields))

    def signed_request(self, job_id: str, type: str | None = None, *, timeout_seconds: float = 60.0) -> Signed:
        """A signed request with the job's event of this type, or of its end, as a webhook gets it: for tests, and to
        try out a receiver. Makes a subscription and removes it (scope `subscriptions:write`). A relay that does not
        send to this machine also asks for `admin`. Raises WaitTimeout."""
        return self._run(self._core.signed_request(job_id, type, timeout_seconds))

    def stream(
        self, job_id: str | None = None, *, type: str | None = None, filters: Any = None, after: str | None = None
    ) -> Iterator[Event]:
        """The events of a job, until its last one; without a job, all events from now on.

        after  `relay_id` of the last event that was handled, to go on from there

        A cut connection is resumed after the last event that was handled.
        """
        following = self._following(job_id, type, filters, after)
        self._run(following.begin())
        while not following.ended:
            send = following.request()
            began, pause = False, Pause(0)
            try:
                with self._open(send) as response:
                    if _core.is_stream(response.status_code, _lowered(response.headers)):
                        began = True
                        for chunk in response.iter_raw():
                            for event in following.feed(chunk):
                                yield event
                                following.took(event)
                    else:
                        pause = following.refused(self._read(response, send))
            except httpx.HTTPError as error:
                if not began:
                    pause = following.refused(_failure(error))
            if began:
                pause = following.broke()
            time.sleep(pause.seconds)

    def pull(
        self,
        subscription_id: str,
        *,
        at_once: int = 10,
        lease_seconds: float = 60.0,
        limit: int | None = None,
        idle_seconds: float | None = None,
    ) -> "Pull":
        """The events of a subscription without a sink, at least once each. Use it with `with`.

        at_once        how many are leased together
        lease_seconds  time that the program has for those
        limit          ends after this number of events
        idle_seconds   ends after this time without an event

        Asking for the next event acknowledges the one before it. After `break` or an exception the event is
        sent again: an exception counts as an attempt.
        """
        return Pull(
            self,
            Pulling(
                self._core,
                subscription_id,
                at_once=at_once,
                lease_seconds=lease_seconds,
                limit=limit,
                idle_seconds=idle_seconds,
            ),
        )

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, steps: Steps[Value]) -> Value:
        try:
            step = next(steps)
            while True:
                try:
                    outcome = self._do(step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as end:
            value: Value = end.value
            return value
        except RelayError as error:
            error.__traceback__ = None  # the steps inside the client say less than the message
            raise

    def _do(self, step: Send | Pause) -> Answer | Failure | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            with self._open(step) as response:
                return self._read(response, step)
        except httpx.HTTPError as error:
            return _failure(error)

    def _open(self, send: Send) -> contextlib.AbstractContextManager[httpx.Response]:
        opening: contextlib.AbstractContextManager[httpx.Response] = self._http.stream(
            send.method, send.url, headers=send.headers, content=send.body, timeout=self._timeout(send)
        )
        return opening

    def _read(self, response: httpx.Response, send: Send) -> Answer:
        body = Body(send.seconds)
        for chunk in response.iter_raw():
            body.add(chunk)
        return Answer(response.status_code, _lowered(response.headers), body.bytes)


class Pull:
    """An iterator of pulled events, and the context in which they are handled."""

    def __init__(self, relay: Relay, pulling: Pulling) -> None:
        self._relay, self._pulling = relay, pulling

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = self._relay._run(self._pulling.next())
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._relay._run(self._pulling.leave(failed=kind is not None and issubclass(kind, Exception)))


class AsyncRelay(_Both[httpx.AsyncClient]):
    """A relay, for asyncio. Use it with `async with`, or `aclose` it. The verbs are those of `Relay`."""

    def _opened(self, transport: httpx.AsyncBaseTransport | None) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=transport or (httpx.AsyncHTTPTransport() if self._core.is_local else None))

    async def track(self, job_id: str, **fields: Any) -> models.RegisteredJob:
        """As `Relay.track`."""
        return await self._run(self._core.track(job_id, fields))

    async def wait(self, job_id: str, *, timeout_seconds: float | None = None) -> models.Job:
        """As `Relay.wait`."""
        return await self._run(self._core.wait(job_id, timeout_seconds))

    async def publish(self, *events: Mapping[str, Any] | BaseModel) -> models.Publishing:
        """As `Relay.publish`."""
        return await self._run(self._core.publish(events))

    async def subscribe(
        self, id: str, sink: str | None = None, *, secret: str | None = None, **fields: Any
    ) -> Subscribed:
        """As `Relay.subscribe`."""
        return await self._run(self._core.subscribe(id, sink, secret, fields))

    async def signed_request(self, job_id: str, type: str | None = None, *, timeout_seconds: float = 60.0) -> Signed:
        """As `Relay.signed_request`."""
        return await self._run(self._core.signed_request(job_id, type, timeout_seconds))

    async def stream(
        self, job_id: str | None = None, *, type: str | None = None, filters: Any = None, after: str | None = None
    ) -> AsyncIterator[Event]:
        """As `Relay.stream`."""
        following = self._following(job_id, type, filters, after)
        await self._run(following.begin())
        while not following.ended:
            send = following.request()
            began, pause = False, Pause(0)
            try:
                async with self._open(send) as response:
                    if _core.is_stream(response.status_code, _lowered(response.headers)):
                        began = True
                        async for chunk in response.aiter_raw():
                            for event in following.feed(chunk):
                                yield event
                                following.took(event)
                    else:
                        pause = following.refused(await self._read(response, send))
            except httpx.HTTPError as error:
                if not began:
                    pause = following.refused(_failure(error))
            if began:
                pause = following.broke()
            await asyncio.sleep(pause.seconds)

    def pull(
        self,
        subscription_id: str,
        *,
        at_once: int = 10,
        lease_seconds: float = 60.0,
        limit: int | None = None,
        idle_seconds: float | None = None,
    ) -> "AsyncPull":
        """As `Relay.pull`, with `async with` and `async for`."""
        return AsyncPull(
            self,
            Pulling(
                self._core,
                subscription_id,
                at_once=at_once,
                lease_seconds=lease_seconds,
                limit=limit,
                idle_seconds=idle_seconds,
            ),
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _run(self, steps: Steps[Value]) -> Value:
        try:
            step = next(steps)
            while True:
                try:
                    outcome = await self._do(step)
                except BaseException as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as end:
            value: Value = end.value
            return value
        except RelayError as error:
            error.__traceback__ = None  # the steps inside the client say less than the message
            raise

    async def _do(self, step: Send | Pause) -> Answer | Failure | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            async with self._open(step) as response:
                return await self._read(response, step)
        except httpx.HTTPError as error:
            return _failure(error)

    def _open(self, send: Send) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        opening: contextlib.AbstractAsyncContextManager[httpx.Response] = self._http.stream(
            send.method, send.url, headers=send.headers, content=send.body, timeout=self._timeout(send)
        )
        return opening

    async def _read(self, response: httpx.Response, send: Send) -> Answer:
        body = Body(send.seconds)
        async for chunk in response.aiter_raw():
            body.add(chunk)
        return Answer(response.status_code, _lowered(response.headers), body.bytes)


class AsyncPull:
    """As `Pull`."""

    def __init__(self, relay: AsyncRelay, pulling: Pulling) -> None:
        self._relay, self._pulling = relay, pulling

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        event = await self._relay._run(self._pulling.next())
        if event is None:
            raise StopAsyncIteration
        return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._relay._run(self._pulling.leave(failed=kind is not None and issubclass(kind, Exception)))
