"""What a start of the server leaves out because it is time and memory for nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_START = """
import asyncio, sys
from pathlib import Path
from pingup import app
from pingup.settings import load

async def start() -> None:
    flags = dict(flag.split("=", 1) for flag in sys.argv[1:])
    async with app.serve(load(flags=flags, environ={})):
        print(*sys.modules)

asyncio.run(start())
"""
_NEVER = {"duckdb", "numpy", "pandas", "pyarrow", "rich", "aiomqtt", "paho"}


def _imported(data_dir: Path, *flags: str) -> set[str]:
    """The modules of a server that is ready."""
    command = [sys.executable, "-c", _START, f"data_dir={data_dir}", "http.port=0", "mqtt.port=0", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_start_with_the_embedded_broker_imports_nothing_of_the_link_to_another(tmp_path: Path) -> None:
    assert not _imported(tmp_path) & {*_NEVER, "mqtt5", "pingup.brokers.session"}


def test_a_start_with_a_broker_elsewhere_does_not_import_the_embedded_one(tmp_path: Path) -> None:
    modules = _imported(tmp_path, "mqtt.url=mqtt://127.0.0.1:1")
    assert "mqtt5" in modules
    assert not modules & {*_NEVER, "amqtt", "pingup.brokers.embedded"}
