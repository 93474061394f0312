"""`pingup demo`: a server and three agents with live values, to look at; the broker may be one elsewhere."""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from pingup.access import OPERATOR_USER
from pingup.broker_url import parse_broker_url
from pingup.cli.exits import one_line_errors
from pingup.cli.options import read_settings, server_options
from pingup.cli.watching import Login, show
from pingup.errors import NotFound, Unavailable, Unusable
from pingup.settings import Settings
from pingup.sources import USAGE

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
        _check_accounts(settings)
        from pingup.log import set_up

        set_up(settings.log)
        asyncio.run(_demo(_with_free_ports(settings), Path(scratch), duration))


def _check_accounts(settings: Settings) -> None:
    """An agent needs an account at the broker, which the embedded one gives it by itself.

    Raises:
        Unusable: nobody would bring the demo's agents to this broker.
    """
    mqtt = settings.mqtt
    if mqtt.broker is None or mqtt.control is not None or settings.internal.token is not None:
        return
    raise Unusable(
        f"the demo's agents have no accounts at {mqtt.broker}: set PINGUP_MQTT__CONTROL_URL to an "
        "administrator of its dynamic security, or have the broker ask Pingup (broker_config/README.md)",
        USAGE,
    )


def _with_free_ports(settings: Settings) -> Settings:
    """The settings with ports that nobody else has; says which ones had to move aside."""
    from msgspec.structs import replace

    http = replace(settings.http, port=_free_port(settings.http.host, settings.http.port, "HTTP"))
    if settings.mqtt.broker is not None:
        return replace(settings, http=http)
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

    stop = stop_on_signals()
    async with _leaving_nothing(settings, scratch), app.serve(settings) as pingup:
        try:
            async with Crew.open() as crew:
                crew.create_task(_play(pingup, settings, crew, scratch), name="demo")
                with suppress(TimeoutError):
                    async with asyncio.timeout(duration):
                        await _until(stop, pingup.crew, crew)
        finally:
            if _is_scratch(settings, scratch):
                await _remove_agents(pingup)
    print("the demo has ended", file=sys.stderr)


def _is_scratch(settings: Settings, scratch: Path) -> bool:
    """Whether the data of the demo ends with it."""
    return settings.data_dir.is_relative_to(scratch)


@asynccontextmanager
async def _leaving_nothing(settings: Settings, scratch: Path) -> AsyncIterator[None]:
    """At a broker elsewhere nobody but the demo knows the accounts that it has made."""
    from pingup.provisioning import withdraw

    try:
        yield
    finally:
        if _is_scratch(settings, scratch):
            try:
                await withdraw(settings)
            except Unavailable as problem:
                print(f"pingup: the demo's accounts stay at the broker: {problem}", file=sys.stderr)


async def _remove_agents(pingup: Pingup) -> None:
    for agent_id in AGENTS:
        with suppress(NotFound, Unavailable):
            await pingup.services.agents.remove(agent_id, purge=False)


async def _play(pingup: Pingup, settings: Settings, crew: Crew, scratch: Path) -> None:
    """Say what there is to see, and show it, until cancelled."""
    from pingup.model import Scope

    await _check_broker(pingup)
    _, command_token = await pingup.services.tokens.create("demo", Scope.COMMAND)
    _print_welcome(pingup, command_token, await _watcher(pingup, settings, "demo, in another terminal"))
    async with _agents(pingup, settings, crew, scratch):
        await show(await _watcher(pingup, settings, "demo, live values"))


async def _check_broker(pingup: Pingup) -> None:
    """Whether a broker elsewhere takes our accounts.

    Raises:
        Unusable: it does not, or is another Pingup's.
    """
    if pingup.accounts is not None:
        await pingup.accounts.compared()
        if pingup.accounts.problem is not None:
            raise Unusable(pingup.accounts.problem)


async def _until(stop: asyncio.Event, *crews: Crew) -> None:
    """Return at the stop; raise what any task raised."""
    waiting = [asyncio.ensure_future(crew.until(stop)) for crew in crews]
    done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for waiter in rest:
        waiter.cancel()
    for waiter in done:
        waiter.result()


async def _watcher(pingup: Pingup, settings: Settings, name: str) -> Login:
    """Somebody with a new token who may see what is live."""
    from pingup.model import Scope

    token, text = await pingup.services.tokens.create(name, Scope.READ)
    if settings.mqtt.broker is None:
        return Login(parse_broker_url(pingup.mqtt_url), OPERATOR_USER, text)
    username = f"{OPERATOR_USER}.{token.id}"
    return Login(parse_broker_url(pingup.mqtt_url), username, text, username, settings.mqtt.ca_file)


@asynccontextmanager
async def _agents(pingup: Pingup, settings: Settings, crew: Crew, scratch: Path) -> AsyncIterator[None]:
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
        given = AgentSettings(
            id=agent_id,
            url=pingup.mqtt_url,
            ca_file=settings.mqtt.ca_file,
            secret=credentials.secret,
            data_dir=scratch / "agents" / agent_id,
            interval=INTERVAL,
            scan=scan,
        )
        running.append(crew.create_task(Agent(given).run(), name=agent_id))
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


async def _credentials(pingup: Pingup, wish: Registration) -> Credentials:
    """The credentials of an agent of the demo; in a kept data directory it is made anew each time."""
    with suppress(NotFound):
        await pingup.services.agents.remove(wish.id, purge=False)
    return (await pingup.services.agents.register(wish))[1]


def _print_welcome(pingup: Pingup, command_token: str, watcher: Login) -> None:
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
    {watcher.mosquitto_sub()}

Ctrl-C ends it. Live values:
""",
        flush=True,
    )
