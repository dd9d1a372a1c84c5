"""Log records as they are written."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from petsem.secretbytes import SecretBytes
from petsem.server.config import LogConfig
from petsem.server.logs import _LIBRARIES, configure_logging, loop_exception_handler

CANARY = "canary-Zq93"
TOKEN = f"petsem_Ag{CANARY}.000000"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging is the process's; each test puts it back."""
    names = (None, *_LIBRARIES, "uvicorn.access")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
    logging.captureWarnings(False)
    structlog.reset_defaults()


def configured(
    level: Any = "info", form: Any = "json", stream: io.StringIO | None = None
) -> io.StringIO:
    stream = stream or io.StringIO()
    configure_logging(LogConfig(level, form, 1024, 168, 64), stream)
    return stream


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def ours() -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("petsem.test")
    return logger


def test_a_record_is_one_json_object_a_line() -> None:
    """Time in UTC, level, logger and event first, then what was bound."""
    stream = configured()
    ours().info("node started", node="n1", port=7400)
    (record,) = records(stream)
    assert list(record) == ["time", "level", "logger", "event", "node", "port"]
    assert record.pop("time").endswith("Z")
    assert record == {
        "level": "info",
        "logger": "petsem.test",
        "event": "node started",
        "node": "n1",
        "port": 7400,
    }


def test_libraries_go_through_the_same_door() -> None:
    """Standard logging, warnings included, comes out in the same form, and once."""
    own = io.StringIO()
    for name in ("uvicorn", "uvicorn.access"):
        logging.getLogger(name).addHandler(logging.StreamHandler(own))
    logging.getLogger("uvicorn").propagate = False
    stream = configured()
    logging.getLogger("uvicorn.access").warning("GET /?token=…")
    logging.getLogger("uvicorn.error").warning("low on %s", "space")
    logging.getLogger("anything").error("bad")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", UserWarning, stacklevel=1)
    found = [(r["logger"], r["level"], r["event"]) for r in records(stream)]
    assert found[:2] == [
        ("uvicorn.error", "warning", "low on space"),
        ("anything", "error", "bad"),
    ]
    assert found[2][0] == "py.warnings"
    assert own.getvalue() == ""


def test_the_level_holds_and_libraries_are_quieter() -> None:
    """What libraries say of each connection and request is left out at any level."""
    stream = configured("debug")
    ours().debug("ours")
    logging.getLogger("httpx").info("GET /v1/x?token=…")
    logging.getLogger("grpc._server").info("call")
    assert [record["event"] for record in records(stream)] == ["ours"]
    stream = configured("error")
    ours().warning("ours")
    logging.getLogger("uvicorn.error").warning("theirs")
    assert records(stream) == []


def test_there_is_no_access_log() -> None:
    """Uvicorn writes one if any handler can be reached; query strings would be in it."""
    configured()
    assert not logging.getLogger("uvicorn.access").hasHandlers()


@pytest.mark.parametrize("form", ["json", "pretty"])
def test_no_secret_is_written(form: str) -> None:
    """As argument, field, nested value, part of a sentence, message of an exception, or name."""
    stream = configured("debug", form)
    log = ours()
    log.info(f"got {TOKEN}", token=CANARY, s=SecretBytes(CANARY.encode()), b=CANARY.encode())
    log.info("nested", a={"b": [{"value": CANARY}, CANARY.encode()]}, c=[TOKEN])
    log.info("named", **{TOKEN: 1})
    library = logging.getLogger("library")
    library.warning("%s %r", CANARY.encode(), SecretBytes(CANARY.encode()))
    library.warning("%(token)s", {"token": CANARY})
    library.warning("authorization: Bearer %s", CANARY)
    library.warning("wrong %d %d", CANARY)
    library.warning("x", extra={"value": CANARY})
    try:
        local = CANARY + "-local"
        raise ValueError(TOKEN, len(local))
    except ValueError:
        log.exception("failed")
        library.exception("failed")
    assert CANARY not in stream.getvalue()
    assert stream.getvalue().count("\n") >= 10


@pytest.mark.parametrize("form", ["json", "pretty"])
def test_a_traceback_shows_places_and_no_variables(form: str) -> None:
    """Also of causes; the chain is there, what the frames held is not."""
    stream = configured(form=form)

    def inner(argument: str) -> None:
        raise KeyError("inner")

    try:
        try:
            inner(CANARY)
        except KeyError as error:
            raise RuntimeError("outer") from error
    except RuntimeError:
        ours().exception("failed", operation="x")
    text = stream.getvalue()
    assert "in inner" in text
    assert "RuntimeError: outer" in text
    assert "direct cause" in text
    assert CANARY not in text


def test_a_record_that_cannot_be_formatted_is_reported_without_its_content() -> None:
    """The standard handler would print message and arguments to standard error."""
    stream = configured()
    logging.getLogger("library").warning("%d", CANARY)
    (record,) = records(stream)
    assert record == {
        "level": "error",
        "event": "a log record could not be written",
        "logger": "library",
        "error": "TypeError",
    }


def test_a_stream_that_is_gone_stops_nobody() -> None:
    """A node whose standard error was closed goes on."""
    stream = configured()
    stream.close()
    ours().info("x")


def test_the_form_follows_the_stream_unless_it_is_chosen() -> None:
    """`auto` is for people on a terminal and for machines elsewhere."""
    for form, stream, is_json in [
        ("auto", io.StringIO(), True),
        ("auto", Terminal(), False),
        ("json", Terminal(), True),
        ("pretty", io.StringIO(), False),
    ]:
        configured(form=form, stream=stream)
        ours().info("hello")
        assert stream.getvalue().startswith("{") is is_json
        assert ("\x1b[" in stream.getvalue()) is (form == "auto" and not is_json)


@pytest.mark.parametrize("form", ["json", "pretty"])
def test_a_value_can_neither_forge_a_line_nor_drive_a_terminal(form: str) -> None:
    """Control characters are written as escapes."""
    stream = configured(form=form)
    ours().info("a\nb", n=7, c="\x1b[2J\r\u202e\x85")
    logging.getLogger("library").warning("x\n%s", "y\x1b")
    assert len(stream.getvalue().splitlines()) == 2
    assert not {"\x1b", "\r", "\u202e", "\x85"} & set(stream.getvalue())


def test_the_last_configuration_counts() -> None:
    """A logger that was used before writes to the new stream."""
    first = configured()
    log = ours()
    log.info("one")
    second = configured()
    log.info("two")
    assert [r["event"] for r in records(first)] == ["one"]
    assert [r["event"] for r in records(second)] == ["two"]


def test_an_exception_in_a_callback_does_not_show_its_arguments() -> None:
    """Asyncio's own handler writes the callback with what it was called with."""
    stream = configured()
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(loop_exception_handler)

        def fail(_argument: str) -> None:
            raise ZeroDivisionError

        loop.call_soon(fail, CANARY)
        runner.run(asyncio.sleep(0))
    (record,) = records(stream)
    assert record["event"] == "an exception reached the event loop"
    assert "ZeroDivisionError" in record["exception"]
    assert CANARY not in stream.getvalue()
