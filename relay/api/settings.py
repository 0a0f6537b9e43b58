"""`/v1/settings`: the settings that this node runs with, and where each was written."""

from functools import partial
from typing import Any

from pydantic import Field
from starlette.responses import Response

from relay.api.http.operations import ADMINS, Answer, Call, Operation, json_response
from relay.api.http.shown import Shown


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


OPERATIONS: list[Operation] = []
operation = partial(Operation, into=OPERATIONS, tag="System")


@operation("GET /v1/settings", scopes=ADMINS, answers={200: Answer("The settings.", SettingList)})
async def list_settings(call: Call) -> Response:
    """List the settings that this node runs with.

    Each with its value, where that comes from, and whether SIGHUP applies a change. Secrets are not shown. After a
    reload the list has the new values; what needs a restart has its old value and place.
    """
    items = [Setting.of(one, set=one.is_set) for one in call.ports.node.effective_settings()]
    return json_response({"node_id": call.ports.settings.node_id, "items": items})
