"""`relay sandbox`: a stand-in for Revor's API, or for any source with recorded answers."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from relay.cli.options import read_rate_limit
from relay.errors import UsageError

if TYPE_CHECKING:
    from relay.cli.definitions.recorded import Recorded

REVOR = "revor"
REVOR_KEY = "sk-revor-default"
"""A key of the account in which `POST /_sandbox/jobs` creates jobs."""
OTHER_KEY = "sandbox:sandbox"
"""Of another source's sandbox, where any text is a key: one that also is a name and a password, or a client's."""
RATE_LIMIT = "120/60"
RELAY_URL = "http://127.0.0.1:8080"
JSON = "-H 'Content-Type: application/json'"

Texts = Callable[[str], str]
"""What the command prints once it serves this URL."""


def sandbox(
    source: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Preset to play, or file with a definition and recorded answers.")
    ] = REVOR,
    host: Annotated[str, typer.Option(help="Loopback address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on. 0: any free port.")] = 8090,
    speed: Annotated[float, typer.Option(help="Divisor of every duration.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the jobs. The same seed gives the same jobs.")] = 0,
    rate_limit: Annotated[
        str, typer.Option(metavar="N/SECONDS", help="Requests per key, at speed 1. Of Revor only.")
    ] = RATE_LIMIT,
    count_attempts: Annotated[
        Literal["start", "end"],
        typer.Option(help="Whether attempt_count rises at the start or end of a run. Of Revor only."),
    ] = "start",
) -> None:
    """Run a stand-in for Revor's API, or another source. It needs no account or key and sends nothing."""
    from relay.core.access.netguard import is_loopback_host

    if not is_loopback_host(host):
        raise UsageError(f"--host {host} is not a loopback address. The sandbox listens on loopback only")
    limit = read_rate_limit(rate_limit)
    try:
        if source == REVOR:
            app, texts = _revor(seed=seed, speed=speed, rate_limit=limit, count_attempts=count_attempts)
        else:
            if rate_limit != RATE_LIMIT or count_attempts != "start":
                raise UsageError("--rate-limit and --count-attempts are for the sandbox of Revor")
            app, texts = _played(source, seed=seed, speed=speed)
    except ValueError as error:
        raise UsageError(f"--speed: {error}") from error

    import uvloop

    from relay.server.sockets import listening_socket

    listener = listening_socket(host, port)
    try:
        uvloop.run(_serve(app, texts, listener, host))
    finally:
        listener.close()


def _revor(*, seed: int, speed: float, **options: Any) -> tuple[Any, Texts]:
    from relay.sandbox.server import Sandbox

    world = Sandbox(seed=seed, speed=speed, **options)
    world.world()

    def texts(url: str) -> str:
        return (
            f"sandbox: serving {url} (seed {seed}, speed {speed:g})\n\n"
            f"{relay_settings(url, speed)}\n"
            f"create jobs:   curl -X POST {url}/_sandbox/jobs {JSON} -d '{{\"count\": 3}}'\n{_further(url)}"
        )

    return world.app(), texts


def _played(source: str, *, seed: int, speed: float) -> tuple[Any, Texts]:
    from relay.cli.definitions.recorded import read_recorded

    recorded = read_recorded(source)
    app = playback(recorded, seed=seed, speed=speed)
    resource = next(iter(recorded.recording.resources))
    fate = next(iter(recorded.recording.resources[resource].fates))

    def texts(url: str) -> str:
        shown = f'{{"resource": "{resource}", "fate": "{fate}"}}'
        return (
            f"sandbox: serving {url} ({source}, seed {seed}, speed {speed:g})\n\n"
            f"{settings_for(recorded, url, speed)}\n"
            f"create a job:  curl -X POST {url}/_sandbox/jobs {JSON} -d '{shown}'\n"
            f"move it on:    curl -X POST {url}/_sandbox/jobs/ID/step\n{_further(url)}"
        )

    return app, texts


def playback(recorded: "Recorded", *, seed: int = 0, speed: float = 1.0) -> Any:
    """The ASGI application that plays recorded answers. Raises ValueError for a speed of 0 or below."""
    from relay.sandbox.faults import FaultInjector
    from relay.sandbox.playback import Playback
    from relay.sandbox.recorded import RecordedWorld

    return Playback(
        name=recorded.definition.name,
        calls=recorded.calls,
        world=RecordedWorld(recording=recorded.recording, seed=seed, speed=speed),
        faults=FaultInjector(seed=seed),
    ).app()


def _further(url: str) -> str:
    return (
        "started again: the ids are the same. Delete the relay's database, or choose another --seed\n"
        f"true times:    curl {url}/_sandbox/jobs\n"
        f'inject faults: curl -X POST {url}/_sandbox/faults {JSON} -d \'{{"kind": "429", "count": 3}}\''
    )


def relay_settings(url: str, speed: float) -> str:
    """Shell lines that configure a relay for Revor's sandbox and start it."""
    return _shell({"REVOR_BASE_URL": url, "REVOR_API_KEY": REVOR_KEY}, "REVOR", speed)


def settings_for(recorded: "Recorded", url: str, speed: float) -> str:
    """Shell lines that configure a relay for another source's sandbox and start it, and the base URL of a client."""
    import shlex

    definition, path = recorded.definition, recorded.path
    name = definition.name.replace("-", "_")
    variable = f"RELAY_SOURCES__{name.upper()}__"
    named = {"PRESET": definition.name} if path is None else {"FILE": shlex.quote(str(path.absolute()))}
    values = {**named, "BASE_URL": url, "ACCOUNTS__DEFAULT__API_KEY": OTHER_KEY}
    lines = _shell({f"{variable}{key}": value for key, value in values.items()}, name.upper(), speed)
    instead = f" in place of {definition.base_url}" if definition.base_url else ""
    return f"{lines}\na client of it: use {RELAY_URL}/sources/{name}{instead}, and the key {OTHER_KEY}\n"


def _shell(variables: Mapping[str, str], source: str, speed: float) -> str:
    exports = [f"export {' '.join(f'{name}={value}' for name, value in variables.items())}"]
    return "\n".join(["a relay for this sandbox:", *exports, *_paced(source, speed), "relay serve --dev", ""])


def _paced(source: str, speed: float) -> Iterator[str]:
    """The shortest interval must match the speed, because the relay also takes it as the unit of the upstream's pace:
    with the default of one second it would expect starts in a lane 60 s apart."""
    from relay.config.settings import PollingSettings

    if speed == 1:
        return
    usual = PollingSettings()
    times = ("min_interval_seconds", "max_interval_seconds", "deadline_seconds")
    for name in (*times, "connect_accounts_interval_seconds"):
        yield f"export RELAY_SOURCES__{source}__POLLING__{name.upper()}={getattr(usual, name) / speed:.10g}"


async def _serve(app: Any, texts: Texts, listener: socket.socket, host: str) -> None:
    from relay.server.http_server import make_server
    from relay.server.sockets import url_of

    server = make_server(app, shutdown_seconds=1)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    typer.echo(texts(url_of(listener, host)))
    await server.serve(sockets=[listener])
