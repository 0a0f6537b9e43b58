"""Logging set-up: JSON lines on stderr, readable ones with `--dev`.

Every line, ours and the libraries' (uvicorn, apscheduler, asyncio), passes `relay.redaction` last, tracebacks included:
no secret, no path of a URL and no control character (ESC) reaches the output, wherever the text comes from.
"""

import contextlib
import logging
import sys
from typing import TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from relay.redaction import redact


def configure(*, dev: bool, level: str = "info", stream: TextIO | None = None) -> None:
    """Sends all logging of this process to `stream` (stderr), as JSON lines or, with `dev`, as readable ones.

    `dev` also shows local times and logs successful deliveries. The standard library's loggers lose their handlers, so
    run uvicorn with `log_config=None`. Raises ValueError for an unknown level.
    """
    out = stream if stream is not None else sys.stderr
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"{level!r} is not a log level: use debug, info, warning, error or critical")
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
    # Verbose at info level: APScheduler logs every run.
    for chatty in ("apscheduler", "alembic"):
        logging.getLogger(chatty).setLevel(max(number, logging.WARNING))
    logging.captureWarnings(True)


_shows_deliveries = False


def shows_deliveries() -> bool:
    """True if successful deliveries are logged: only with `dev` or at debug level, because of the cost."""
    return _shows_deliveries


def _sentence(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Turns the two most useful development lines into sentences, and drops the fields these contain."""
    match event_dict:
        case {"event": "transition", "job": job, "kind": kind, "previous": previous}:
            step = kind if previous is None else f"{previous} → {kind}"
            return _as_sentence(event_dict, f"{job}  {step}", "job", "kind", "previous", "job_uid", "account", "source")
        case {"event": "attempt", "sink": sink, "type": type, "job": job, "state": "delivered", "status_code": status}:
            done = ("state", "status_code", "error", "decision", "kept", "job_uid", "subscription")
            sentence = f"{_about(job, type)}: {status} from {sink}"
            return _as_sentence(event_dict, sentence, "sink", "type", "job", *done)
        case {"event": "attempt", "sink": sink, "type": type, "job": job}:
            sentence = f"{_about(job, type)}: not delivered to {sink}"
            return _as_sentence(event_dict, sentence, "sink", "type", "job", "job_uid", "kept")
    return event_dict


def _about(job: str | None, event_type: str) -> str:
    return event_type if job is None else f"{job}  {_short(event_type)}"


def _short(event_type: str) -> str:
    return event_type.rpartition(".")[2]


def _as_sentence(event_dict: EventDict, sentence: str, *dropped: str) -> EventDict:
    return {**{name: value for name, value in event_dict.items() if name not in dropped}, "event": sentence}


class _Dropping:
    """A stream that drops lines it cannot write (full disk, closed pipe, unsupported encoding), so that logging never
    stops the program."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> None:
        """Writes the text, or drops it."""
        with contextlib.suppress(OSError, ValueError):
            self._out.write(text)

    def flush(self) -> None:
        """Flushes, or does nothing."""
        with contextlib.suppress(OSError, ValueError):
            self._out.flush()


class _Handler(logging.StreamHandler[TextIO]):
    """Drops lines it cannot write: the standard handler would print their arguments unredacted."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, RUF100 (the library's name)
        return


def _json_line(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> str:
    return orjson.dumps(event_dict).decode()
