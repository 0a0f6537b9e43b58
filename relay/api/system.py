"""The node: health, metrics, schemas and the OpenAPI description."""

import asyncio
from functools import partial
from typing import Any, Literal

from pydantic import Field
from starlette.responses import Response

from relay.api.http import params
from relay.api.http.auth import ADMIN, ADMINS, PUBLIC, READ, READS_METRICS
from relay.api.http.fields import SOURCE, TIME
from relay.api.http.operations import NEXT, Answer, Call, Operation, json_response, page_response
from relay.api.http.shown import LastError, Shown, Time, last_error_view, page_of
from relay.core.events.event import Origin
from relay.core.polling.tracking import SourceReport
from relay.errors import NotFound
from relay.store.databases.pages import decode_position, encode_cursor

METRICS_MEDIA_TYPE = "text/plain; version=0.0.4"
SCHEMA_MEDIA_TYPE = "application/schema+json"


class Alive(Shown):
    """The process is running."""

    status: Literal["ok"]


class Ready(Shown):
    """Readiness of the node. Without a token, `problems` only names components, and the rest is empty."""

    status: Literal["ok", "unavailable"]
    problems: list[str]
    notes: list[str]
    checks: dict[str, str] = Field(examples=[{"database": "ok"}])


operation = partial(Operation, tag="System")


@operation("GET /livez", scopes=PUBLIC, answers={200: Answer("The process is running.", Alive)})
async def get_liveness(call: Call) -> Response:
    """Check that the process is running."""
    return json_response({"status": "ok"})


@operation(
    "GET /readyz",
    scopes=PUBLIC,
    problems={401: "The token is not valid. None is needed."},
    answers={
        200: Answer("The node is ready; `notes` list minor problems.", Ready),
        503: Answer("The node is not ready; `problems` list the reasons.", Ready),
    },
)
async def get_readiness(call: Call) -> Response:
    """Check that the node is ready.

    Without a token that may read everything, the answer has the status and the names of what has problems.
    """
    readiness, identity = await call.dependencies.node.readiness(), call.identity
    status, code = ("unavailable", 503) if readiness.problems else ("ok", 200)
    if identity is not None and identity.account is None and not identity.scopes.isdisjoint((ADMIN, READ)):
        return json_response(Ready.of(readiness, status=status), code)
    document = {"status": status, "problems": list(readiness.components), "notes": [], "checks": {}}
    return json_response(document, code)


@operation("GET /metrics", scopes=READS_METRICS, answers={200: Answer("The metrics.", media_type="text/plain")})
async def get_metrics(call: Call) -> Response:
    """Prometheus metrics."""
    return Response(call.dependencies.node.metrics(), media_type=METRICS_MEDIA_TYPE)


@operation("GET /openapi.json", scopes=PUBLIC, answers={200: Answer("OpenAPI 3.1.")})
async def get_open_api(call: Call) -> Response:
    """Read this description."""
    document = await asyncio.to_thread(call.context.openapi)  # the first one takes 0.1 s to make
    return Response(document, media_type="application/json")


@operation("GET /asyncapi.json", scopes=PUBLIC, answers={200: Answer("AsyncAPI 3.")})
async def get_async_api(call: Call) -> Response:
    """Read the description of the events, and of the ways that they take."""
    document = await asyncio.to_thread(call.context.asyncapi)
    return Response(document, media_type="application/json")


@operation(
    "GET /schemas/{name}.json", scopes=PUBLIC, answers={200: Answer("The schema.", media_type=SCHEMA_MEDIA_TYPE)}
)
async def get_schema(call: Call) -> Response:
    """Read the JSON Schema of an event."""
    name = call.request.path_params["name"]
    found = call.context.schemas.get(name)
    if found is None:
        known = ", ".join(sorted(call.context.schemas))
        raise NotFound(f"there is no schema {name[:100]!r}: known are {known}", code="schema_not_found")
    return Response(found, media_type=SCHEMA_MEDIA_TYPE)


class Credits(Shown):
    """What an account has left to spend."""

    available: float | None = Field(description="At the last reading; null: there was none yet.", examples=[120])
    threshold: int = Field(description="The setting `credits_low`: below it they are low.", examples=[500])
    low_since: Time | None = Field(
        description="The first reading below the threshold; null: they are not low.", examples=[TIME]
    )
    read_at: Time | None = Field(description="When they were last read.", examples=[TIME])
    problem: str | None = Field(
        description="Why the latest reading failed.",
        examples=["200 application/json: no number of credits at /available_credits"],
    )


class Source(Shown):
    """The polling state of one account."""

    source: str = Field(examples=[SOURCE])
    account: str = Field(examples=["default"])
    title: str = Field(description="The upstream's name, in texts for people.", examples=["Acme"])
    website: str | None = Field(
        description="Where people sign in at the upstream; null: unknown.", examples=["https://acme.example"]
    )
    state: str = Field(
        description="ok, down, unauthorized, no_key, or elsewhere (another node polls it).", examples=["ok"]
    )
    since: Time | None
    problem: LastError | None
    open_jobs: int = Field(examples=[12])
    due_jobs: int = Field(examples=[1])
    limit: int | None = Field(examples=[120])
    remaining: int | None = Field(examples=[97])
    window_seconds: float | None = Field(examples=[60.0])
    own_requests_per_second: float | None = Field(examples=[0.4])
    others_requests_per_second: float | None = Field(examples=[0.1])
    price_seconds: float | None = Field(
        description="The delay, in seconds, that a poll must save to be worth a request; null if another node polls.",
        examples=[0.8],
    )
    expected_detection_delay_seconds: float | None = Field(
        description="Average delay between a job's end and the poll that detects it; null without enough data.",
        examples=[1.2],
    )
    expected_detection_delay_at_double_budget_seconds: float | None = Field(
        description="The same with twice the request budget.", examples=[0.6]
    )
    expected_detection_delay_at_half_budget_seconds: float | None = Field(
        description="The same with half the request budget.", examples=[2.9]
    )
    paused_until: Time | None
    last_completed_at: Time | None = Field(examples=[TIME])
    accounts_listed_at: Time | None = Field(
        description="When its connect accounts were last listed; null: never, or another node polls.", examples=[TIME]
    )
    credits: Credits | None = Field(description="null: the settings have no `credits_low`, or another node polls.")


SourcePage = page_of(Source, "accounts")


def source_view(report: SourceReport, origin: Origin) -> dict[str, Any]:
    """The polling state of one account. `origin`: of its source."""
    credits = None if report.credits is None else Credits.of(report.credits)
    return Source.of(
        report,
        title=origin.title,
        website=origin.website,
        problem=last_error_view(report.problem),
        credits=credits,
    )


@operation("GET /v1/sources", bound=True, query=params.PAGE, answers={200: Answer("A page.", SourcePage, headers=NEXT)})
async def list_sources(call: Call) -> Response:
    """Read the polling state of each account."""
    reports = call.dependencies.tracking.reports()
    first, limit = decode_position(call.query["cursor"]), call.query["limit"]
    cursor = encode_cursor(first + limit) if len(reports) > first + limit else None
    origins = {source: origin for (source, _), origin in call.context.settings.origins.items()}
    shown = [source_view(one, origins[one.source]) for one in reports[first : first + limit]]
    return page_response(call.request, shown, cursor)


class Setting(Shown):
    """A setting as it is in force."""

    key: str = Field(
        description="Such as `server.port`; of an entry of a list `auth.tokens[0].name`.", examples=["server.port"]
    )
    value: Any = Field(description="null for a secret, unless it is the default.", examples=[9090])
    secret: bool = Field(description="Whether the value may be a secret. It is then not shown.")
    set: bool = Field(description="Whether there is a value: not null, nor an empty list.", examples=[True])
    place: str = Field(
        description="Where the value comes from: `default`, a line such as `relay.yaml:12` with the references in "
        "it, a variable, or an option such as `--port`.",
        examples=["relay.yaml:3"],
    )
    reloaded: bool = Field(description="Whether SIGHUP applies a change. Others need a restart.")
    default: str = Field(description="As relay.yaml has it.", examples=["8080"])
    type: str = Field(description="What it must be.", examples=["a whole number from 0 to 65535"])
    meaning: str = Field(examples=["port to listen on; 0 chooses a free one"])


class SettingList(Shown):
    """Every setting of the node that answers."""

    node_id: str = Field(examples=["5f0c9a7b3e2d4c18"])
    items: list[Setting]


@operation("GET /v1/settings", scopes=ADMINS, answers={200: Answer("The settings.", SettingList)})
async def list_settings(call: Call) -> Response:
    """List the settings that this node runs with.

    Each with its value, where that comes from, and whether SIGHUP applies a change. Secrets are not shown. After a
    reload the list has the new values; what needs a restart has its old value and place.
    """
    items = [Setting.of(one, set=one.is_set) for one in call.dependencies.node.effective_settings()]
    return json_response({"node_id": call.dependencies.settings.node_id, "items": items})
