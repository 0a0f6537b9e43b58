"""A node with a source of its own definition, mounted below /sources/mine, over an upstream on a raw socket."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import yaml

from relay.config.settings import AccountSettings, PollingSettings, SourceSettings
from relay.sources.definition import SourceDefinition
from tests.support.e2e_world import World, open_e2e_world
from tests.support.wire import Call, Stub, answer, open_stub

KEY = "key-of-mine-0123456789"
MOUNT = "/sources/mine"
DEFINITION: dict[str, Any] = {
    "version": 2,
    "title": "Mine",
    "credential": {"header": "Authorization", "format": "Bearer {key}"},
    "probe": "/v1/me",
    "resources": {
        "jobs": {
            "type_prefix": "com.mine.job",
            "source_path": "/v1/jobs",
            "path": "/v1/jobs/{id}",
            "creates": [
                "/v1/jobs",
                {"path": "/v1/{kind}/start", "id": "/op/id"},
                {"path": "/v1/located", "location": "Operation-Location"},
            ],
            "wait": {"query": "hold", "max_seconds": 60},
            "status": "/state",
            "states": [
                {"at": "/state", "is": "on", "state": "running"},
                {"at": "/state", "is": "done", "state": "succeeded"},
                {"at": "/state", "is": "lost", "state": "failed"},
            ],
            "fields": {"id": "/id"},
            "request": {"metadata": "/labels"},
        }
    },
}

Says = Callable[[Call], bytes]


def json_answer(document: Any, status: int = 200, **headers: str) -> bytes:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return answer(status, [("Content-Type", "application/json"), *named], orjson.dumps(document))


@asynccontextmanager
async def open_mine(
    folder: Path, changed: dict[str, Any] | None = None, *, says: Says | None = None, **options: Any
) -> AsyncIterator[tuple[World, Stub]]:
    """`changed`: of the definition; the keys of its first resource stand beside the others, and `resources` are more of
    these. `says`: what the upstream answers, else that a job is on."""
    kept = {
        **DEFINITION,
        **{name: value for name, value in (changed or {}).items() if name in SourceDefinition.model_fields},
    }
    of_jobs = {name: value for name, value in (changed or {}).items() if name not in SourceDefinition.model_fields}
    kept["resources"] = {
        "jobs": {**DEFINITION["resources"]["jobs"], **of_jobs},
        **(changed or {}).get("resources", {}),
    }
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(kept))

    async def say(call: Call) -> None:
        await call.body()
        raw = json_answer({"id": "one", "state": "on"}) if says is None else says(call)
        await (call.send(raw) if raw else call.left())

    async with open_stub(say) as stub, open_stub() as root:
        account = AccountSettings(api_key=KEY)
        source = SourceSettings(
            name="mine",
            file=str(file),
            base_url=stub.url,
            accounts={"default": account},
            polling=options.get("polling", PollingSettings()),
        )
        async with open_e2e_world(folder, base_url=root.url, more_sources=(source,), **options) as world:
            yield world, stub
