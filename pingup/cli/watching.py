"""Live values as a person gets them: by the broker, with an API token."""

from __future__ import annotations

import asyncio
import json
import shlex
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pingup.backoff import full_jitter
from pingup.broker_url import BrokerUrl
from pingup.topics import ROOT

if TYPE_CHECKING:
    import aiomqtt

LIVE = f"{ROOT}/live/#"
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0  # seconds before another attempt, with full jitter


class Login(msgspec.Struct, frozen=True):
    """Somebody's way into a broker.

    At one elsewhere the client id is the user name, so that two programs with one account end each other.
    """

    broker: BrokerUrl
    username: str
    password: str
    client_id: str | None = None
    ca_file: Path | None = None

    def client(self) -> aiomqtt.Client:
        """A client that is not connected yet."""
        import aiomqtt  # late: it takes a while

        return aiomqtt.Client(
            self.broker.host,
            self.broker.port,
            identifier=self.client_id,
            username=self.username,
            password=self.password,
            tls_context=ssl.create_default_context(cafile=self.ca_file) if self.broker.tls else None,
        )

    def mosquitto_sub(self) -> str:
        """The line for a shell that shows everything live."""
        words = ["mosquitto_sub", "-h", self.broker.host, "-p", str(self.broker.port)]
        if self.ca_file is not None:
            words += ["--cafile", str(self.ca_file)]
        elif self.broker.tls:
            words += ["--tls-use-os-certs"]
        if self.client_id is not None:
            words += ["-i", self.client_id]
        return shlex.join([*words, "-u", self.username, "-P", self.password, "-v", "-t", LIVE])


async def show(watcher: Login) -> None:
    """Print what is shown on the live topics, as any subscriber gets it, until cancelled."""
    import aiomqtt

    failed = 0
    while True:
        try:
            async with watcher.client() as client:
                await client.subscribe(LIVE)
                async for message in client.messages:
                    failed = 0
                    line = _line(str(message.topic), message.payload)
                    if line is not None and not message.retain:
                        print(line, flush=True)
        except aiomqtt.MqttError as problem:
            if not failed:
                print(f"pingup: no live values from the broker: {problem}", file=sys.stderr)
        await asyncio.sleep(full_jitter(_FIRST_WAIT, _LONGEST_WAIT, failed))
        failed += 1


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
