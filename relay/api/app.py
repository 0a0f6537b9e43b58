"""The API as one ASGI application."""

from collections.abc import Sequence

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from relay.api.catalogue import OPERATIONS
from relay.api.front import Front
from relay.api.openapi import document_of
from relay.api.operations import Context
from relay.api.ports import ApiSettings, Ports
from relay.api.problems import on_http_exception
from relay.api.resource import routes_of
from relay.resources import schemas_dir


def create_api(ports: Ports) -> Starlette:
    """The API over these ports. It opens and closes nothing."""
    schemas = {path.stem: path.read_bytes() for path in sorted(schemas_dir().glob("*.json"))}
    context = Context(ports=ports, schemas=schemas, openapi=openapi_json(ports.settings, ports.kinds.names))
    api = Starlette(
        routes=routes_of(context, OPERATIONS),
        middleware=[Middleware(Front, context=context)],
        exception_handlers={HTTPException: on_http_exception},
    )
    api.router.redirect_slashes = False  # a path with a slash at its end is another path
    api.state.context = context
    return api


def openapi_json(settings: ApiSettings, kinds: Sequence[str]) -> bytes:
    """The description of the API under these settings."""
    return orjson.dumps(document_of(OPERATIONS, settings, kinds))
