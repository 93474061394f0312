"""One event is one line, whatever strangers put into it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from pingup.log import set_up
from pingup.settings import LogFormat, LogLevel, LogSettings

log = logging.getLogger("pingup.test")


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("pingup")
    handlers, level, our_level = root.handlers, root.level, ours.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    ours.setLevel(our_level)


@pytest.mark.parametrize("control", ["\n", "\r", "\x1b[2J", "\x85", "\u2028", "\x9b"])
def test_a_line_cannot_be_forged_by_what_it_quotes(capsys: pytest.CaptureFixture[str], control: str) -> None:
    set_up(LogSettings())
    log.warning("rejected a message on %s", f"topic{control}2026-01-01T00:00:00Z error forged")
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert control not in line.rstrip("\n")
    assert " warning " in line
    assert "forged" in line


def test_json_lines_have_time_level_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    set_up(LogSettings(format=LogFormat.JSON))
    log.info("ready\n%s", "now")
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    event = json.loads(line)
    assert (event["level"], event["logger"], event["message"]) == ("info", "pingup.test", "ready\nnow")
    assert event["at"].endswith("Z")


def test_the_level_holds_for_us_and_libraries_speak_from_warnings_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up(LogSettings(level=LogLevel.DEBUG))
    log.debug("ours")
    logging.getLogger("aiohttp").info("theirs")
    assert "ours" in (written := capsys.readouterr().err)
    assert "theirs" not in written
