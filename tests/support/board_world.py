"""A Prometheus that scrapes a relay with work, to see which series each panel of the board finds.

`python -m tests.support.board_world FILE` lets it run for `MINUTES` (5) and writes the points of each panel as JSON.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson
import yaml

from relay import log
from relay.cli.demo.environment import listen
from tests.support.dashboard_world import KEY, NEVER, PLAIN, REFUSED_KEY, Loader, open_world
from tests.support.monitoring import ALERTS, RECORDING, Panel, filled, panels
from tests.support.system_programs import system_program

WINDOW = "10s"
PATIENCE_SECONDS = 90.0
EMPTY = {
    "Credits left": "no account has `credits_low`",
    "Pauses that a CRM asked for": "the CRM asks for none",
    "Rows removed by retention": "everything is young",
}
"""The panels without series in this world, and why."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus that scrapes every second."""

    api: httpx2.AsyncClient

    async def found(self, expression: str) -> list[Any]:
        """The series that an expression has now."""
        return await self._ask("query", query=filled(expression, WINDOW))

    async def course(self, expression: str, since: float) -> list[Any]:
        """The series since a time, at most 200 points."""
        now = time.time()
        step = max(1.0, (now - since) / 200)
        return await self._ask("query_range", query=filled(expression, WINDOW), start=since, end=now, step=step)

    async def _ask(self, what: str, **params: Any) -> list[Any]:
        answer = (await self.api.get(f"/api/v1/{what}", params=params)).json()
        assert answer["status"] == "success", answer
        found: list[Any] = answer["data"]["result"]
        return found


@contextlib.asynccontextmanager
async def open_prometheus(folder: Path, target: str) -> AsyncIterator[Prometheus]:
    """Runs a Prometheus with the rules of `deploy/`. Skips the test if it cannot be installed."""
    program = system_program("prometheus", "prometheus")
    with contextlib.closing(listen()) as free:
        at = f"127.0.0.1:{free.getsockname()[1]}"
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    scraped = {"job_name": "revor-relay", "static_configs": [{"targets": [target]}]}
    config = {"global": every, "rule_files": [str(RECORDING), str(ALERTS)], "scrape_configs": [scraped]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [program, f"--config.file={folder}/prometheus.yml", f"--web.listen-address={at}"]
    command += [f"--storage.tsdb.path={folder}/prometheus", "--log.level=error"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        async with httpx2.AsyncClient(base_url=f"http://{at}", timeout=30) as api, asyncio.timeout(PATIENCE_SECONDS):
            while True:
                assert process.poll() is None, process.stderr and process.stderr.read()
                with contextlib.suppress(httpx2.HTTPError):
                    if (await api.get("/-/ready")).status_code == 200:
                        break
                await asyncio.sleep(0.1)
        async with httpx2.AsyncClient(base_url=f"http://{at}", timeout=30) as api:
            yield Prometheus(api)
    finally:
        process.terminate()
        await asyncio.to_thread(process.communicate)


@contextlib.asynccontextmanager
async def open_board_world(folder: Path) -> AsyncIterator[tuple[Loader, Prometheus]]:
    """The dashboard's world, scraped from its first second."""
    async with open_world(folder, keys={"default": KEY, "emea": REFUSED_KEY}) as loader:
        host = str(loader.api.base_url).removeprefix("http://").rstrip("/")
        async with open_prometheus(folder, host) as prometheus:
            await loader.load()
            await loader.post(loader.api, "/v1/subscriptions", {"protocol": "PULL", "description": "Pulled"})
            await work(loader)
            yield loader, prometheus


async def work(loader: Loader) -> None:
    """Adds jobs, one of them late, and runs the upkeep of each minute."""
    made = {**PLAIN, "account": "default", "connect_account_id": "email-1"}
    for script, more in (({"count": 3}, {}), ({"final": "succeeded", "run_seconds": NEVER}, {"deadline_seconds": 1})):
        for item in (await loader.post(loader.sandbox, "/_sandbox/jobs", {**made, **script}))["items"]:
            await loader.post(loader.api, "/v1/jobs", {"id": item["id"], **more})
    for upkeep in loader.node._upkeep():
        if upkeep.name in ("measure", "deadlines"):
            await upkeep.run()


async def without_series(prometheus: Prometheus) -> list[str]:
    """The titles of the panels with an expression that finds no series."""
    return [
        panel.title
        for panel in panels()
        if not all([await prometheus.found(expression) for expression in panel.expressions])
    ]


async def _main(file: Path, seconds: float) -> None:
    began_at = time.time()
    with tempfile.TemporaryDirectory() as made:
        async with open_board_world(Path(made)) as (loader, prometheus):
            while time.time() < began_at + seconds:
                await work(loader)
                await asyncio.sleep(3)
            print("without series:", await without_series(prometheus))
            file.write_bytes(orjson.dumps([await _drawn(prometheus, panel, began_at) for panel in panels()]))


async def _drawn(prometheus: Prometheus, panel: Panel, since: float) -> dict[str, Any]:
    courses = [await prometheus.course(expression, since) for expression in panel.expressions]
    return {**asdict(panel), "series": [one for course in courses for one in course]}


if __name__ == "__main__":
    log.configure(dev=False, level="error")
    asyncio.run(_main(Path(sys.argv[1]), 60 * float(os.environ.get("MINUTES", "5"))))
