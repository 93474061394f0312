"""Who goes leaves nothing at the broker: no connection, no session, no retained birth."""

from __future__ import annotations

import asyncio

import msgspec

from pingup.brokers.dynsec.marks import Mark
from pingup.brokers.dynsec.wire import Client, ModifyClient
from pingup.brokers.session import Credentials, Options, at_once, connect
from pingup.errors import Unavailable
from pingup.model import Role
from pingup.topics import Kind, up

CLEAR_WITHIN = 5.0  # seconds for one log-in and what it is for

# No password has this fingerprint: who comes back under the name gets the right one.
_NOBODYS = "0" * 32


class Leaver(msgspec.Struct, frozen=True):
    """A client of ours that has to go."""

    client: Client
    mark: Mark

    @property
    def username(self) -> str:
        return self.client.username

    def shut_out(self, password: str) -> ModifyClient:
        """Ends the connections, and lets nobody in but who has this password."""
        return ModifyClient(
            username=self.username,
            password=password,
            clientid=self.client.clientid or "",
            textdescription=str(msgspec.structs.replace(self.mark, fingerprint=_NOBODYS)),
            roles=self.client.roles,
            groups=self.client.groups,
        )

    async def clear(self, options: Options, password: str) -> None:
        """Log in as the leaver: a clean start drops its session, and only an agent may clear its own birth.

        Raises:
            Unavailable: the broker doesn't let us, or takes longer than 5 s.
        """
        own = msgspec.structs.replace(
            options,
            client_id=self.client.clientid or self.username,
            credentials=Credentials(self.username, password),
        )
        try:
            async with asyncio.timeout(CLEAR_WITHIN), connect(own, at_once) as connection:
                if self.mark.role is Role.AGENT:
                    await connection.publish(up(self.username, Kind.STATUS), b"", retain=True)
        except TimeoutError as problem:
            raise Unavailable(f"no answer from {own.address} within {CLEAR_WITHIN:g} s") from problem
