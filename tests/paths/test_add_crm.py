"""`relay subscriptions add` with each CRM: checked, shown, sampled, and written to, at strict stand-ins."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import RedirectResponse, Response

from relay.cli.demo.environment import listen, served, url_of
from tests.support.relay_world import RelayWorld, open_relay_world
from tests.vendors.hubspot import TOKEN as HUBSPOT_TOKEN
from tests.vendors.hubspot import HubSpot
from tests.vendors.pipedrive import TOKEN as PIPEDRIVE_TOKEN
from tests.vendors.pipedrive import Pipedrive
from tests.vendors.salesforce import CLIENT_ID, CLIENT_SECRET, Salesforce

EMAIL = "jane@example.com"
ABOUT = ("--sample", "--metadata", json.dumps({"email": EMAIL}))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RelayWorld]:
    async with open_relay_world(tmp_path) as world:
        await world.serve("--dev")
        yield world


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    with contextlib.closing(listen()) as at:
        async with served(app, at):
            yield url_of(at)


async def add(world: RelayWorld, kind: str, url: str, credential: Any, *more: str) -> tuple[int, list[str]]:
    path = world.folder / "credential.json"
    path.write_text(credential if isinstance(credential, str) else json.dumps(credential))
    return await world.run("subscriptions", "add", kind, "--domain", url, "--credential", str(path), *more)


async def config_of(world: RelayWorld, lines: list[str]) -> Any:
    (id, _, _) = lines[0].partition(" ")
    return (await world.get(f"/v1/subscriptions/{id}"))["config"]


async def test_each_crm_is_checked_shown_and_written_to(world: RelayWorld) -> None:
    company, account, org = Pipedrive(), HubSpot(), Salesforce()
    company.add_person("Jane Doe", EMAIL)
    account.add("contacts", email=EMAIL)
    org.add("Contact", LastName="Doe", Email=EMAIL)

    async with serving(company.app()) as url:
        code, lines = await add(world, "pipedrive", url, PIPEDRIVE_TOKEN, *ABOUT)
        assert code == 0, lines
        assert (await config_of(world, lines))["portal"] == "acme.pipedrive.com"
        assert any("/v1/notes" in line for line in lines)
        [note] = company.notes
        assert "ample" in note["content"]
        code, lines = await add(world, "pipedrive", url, "0" * 40)
        assert (code, len(lines)) == (2, 1), lines
        assert "refuses the credential" in lines[0]

    async with serving(account.app()) as url:
        code, lines = await add(world, "hubspot", url, HUBSPOT_TOKEN)
        assert (code, len(lines)) == (2, 1), lines
        assert "--create-properties" in lines[0]
        code, lines = await add(world, "hubspot", url, HUBSPOT_TOKEN, "--create-properties", *ABOUT)
        assert code == 0, lines
        assert len(account.records["notes"]) == 1

    async with serving(org.app()) as url:
        org.origin = org.instance = url
        credential = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        code, lines = await add(world, "salesforce", url, credential, *ABOUT)
        assert code == 0, lines
        assert (await config_of(world, lines))["api_version"]
        assert len(org.rows()) == 1
    listed = await world.get("/v1/subscriptions")
    assert len(listed["items"]) == 3


async def test_a_crm_that_is_hostile_or_set_up_wrongly_stores_nothing(world: RelayWorld) -> None:
    asked: list[str] = []
    answers: list[Response] = []

    async def hostile(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await answers[-1](scope, receive, send)

    lacks = {"errors": [{"context": {"requiredGranularScopes": ["crm.objects.contacts.write"]}}]}
    missing = json.dumps({"category": "MISSING_SCOPES", "message": "x", **lacks}).encode()
    async with serving(hostile) as url:
        for answer, code, said in (
            (RedirectResponse("http://169.254.169.254/latest/meta-data/"), 1, "http_307"),
            (Response(b"[" * 10_000_000, media_type="application/json"), 1, "no answer that can be used"),
            (Response(b"<html>Log in</html>", media_type="text/html"), 1, "no answer that can be used"),
            (Response(b"{}", 503, {"Retry-After": "7"}), 1, "http_503"),
            (Response(missing, 403, media_type="application/json"), 2, "crm.objects.contacts.write"),
        ):
            answers.append(answer)
            before = len(asked)
            found, lines = await add(world, "hubspot", url, "a-token-that-is-secret")
            assert (found, len(lines)) == (code, 1), lines
            assert said in lines[0]
            assert "a-token-that-is-secret" not in lines[0]
            assert len(asked) == before + 1, "nothing is followed or repeated"
    found, lines = await add(world, "hubspot", url, "a-token-that-is-secret")
    assert (found, len(lines)) == (1, 1), lines
    assert "connect" in lines[0]
    assert "169.254" not in str(await world.get("/v1/subscriptions"))
    found, lines = await add(world, "hubspot", "http://169.254.169.254", "a-token-that-is-secret")
    assert (found, len(lines)) == (2, 1), lines
    assert (await world.get("/v1/subscriptions"))["items"] == []
    found, lines = await add(world, "hubspot", url, "a-token-that-is-secret", "--no-check", "--no-sample")
    assert found == 0, lines
