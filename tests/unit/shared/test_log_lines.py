"""A log line is bounded, and still says what went wrong."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import redis
import structlog

from shared.logging import configure, describe, logger


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level, settings = root.handlers[:], root.level, structlog.get_config()
    found = io.StringIO()
    configure(service="test", stream=found)
    yield found
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**settings)


DEEP = (
    "".join(f"def f{n}():\n    f{n + 1}()\n" for n in range(60))
    + "def f60():\n    raise ValueError('the reason')\nf0()"
)


class TestLongValues:
    def test_a_deep_traceback_keeps_its_end_where_the_error_stands(self, stream: io.StringIO) -> None:
        try:
            exec(DEEP, {})
        except ValueError:
            logger("test").exception("failed")
        line = json.loads(stream.getvalue())
        assert "ValueError: the reason" in line["exception"]
        assert len(line["exception"]) < 2_100

    def test_any_other_long_value_keeps_its_beginning(self, stream: io.StringIO) -> None:
        logger("test").info("said", header="begin" + "x" * 10_000)
        line = json.loads(stream.getvalue())
        assert line["header"].startswith("begin")
        assert len(line["header"]) < 2_100


class TestInjection:
    """Whatever is logged is one line, and reads as it was. The design's rows 156-158."""

    @pytest.mark.parametrize(
        "text",
        ['a\r\n{"level": "info", "event": "signed in"}', "a\x1b[2Jb", 'a", "level": "error', "a\u2028b", "a\x00b\x7f"],
        ids=["line", "terminal", "JSON", "line separator", "control"],
    )
    def test_is_one_line_without_control_characters(self, stream: io.StringIO, text: str) -> None:
        logger("test").info("said", header=text)
        [line] = stream.getvalue().splitlines()
        assert json.loads(line)["header"] == text
        assert not [character for character in line if ord(character) < 32]


class TestAnErrorThatIsHandled:
    def test_is_told_by_its_kind_and_its_words(self) -> None:
        assert describe(redis.ConnectionError("the broker is away")) == "ConnectionError: the broker is away"
