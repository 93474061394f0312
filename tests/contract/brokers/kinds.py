"""The kinds of houses: one for each sort of broker that the suite runs over."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiomqtt

from pingup.settings import MqttSettings
from tests.contract.brokers.houses import House, Ways
from tests.contract.brokers.members import LIMIT, Agent, Member
from tests.mosquitto import (
    HOST,
    LOG,
    SHIPPED,
    Dynsec,
    Mosquitto,
    find_program,
    running_dynsec,
    running_mosquitto,
)

_SERVER_PASSWORD = "the-password-of-the-server"


class EmbeddedHouse(House):
    """The broker in Pingup's own process."""

    ways = Ways(
        is_external=False,
        versions=(aiomqtt.ProtocolVersion.V311,),
        pins_every_client_id=False,
        retains_only_births=True,
        counts_denied=True,
        forgets_at_once=True,
        grants_wide_filters=True,
        server_hears_its_own_status=False,
    )

    @asynccontextmanager
    async def _broker_running(self) -> AsyncIterator[None]:
        yield

    def _mqtt_settings(self) -> MqttSettings:
        return MqttSettings(port=0)

    def _operator_user(self, token_id: str) -> str:
        return "operator"

    async def _let_in(self, *members: Member, scope: str | None = None) -> None:
        """Pingup does it by itself."""

    async def _everybody_is_let_in(self) -> None:
        """They are, when Pingup has answered."""

    async def _shut_out(self, member: Member) -> None:
        """Pingup does it by itself."""


class OutsideHouse(House):
    """A broker outside, where the server and each API token have accounts of their own."""

    def server_account(self) -> Member:
        """What the server logs in with."""
        return Member("server", "server", _SERVER_PASSWORD, "server")

    def _operator_user(self, token_id: str) -> str:
        return f"operator.{token_id}"


class FilesHouse(OutsideHouse):
    """Mosquitto with the shipped password and ACL files, kept by hand as broker_config/README.md says."""

    ways = Ways(
        is_external=True,
        versions=(aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5),
        pins_every_client_id=True,
        retains_only_births=False,
        counts_denied=False,
        forgets_at_once=False,
        grants_wide_filters=True,
        server_hears_its_own_status=True,
    )
    _mosquitto: Mosquitto
    _is_read = True
    """Whether the broker has read what stands in its files now."""

    @asynccontextmanager
    async def _broker_running(self) -> AsyncIterator[None]:
        shipped = SHIPPED / "mosquitto"
        for name in ("acl", "passwords"):
            (self._directory / name).write_bytes((shipped / name).read_bytes())
        self._passwd("-b", "server", _SERVER_PASSWORD)
        config = (shipped / "mosquitto.conf").read_text("utf-8")
        async with running_mosquitto(self._directory, config) as self._mosquitto:
            yield

    def _mqtt_settings(self) -> MqttSettings:
        return MqttSettings(
            mode="external", url=f"mqtt://server:{_SERVER_PASSWORD}@{HOST}:{self._mosquitto.port}"
        )

    async def _let_in(self, *members: Member, scope: str | None = None) -> None:
        for member in members:
            self._passwd("-b", member.user, member.password)
            if scope is not None:
                self._add_to_acl(member.user, scope)
        self._is_read = False

    async def _everybody_is_let_in(self) -> None:
        if not self._is_read:
            await self._reload()

    async def _shut_out(self, member: Member) -> None:
        if isinstance(member, Agent):
            await self._everybody_is_let_in()
            self._clear_birth(member)
        self._passwd("-D", member.user)
        await self._reload()

    def _clear_birth(self, agent: Agent) -> None:
        """As the agent, which alone may: a broker with files lets nobody else."""
        who = ("-i", agent.client_id, "-u", agent.user, "-P", agent.password)
        what = ("-q", "1", "-r", "-n", "-t", agent.up("status"))
        command = [find_program("mosquitto_pub"), "-h", HOST, "-p", str(self._mosquitto.port), *who, *what]
        subprocess.run(command, check=True, timeout=LIMIT)

    def _passwd(self, option: str, user: str, *password: str) -> None:
        command = [
            find_program("mosquitto_passwd"),
            option,
            str(self._directory / "passwords"),
            user,
            *password,
        ]
        subprocess.run(command, check=True, timeout=LIMIT)

    def _add_to_acl(self, user: str, scope: str) -> None:
        """Copy the example of an operator's scope, as the README says."""
        example = "operator.example-admin" if scope == "admin" else "operator.example-read"
        path = self._directory / "acl"
        text = path.read_text()
        start = text.index(f"user {example}\n")
        entry = text[start:].split("\n\n", 1)[0].replace(example, user)
        path.write_text(f"{text}\n{entry}\n")

    async def _reload(self) -> None:
        """Have Mosquitto read its files again, and wait until it has."""
        said = "Reloading config."
        log = self._directory / LOG
        before = log.read_text().count(said)
        self._is_read = True
        self._mosquitto.reload()
        async with asyncio.timeout(LIMIT):
            while log.read_text().count(said) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


class DynsecHouse(OutsideHouse):
    """Mosquitto with dynamic security: Pingup brings its accounts there, and takes them away, by itself."""

    ways = Ways(
        is_external=True,
        versions=(aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5),
        pins_every_client_id=True,
        retains_only_births=False,
        counts_denied=False,
        forgets_at_once=True,
        grants_wide_filters=False,
        server_hears_its_own_status=False,
    )
    _dynsec: Dynsec

    @asynccontextmanager
    async def _broker_running(self) -> AsyncIterator[None]:
        async with running_dynsec(self._directory) as self._dynsec:
            yield

    def _mqtt_settings(self) -> MqttSettings:
        return MqttSettings(
            mode="external",
            url=self._dynsec.url("server", _SERVER_PASSWORD),
            control_url=self._dynsec.control_url,
        )

    async def _let_in(self, *members: Member, scope: str | None = None) -> None:
        """Pingup does it by itself."""

    async def _everybody_is_let_in(self) -> None:
        """They are, when Pingup has answered."""

    async def _shut_out(self, member: Member) -> None:
        """Pingup does it by itself."""
