"""Log records: one JSON object a line, or lines for people on a terminal.

Guarantees: every record of this process, the libraries' included, goes to one stream through one
scrubber (`log_scrub`); a traceback shows no local variables; there is no access log, so no query
string or header is written. It does not rotate or ship logs: the supervisor does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, WrappedLogger

from petsem.server.config import LogConfig
from petsem.server.log_scrub import REDACTED, promises_secret, scrub, scrub_text
from petsem.server.status_line import LINE

# The libraries' own chatter: httpx would log whole URLs, uvicorn and grpc each connection.
_LIBRARIES: Final = ("asyncio", "grpc", "httpcore", "httpx", "hpack", "litestar", "uvicorn")
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# Made by structlog or by us, under names that are not ours to judge.
_OWN_FIELDS: Final = frozenset({"_record", "_from_structlog"})

_log = structlog.stdlib.get_logger(__name__)


def configure_logging(config: LogConfig, stream: TextIO) -> None:
    """Send all records of this process to `stream`. The last call counts."""
    pretty = config.format == "pretty" or (config.format == "auto" and stream.isatty())
    LINE.attach(stream if pretty else None)
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_shared(),
            processors=[_scrub_event, *(_pretty(stream.isatty()) if pretty else [_render_json])],
        )
    )
    level = _LEVELS[config.level]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(max(level, logging.WARNING))
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    # Uvicorn writes an access log if any handler can be reached from this logger.
    access.propagate = False
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def lone_logger(name: str, stream: TextIO) -> Any:
    """For a command that is no node: records in JSON as a node writes them, whatever the
    configuration of this process's log, which stays as it is."""
    return structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[
            structlog.processors.add_log_level,
            _timestamp(),
            _scrub_event,
            _render_json,
        ],
        wrapper_class=structlog.BoundLogger,
    ).bind(logger=name)


def loop_exception_handler(_loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """For `loop.set_exception_handler`: asyncio's own would print the arguments of callbacks."""
    error = context.get("exception")
    _log.error(
        "an exception reached the event loop",
        what=str(context.get("message", "")).partition("(")[0],
        exc_info=error if isinstance(error, BaseException) else None,
    )


class _Handler(logging.StreamHandler[TextIO]):
    """Writes records, and reports one that cannot be written without repeating what is in it."""

    def emit(self, record: logging.LogRecord) -> None:
        with LINE.above():
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        # Before the arguments are put into the sentence: afterwards bytes would be text.
        record.args = _scrub_arguments(record.args)
        return super().format(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        kind = sys.exc_info()[0]
        line = {
            "level": "error",
            "event": "a log record could not be written",
            "logger": record.name,
            "error": kind.__name__ if kind else None,
        }
        with contextlib.suppress(Exception):
            self.stream.write(json.dumps(line) + "\n")


def _scrub_arguments(args: Any) -> Any:
    if isinstance(args, Mapping):
        return {k: REDACTED if promises_secret(k) else scrub(v) for k, v in args.items()}
    return tuple(scrub(arg) for arg in args) if isinstance(args, tuple) else args


def _shared() -> list[structlog.typing.Processor]:
    return [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _timestamp(),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.ExceptionRenderer(_traceback),
    ]


def _timestamp() -> structlog.typing.Processor:
    return structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")


def _traceback(exc_info: ExcInfo) -> str:
    """The traceback as text: places and source lines, no local variables."""
    return "".join(traceback.format_exception(exc_info[1])).rstrip("\n")


def _scrub_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {
        scrub_text(name): REDACTED if promises_secret(name) else scrub(value)
        for name, value in event.items()
        if name not in _OWN_FIELDS
    }


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    first = {name: event.pop(name, None) for name in ("time", "level", "logger", "event")}
    # ASCII only: a record is one line whatever is in it, and no terminal obeys it.
    return json.dumps({**first, **event}, ensure_ascii=True)


def _pretty(colors: bool) -> list[structlog.typing.Processor]:
    return [
        _disarm,
        structlog.dev.ConsoleRenderer(
            colors=colors,
            timestamp_key="time",
            exception_formatter=structlog.dev.plain_traceback,
        ),
    ]


def _disarm(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape control characters, so that a record can neither forge lines nor drive a terminal."""
    return {name: _printable(value, name) for name, value in event.items()}


def _printable(value: Any, name: str) -> Any:
    if not isinstance(value, str):
        return value
    lines = value.split("\n") if name in ("exception", "stack") else [value]
    return "\n".join(
        "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
        for line in lines
    )
