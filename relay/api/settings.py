"""`/v1/settings`: the settings that this node runs with, and where each was written."""

from functools import partial
from typing import Annotated, Any

from pydantic import Field
from starlette.responses import Response
from typing_extensions import TypedDict

from relay.api.http.operations import ADMINS, Answer, Call, Operation
from relay.api.http.resource import json_response
from relay.core.effective import EffectiveSetting


class Setting(TypedDict):
    """A setting as it is in force."""

    key: Annotated[str, Field(description="Such as `server.port`; of an entry of a list `auth.tokens[0].name`.")]
    value: Annotated[Any, Field(description="null for a secret, unless it is the default.")]
    secret: Annotated[bool, Field(description="Whether the value may be a secret. It is then not shown.")]
    set: Annotated[bool, Field(description="Whether there is a value: not null, nor an empty list.")]
    place: Annotated[
        str,
        Field(
            description="Where the value comes from: `default`, a line such as `relay.yaml:12` with the references in "
            "it, a variable, or an option such as `--port`."
        ),
    ]
    reloaded: Annotated[bool, Field(description="Whether SIGHUP applies a change. Others need a restart.")]
    default: Annotated[str, Field(description="As relay.yaml has it.")]
    type: Annotated[str, Field(description="What it must be.")]
    meaning: str


class SettingList(TypedDict):
    """Every setting of the node that answers."""

    node_id: str
    items: list[Setting]


def setting_view(setting: EffectiveSetting) -> Setting:
    """A setting as it is shown."""
    return {
        "key": setting.key,
        "value": setting.value,
        "secret": setting.secret,
        "set": setting.is_set,
        "place": setting.place,
        "reloaded": setting.reloaded,
        "default": setting.default,
        "type": setting.type,
        "meaning": setting.meaning,
    }


OPERATIONS: list[Operation] = []
operation = partial(Operation, into=OPERATIONS, tag="System")


@operation("GET /v1/settings", scopes=ADMINS, answers={200: Answer("The settings.", SettingList)})
async def list_settings(call: Call) -> Response:
    """List the settings that this node runs with.

    Each with its value, where that comes from, and whether SIGHUP applies a change. Secrets are not shown. After a
    reload the list has the new values; what needs a restart has its old value and place.
    """
    shown: SettingList = {
        "node_id": call.ports.settings.node_id,
        "items": [setting_view(one) for one in call.ports.node.effective_settings()],
    }
    return json_response(shown)


_PORT: Setting = {
    "key": "server.port",
    "value": 9090,
    "secret": False,
    "set": True,
    "place": "relay.yaml:3",
    "reloaded": False,
    "default": "8080",
    "type": "a whole number from 0 to 65535",
    "meaning": "port to listen on; 0 chooses a free one",
}
EXAMPLES: dict[str, Any] = {"SettingList": {"node_id": "5f0c9a7b3e2d4c18", "items": [_PORT]}}
