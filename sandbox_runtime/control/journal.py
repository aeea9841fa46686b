"""The log of a server: one event a line, to people or to programs.

Commands and what they print are never in it: they hold secrets.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Literal

import msgspec

LogFormat = Literal["text", "json"]
_PLAIN = re.compile(r"[\w./:@%+,-]+")


def open_journal(level: str, log_format: LogFormat) -> None:
    """Sends what this project logs to standard error.

    Args:
        level: The least that is logged, as `logging` names it.
        log_format: `text` for `key=value`, `json` for an object a line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    logger = logging.getLogger("sandbox_runtime")
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def record_event(logger: logging.Logger, event: str, **fields: object) -> None:
    """Logs an event with its fields, if this logger logs what is worth knowing."""
    logger.info(event, extra={"fields": fields})


def _moment(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {key}={_quoted(value)}" for key, value in _fields(record).items())
        message = record.getMessage().replace("\n", "\\n").replace("\r", "\\r")
        line = f"{_moment(record)} {record.levelname.lower()} {message}{fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def _quoted(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else msgspec.json.encode(text).decode()
