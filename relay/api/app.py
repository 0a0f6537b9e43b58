"""The API as one ASGI application."""

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING

import orjson
from starlette.routing import Router
from starlette.types import ASGIApp

from relay.api.catalogue import OPERATIONS
from relay.api.front import Front
from relay.api.http.dependencies import ApiDependencies, ApiSettings
from relay.api.http.operations import Context, routes_of
from relay.resources import schemas_dir

if TYPE_CHECKING:
    from relay.proxy.asgi import Proxy


Pages = Callable[[Context, ASGIApp], ASGIApp]
"""Makes the dashboard over the API's operations."""


def create_api(
    dependencies: ApiDependencies, proxy: "Callable[[ApiDependencies], Proxy]", pages: Pages | None = None
) -> Front:
    """The API, the drop-in proxy that `proxy` creates, and the dashboard that `pages` makes. It opens and closes
    nothing."""
    schemas = {path.stem: path.read_bytes() for path in sorted(schemas_dir().glob("*.json"))}
    openapi = cache(partial(openapi_json, dependencies.settings))
    asyncapi = cache(partial(asyncapi_json, dependencies.settings))
    context = Context(dependencies=dependencies, schemas=schemas, openapi=openapi, asyncapi=asyncapi)
    # A path with a trailing slash is another path.
    router = Router(routes_of(context, OPERATIONS), redirect_slashes=False)
    # Not `Starlette`: the front answers all exceptions.
    return Front(router, proxy(dependencies), context, None if pages is None else pages(context, router))


def openapi_json(settings: ApiSettings) -> bytes:
    """The OpenAPI description with these settings, as JSON."""
    from relay.api.openapi import document_of  # makes an example of every model

    return orjson.dumps(document_of(OPERATIONS, settings))


def asyncapi_json(settings: ApiSettings) -> bytes:
    """The AsyncAPI description with these settings, as JSON."""
    from relay.api.asyncapi import asyncapi_document

    return orjson.dumps(asyncapi_document(settings))
