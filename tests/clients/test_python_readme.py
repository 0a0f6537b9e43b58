"""Runs every block of the Python client's README as it stands: the first as a reader would, the frameworks with signed
requests of a running relay, the fixtures in a pytest of their own. Python and packages are those of `.venv-artefacts`.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import uuid
from pathlib import Path

import pytest

from relay.core.subscriptions.signing import new_secret
from revor_relay_client import Relay, RelayError
from tests.support.environments import artefacts_python
from tests.support.lock import ROOT
from tests.support.process_world import API_TOKEN, Process
from tests.support.relay_world import RelayWorld
from tests.support.typed import blocks

pytestmark = [pytest.mark.verify, pytest.mark.asyncio(loop_scope="module")]

CLIENT = ROOT / "clients" / "python"
README = (CLIENT / "README.md").read_text(encoding="utf-8")
FIRST, HOOK, STARLETTE, FASTAPI, FLASK, DJANGO, PULL, PYTEST = blocks(README, "python")
SECRET = new_secret(b"s" * 32)
SERVE = {
    "asgi": "import uvicorn\nuvicorn.run(app, host='127.0.0.1', port=0)\n",
    "wsgi": """\
from wsgiref.simple_server import make_server
with make_server("127.0.0.1", 0, app) as server:
    print(f"running on http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
""",
}
DJANGO_SITE = """
import sys
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"], SECRET_KEY="x")
urlpatterns = [path("hook", hook)]
app = get_wsgi_application()
"""
FRAMEWORKS = {
    "starlette": STARLETTE + SERVE["asgi"],
    "fastapi": FASTAPI + SERVE["asgi"],
    "flask": FLASK + SERVE["wsgi"],
    "django": DJANGO + DJANGO_SITE + SERVE["wsgi"],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH: the client as a wheel installs it, and a server for ASGI."""
    folder = tmp_path_factory.mktemp("site")
    packages = Path(sysconfig.get_paths()["purelib"])
    (folder / "uvicorn").symlink_to(packages / "uvicorn")
    ran = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", CLIENT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    assert wheel.name.removesuffix("-py3-none-any.whl") == sdist.name.removesuffix(".tar.gz")
    shutil.unpack_archive(wheel, folder, "zip")
    return folder


def run(site: Path, folder: Path, program: str, **variables: str) -> Process:
    path = folder / f"{uuid.uuid4().hex}.py"
    path.write_text(program)
    known = {"PYTHONPATH": f"{site}:{folder}", "PYTHONUNBUFFERED": "1", **variables}
    return Process([str(path)], folder, program=[str(artefacts_python())], **known)


async def test_first_block_runs_as_it_stands(world: RelayWorld, site: Path, tmp_path: Path) -> None:
    assert len(FIRST.strip().splitlines()) < 15
    assert README.index(FIRST) < README.index("## ")
    job_id = await world.upstream_job(final="failed")
    process = run(site, tmp_path, FIRST, RELAY_URL=world.url, RELAY_TOKEN=API_TOKEN, JOB_ID=job_id)
    assert await asyncio.to_thread(process.close) == 0, process.lines
    assert process.lines[0] == f"{job_id} failed"
    assert process.lines[1].startswith("verified ai.revor.job.failed evt_")


async def test_first_block_needs_the_scopes_that_it_names(world: RelayWorld, site: Path, tmp_path: Path) -> None:
    """The job was tracked and has ended before."""
    body = {"name": "reader", "scopes": ["jobs:write", "subscriptions:write"]}
    status, made = await world.call("POST", "/v1/tokens", body)
    assert status == 201, made
    job_id = await world.job()
    process = run(site, tmp_path, FIRST, RELAY_URL=world.url, RELAY_TOKEN=made["token"], JOB_ID=job_id)
    assert await asyncio.to_thread(process.close) == 0, process.lines
    assert process.lines[0] == f"{job_id} succeeded"


async def test_signed_request_comes_from_a_relay_that_sends_nothing_to_loopback(tmp_path: Path) -> None:
    from tests.support.relay_world import open_relay_world

    async with open_relay_world(tmp_path) as strict:
        strict.settings("sources:\n  revor:\n    polling: {min_interval_seconds: 0.02, max_interval_seconds: 0.5}\n")
        await strict.serve()
        job_id = await strict.job()
        with Relay(strict.url, API_TOKEN) as relay:
            signed = await asyncio.to_thread(relay.signed_request, job_id)
            assert relay.verify(signed.body, signed.headers, signed.secret).subject == job_id
        body = {"name": "least", "scopes": ["jobs:write", "subscriptions:write"]}
        status, made = await strict.call("POST", "/v1/tokens", body)
        assert status == 201, made
        with (
            Relay(strict.url, made["token"]) as relay,
            pytest.raises(RelayError, match="needs admin, or a relay that runs with --dev") as raised,
        ):
            await asyncio.to_thread(relay.signed_request, job_id)
        assert (raised.value.status, raised.value.code) == (403, "scope_missing")
        assert (await strict.get("/v1/subscriptions"))["items"] == []


@pytest.mark.parametrize("name", FRAMEWORKS)
async def test_framework_receives_a_signed_delivery(name: str, world: RelayWorld, site: Path, tmp_path: Path) -> None:
    """The relay asks first whether it may send."""
    (tmp_path / "hook.py").write_text(HOOK)
    process = run(site, tmp_path, FRAMEWORKS[name], WEBHOOK_SECRET=SECRET)
    try:
        url = await asyncio.to_thread(process.until, r"running on (http://127\.0\.0\.1:\d+)")
        with Relay(world.url, API_TOKEN) as relay:
            config = {"handshake": "required"}
            await asyncio.to_thread(
                relay.subscribe, f"to-{name}", f"{url}/hook", secret=SECRET, types=["failed"], config=config
            )
        job_id = await world.job(final="failed", error_code="insufficient_credits")
        assert await asyncio.to_thread(process.until, rf"^{job_id} (.+)$")
        forged = {"webhook-id": "evt_1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
        async with world.session.post(f"{url}/hook", data=b"{}", headers=forged) as answer:
            assert answer.status == 401
        async with world.session.get(f"{url}/hook") as answer:
            assert answer.status == 405
    finally:
        await asyncio.to_thread(process.end, signal.SIGKILL)


async def test_pull_block_prints_each_event(world: RelayWorld, site: Path, tmp_path: Path) -> None:
    with Relay(world.url, API_TOKEN) as relay:
        await asyncio.to_thread(relay.subscribe, "worker", types=["succeeded", "failed"])
        job_id = await world.job()
        await asyncio.to_thread(relay.wait, job_id)
    process = run(site, tmp_path, PULL, RELAY_URL=world.url, RELAY_TOKEN=API_TOKEN)
    assert await asyncio.to_thread(process.close) == 0, process.lines
    assert f"ai.revor.job.succeeded {job_id}" in process.lines


async def test_killed_consumer_gets_its_event_again(world: RelayWorld, site: Path, tmp_path: Path) -> None:
    """It is killed while it handles the event."""
    type = "com.acme.killed"
    with Relay(world.url, API_TOKEN) as relay:
        id = (await asyncio.to_thread(relay.subscribe, "killed", types=[type])).id
        await asyncio.to_thread(relay.publish, {"type": type, "source": "/shop", "subject": "A-17"})
        program = f"""
import time
from revor_relay_client import Relay
with Relay() as relay, relay.pull({id!r}, lease_seconds=1) as events:
    for event in events:
        print("handling", event.subject, flush=True)
        time.sleep(600)
"""
        process = run(site, tmp_path, program, RELAY_URL=world.url, RELAY_TOKEN=API_TOKEN)
        await asyncio.to_thread(process.until, "handling A-17")
        await asyncio.to_thread(process.end, signal.SIGKILL)
        (again,) = await asyncio.to_thread(list, relay.pull(id, limit=1))
        assert (again.subject, again.attempt_number) == ("A-17", 2)


async def test_fixtures_start_a_relay_in_a_pytest_of_their_own(site: Path, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(PYTEST)
    environ = {**os.environ, "PYTHONPATH": str(site)}

    async def pytest_run(**variables: str) -> tuple[int | None, str]:
        command = [str(artefacts_python()), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
        process = await asyncio.create_subprocess_exec(
            *command,
            str(tmp_path / "test_it.py"),
            cwd=tmp_path,
            env={**environ, **variables},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    with_relay = tmp_path / "bin"
    with_relay.mkdir()
    (with_relay / "relay").write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m relay "$@"\n')
    (with_relay / "relay").chmod(0o755)
    code, output = await pytest_run(PATH=f"{with_relay}:{os.environ['PATH']}")
    assert code == 0, output
    assert "1 passed" in output
    code, output = await pytest_run(PATH="/usr/bin:/bin")
    assert code == 1
    assert "Install revor-relay into this environment" in output
