"""Log lines: one JSON object each, on standard error, with the correlation id of the request or message in hand."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

_VALUE_LENGTH_MAX = 2000


def configure(*, service: str, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging of this process; once, first thing in an entry point."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _truncate,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(ensure_ascii=True),
        ],
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    structlog.contextvars.bind_contextvars(service=service)


def logger(name: str) -> structlog.stdlib.BoundLogger:
    result: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return result


def describe(error: BaseException) -> str:
    """What a line says of an error that is handled: its kind and its words. The repr of redis-py has no words."""
    return f"{type(error).__name__}: {error}"


def _safe_until_configured() -> None:
    """structlog's own default prints local variables with a traceback, tokens included; never that, not even in a
    test."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )


def _truncate(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A line is bounded whatever a caller puts into a header; JSON itself escapes line breaks and control sequences. Of a
    traceback the end is kept: there stands what was raised."""
    for name, value in event.items():
        if isinstance(value, str) and len(value) > _VALUE_LENGTH_MAX:
            begin, end = value[:_VALUE_LENGTH_MAX] + "…", "…" + value[-_VALUE_LENGTH_MAX:]
            event[name] = end if name == "exception" else begin
    return event


_safe_until_configured()
