"""Operational logs: one JSON object a line on standard error, from structlog and from the standard library alike.

Every text of a line is redacted, wherever it comes from: the message of an exception can hold anything.
"""

import logging
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog
from structlog.tracebacks import ExceptionDictTransformer

# Written by the processors themselves, so there is nothing to look for.
_OWN = frozenset({"timestamp", "level", "logger"})


def configure_logs(level: str, redact: Callable[[str], str]) -> None:
    """Set up logging for this process, or set it up anew; `level` is a name such as `info`."""
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Without local variables: they hold keys and prompts.
                structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
                _redacting(redact),
                structlog.processors.JSONRenderer(sort_keys=True),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())


def _redacting(redact: Callable[[str], str]) -> structlog.types.Processor:
    def clean(value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [clean(item) for item in value]
        return redact(value if isinstance(value, str) else repr(value))

    def process(_: Any, __: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
        return {key: value if key in _OWN else clean(value) for key, value in event.items()}

    return process
