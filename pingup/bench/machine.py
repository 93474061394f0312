"""Where and when it was measured."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path

import msgspec

import pingup
from pingup.bench.mosquitto import mosquitto_version
from pingup.bench.report import Effort
from pingup.clock import SystemClock

_PACKAGES = ("duckdb", "amqtt", "aiohttp", "msgspec", "mqtt5")


class Machine(msgspec.Struct, frozen=True, rename="camel"):
    """Where and when it was measured. `load` is the load average over a minute, before the first case."""

    date: str
    system: str
    cpu: str
    cores: int
    load: float
    python: str
    packages: dict[str, str]


def this_machine() -> Machine:
    packages = {"pingup": pingup.__version__, "sqlite": sqlite3.sqlite_version}
    packages |= {name: version(name) for name in _PACKAGES}
    return Machine(
        date=f"{SystemClock().now():%Y-%m-%d %H:%M} UTC",
        system=f"{platform.system()} {platform.release().partition('-')[0]}",
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        load=load_average(),
        python=platform.python_version(),
        packages=packages | {"mosquitto": mosquitto_version() or "not installed"},
    )


def load_average() -> float:
    """Of the last minute."""
    return round(os.getloadavg()[0], 2)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def header(machine: Machine, effort: Effort) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in machine.packages.items())
    amount = "" if effort.share == 1 else f", {effort.share:.0%} of the usual amount of work"
    return (
        f"{machine.date}, {machine.system}, {machine.cpu}, {machine.cores} cores, load {machine.load}\n"
        f"Python {machine.python}, {packages}\n"
        f"{effort.runs} runs{amount}"
    )
