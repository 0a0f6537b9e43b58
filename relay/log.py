"""Logging set-up: JSON lines on stderr, readable ones with `--dev`.

Every line, ours and the libraries' (uvicorn, apscheduler, asyncio), passes `relay.redaction` last, tracebacks included.
"""

import contextlib
import json
import logging
import sys
from typing import TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from relay.redaction import redact


def configure(*, dev: bool, level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logging of this process to `stream` (stderr), as JSON lines, or readable with `dev`.

    With `dev` times are those of the clock on the wall, and each delivery has a line, also one that succeeds.

    Loggers of the standard library lose their own handlers: run uvicorn with `log_config=None`. Raises ValueError for
    a level that is none.
    """
    out = stream if stream is not None else sys.stderr
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"{level!r} is no log level: use debug, info, warning, error or critical")
    global _shows_deliveries
    _shows_deliveries = dev or number <= logging.DEBUG
    stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S" if dev else "iso", utc=not dev)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        stamp,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    rendered: list[Processor] = [redact, _json_line]
    if dev:
        console = structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
        )
        rendered = [redact, _sentence, console]
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _Dropping(out))),
        cache_logger_on_first_use=False,
    )
    handler = _Handler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    # They say at length, for every fire and every start, what a line of our own says once.
    for chatty in ("apscheduler", "alembic"):
        logging.getLogger(chatty).setLevel(max(number, logging.WARNING))
    logging.captureWarnings(True)


_shows_deliveries = False


def shows_deliveries() -> bool:
    """Whether a delivery that succeeds has a line: with `dev` and at debug level. Elsewhere it would cost too much."""
    return _shows_deliveries


def _sentence(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """The two lines that a developer looks for, as sentences; what they say is taken out of the fields."""
    match event_dict:
        case {"event": "transition", "job": job, "kind": kind, "previous": previous}:
            step = kind if previous is None else f"{previous} → {kind}"
            return _told(event_dict, f"{job}  {step}", "job", "kind", "previous", "job_uid", "account", "source")
        case {"event": "attempt", "sink": sink, "type": type, "job": job, "state": "delivered", "status_code": status}:
            done = ("state", "status_code", "error", "decision", "kept", "job_uid", "subscription")
            return _told(event_dict, f"{job}  {_short(type)}: {status} from {sink}", "sink", "type", "job", *done)
        case {"event": "attempt", "sink": sink, "type": type, "job": job}:
            said = f"{job}  {_short(type)}: not delivered to {sink}"
            return _told(event_dict, said, "sink", "type", "job", "job_uid", "kept")
    return event_dict


def _short(event_type: str) -> str:
    return event_type.rpartition(".")[2]


def _told(event_dict: EventDict, sentence: str, *told: str) -> EventDict:
    return {**{name: value for name, value in event_dict.items() if name not in told}, "event": sentence}


class _Dropping:
    """A stream whose lines are dropped where they can not be written (the disk is full, nobody reads the pipe, an
    encoding has no word for them): what is logged about must go on."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> None:
        """Writes, or does nothing."""
        with contextlib.suppress(OSError, ValueError):
            self._out.write(text)

    def flush(self) -> None:
        """The same."""
        with contextlib.suppress(OSError, ValueError):
            self._out.flush()


class _Handler(logging.StreamHandler[TextIO]):
    """A line that can not be written is dropped: the standard handler would print its arguments unredacted."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, RUF100 (the library's name)
        return


def _json_line(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> str:
    try:
        return orjson.dumps(event_dict).decode()
    except TypeError:  # half a surrogate pair, which only escapes can write
        return json.dumps(event_dict)
