"""`relay demo`: the whole scenario on loopback, in a temporary folder, with figures at the end."""

import contextlib
import math
from typing import Annotated, Literal

import typer

MAX_RATE_LIMIT = 1_000_000
MAX_WINDOW_SECONDS = 86_400.0
INTERRUPTED = 130


def demo(
    jobs: Annotated[int, typer.Option(min=1, max=1000, help="How many jobs to dispatch.")] = 20,
    speed: Annotated[float, typer.Option(min=1, max=1000, help="What every duration is divided by.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Chooses the jobs' lives; the same seed, the same lives.")] = 0,
    rate_limit: Annotated[
        str, typer.Option(metavar="N/SECONDS", help="Reads the upstream allows in so many seconds, at speed 1.")
    ] = "120/60",
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="postgresql://…: uses a new database of that server, dropped at the end."),
    ] = None,
    compare: Annotated[
        Literal["naive"] | None,
        typer.Option(help="Run the same world once more with a plain 5 s poller; takes twice as long."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as one object on the last line.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Go on serving afterwards, until Ctrl-C.")] = False,
) -> None:
    """Run the whole scenario on this machine: a stand-in upstream, the relay, and a receiver that checks everything.

    It needs no account and leaves nothing behind. Exit code 0: nothing lost, out of order or unverified.
    """
    if not math.isfinite(speed):
        raise typer.BadParameter("must be a number from 1 to 1000", param_hint="--speed")
    limit = parse_rate_limit(rate_limit)

    from relay import log
    from relay.cli.demo.environment import Plan
    from relay.cli.demo.live import run

    log.configure(dev=False, level="warning")
    plan = Plan(jobs=jobs, speed=speed, seed=seed, rate_limit=limit, database=database)
    try:
        report = run(plan, compare=compare is not None, as_json=as_json, keep=keep)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if not report.ok:
        raise typer.Exit(1)


def parse_rate_limit(text: str) -> tuple[int, float]:
    """`N/SECONDS` as requests and seconds. Raises typer.BadParameter."""
    requests, _, seconds = text.partition("/")
    with contextlib.suppress(ValueError):
        limit = (int(requests), float(seconds))
        if 1 <= limit[0] <= MAX_RATE_LIMIT and 0 < limit[1] <= MAX_WINDOW_SECONDS:
            return limit
    raise typer.BadParameter("must be requests/seconds, such as 120/60", param_hint="--rate-limit")
