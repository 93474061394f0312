"""`pingup demo`: a server and three agents with live values on this machine alone, to look at."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from pingup.cli.exits import one_line_errors
from pingup.cli.options import read_settings, server_options
from pingup.settings import Settings

if TYPE_CHECKING:
    from pingup.app import Pingup
    from pingup.crew import Crew
    from pingup.services.agents import Credentials, Registration

AGENTS = {"demo-gateway": "Gateway", "demo-workshop": "Workshop", "demo-greenhouse": "Greenhouse"}
INTERVAL = 2.0  # seconds between samples
SCAN_EVERY = 60.0  # seconds


@click.command
@server_options
@click.option("--duration", type=click.FloatRange(min=0), help="End after so many seconds. [until Ctrl-C]")
def demo(duration: float | None, **flags: Any) -> None:
    """Run a server and three agents with live values. Without --data-dir nothing of it is kept."""
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="pingup-demo-") as scratch:
        settings = read_settings(flags, data_dir=Path(scratch) / "data", **{"log.level": "warning"})
        from pingup.log import set_up

        set_up(settings.log)
        asyncio.run(_demo(_with_free_ports(settings), Path(scratch), duration))


def _with_free_ports(settings: Settings) -> Settings:
    """The settings with ports that nobody else has; says which ones had to move aside."""
    from msgspec.structs import replace

    http = replace(settings.http, port=_free_port(settings.http.host, settings.http.port, "HTTP"))
    mqtt = replace(settings.mqtt, port=_free_port(settings.mqtt.host, settings.mqtt.port, "MQTT"))
    return replace(settings, http=http, mqtt=mqtt)


def _free_port(host: str, port: int, what: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            print(f"pingup: port {port} is in use, {what} takes a free one", file=sys.stderr)
            return 0
    return port


async def _demo(settings: Settings, scratch: Path, duration: float | None) -> None:
    from pingup import app  # late: the server's packages
    from pingup.cli.serve import stop_on_signals
    from pingup.crew import Crew
    from pingup.model import Scope

    stop = stop_on_signals()
    async with app.serve(settings) as pingup, Crew.open() as crew:
        _, command_token = await pingup.services.tokens.create("demo", Scope.COMMAND)
        _, read_token = await pingup.services.tokens.create("demo, watching", Scope.READ)
        _print_welcome(pingup, command_token, read_token)
        async with _agents(pingup, crew, scratch):
            crew.create_task(_show(pingup.mqtt_url, read_token), name="show")
            with suppress(TimeoutError):
                async with asyncio.timeout(duration):
                    await _until(stop, pingup.crew, crew)
    print("the demo has ended", file=sys.stderr)


async def _until(stop: asyncio.Event, *crews: Crew) -> None:
    """Return at the stop; raise what any task raised."""
    waiting = [asyncio.ensure_future(crew.until(stop)) for crew in crews]
    done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for waiter in rest:
        waiter.cancel()
    for waiter in done:
        waiter.result()


@asynccontextmanager
async def _agents(pingup: Pingup, crew: Crew, scratch: Path) -> AsyncIterator[None]:
    """Three agents, each with a directory and a secret of its own; they say goodbye at the end."""
    from pingup.agent.run import Agent
    from pingup.agent.settings import AgentSettings, ScanSettings
    from pingup.services.agents import Registration

    ports = (22, 80, *(urlsplit(url).port or 0 for url in (pingup.http_url, pingup.mqtt_url)))
    running = []
    for number, (agent_id, name) in enumerate(AGENTS.items()):
        if number:
            await asyncio.sleep(INTERVAL / len(AGENTS))
        wish = Registration(id=agent_id, name=name, metadata={"demo": True}, tags=("demo",))
        credentials = await _credentials(pingup, wish)
        scan = ScanSettings(ranges=("127.0.0.1/32",), ports=ports, interval=SCAN_EVERY)
        settings = AgentSettings(
            id=agent_id,
            url=pingup.mqtt_url,
            secret=credentials.secret,
            data_dir=scratch / "agents" / agent_id,
            interval=INTERVAL,
            scan=scan,
        )
        running.append(crew.create_task(Agent(settings).run(), name=agent_id))
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


async def _credentials(pingup: Pingup, wish: Registration) -> Credentials:
    """The credentials of an agent of the demo; in a kept data directory it is made anew each time."""
    from pingup.errors import NotFound

    with suppress(NotFound):
        await pingup.services.agents.remove(wish.id, purge=False)
    return (await pingup.services.agents.register(wish))[1]


def _print_welcome(pingup: Pingup, command_token: str, read_token: str) -> None:
    broker = urlsplit(pingup.mqtt_url)
    bearer = f"-H 'Authorization: Bearer {command_token}'"
    json_body = "-H 'Content-Type: application/json'"
    order = '{"agentId":"demo-gateway","action":"ping"}'
    print(
        f"""pingup ready http={pingup.http_url} mqtt={pingup.mqtt_url}

Three agents report every {INTERVAL:.0f} s. In another terminal:

  the newest sample of each agent
    curl -s {bearer} {pingup.http_url}/api/v1/metrics
  what the network scan found
    curl -s {bearer} {pingup.http_url}/api/v1/discovery/demo-gateway/latest
  a signed command, and what became of it
    curl -s {bearer} {json_body} -d '{order}' {pingup.http_url}/api/v1/commands
    curl -s {bearer} {pingup.http_url}/api/v1/commands
  everything live
    mosquitto_sub -h {broker.hostname} -p {broker.port} -u operator -P {read_token} -v -t 'pingup/v1/live/#'

Ctrl-C ends it. Live values:
""",
        flush=True,
    )


async def _show(mqtt_url: str, token: str) -> None:
    """Print what is shown on the live topics, as any subscriber gets it."""
    import aiomqtt

    from pingup.topics import ROOT

    broker = urlsplit(mqtt_url)
    async with aiomqtt.Client(
        broker.hostname or "", broker.port or 0, username="operator", password=token
    ) as client:
        await client.subscribe(f"{ROOT}/live/#")
        async for message in client.messages:
            line = _line(str(message.topic), message.payload)
            if line is not None and not message.retain:
                print(line, flush=True)


def _line(topic: str, payload: object) -> str | None:
    if not isinstance(payload, bytes) or not payload:
        return None
    shown = json.loads(payload)
    who = f"  {shown['agentId']:16}"
    match topic.rsplit("/", 1)[1]:
        case "metrics":
            numbers = "  ".join(
                f"{name} {shown[name]:5.1f} %" for name in ("cpu", "ram", "disk") if shown[name] is not None
            )
            latency = "no answer" if shown["latency"] is None else f"{shown['latency']} ms"
            return f"{who} {numbers}  latency {latency}"
        case "discovery":
            return f"{who} scan: {len(shown['hosts'])} hosts in {shown['duration']} ms"
        case "presence":
            return f"{who} is {shown['status']}"
        case "commands":
            return f"{who} command {shown['action']} is {shown['status']}"
    return None
