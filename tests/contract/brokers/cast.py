"""One member of each role of the access table, and messages for every topic that can be told apart."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tests.contract.brokers.access_table import (
    AGENTS,
    CLIENTS,
    OPERATORS,
    Role,
    filters_of,
    may_publish,
    may_receive,
    nobodys_topics,
    topics_of,
)
from tests.contract.brokers.houses import House
from tests.contract.brokers.members import Agent, Heard, Member, Seat

SYS_STATUS = "pingup/v1/sys/status"
SYS_REJECTS = "pingup/v1/sys/rejects"

_numbers = itertools.count(1)

Seats = Mapping[Role, Seat]


@dataclass(frozen=True)
class Mail:
    """A letter for each topic. `number` is in all of them, and in no other mail's.

    What lies on an agent's `up` topic is a genuine message of that agent: only the access rules keep it out.
    """

    letters: dict[str, bytes]
    number: int
    command_ids: dict[str, str]

    def arrived(self, heard: Iterable[Heard]) -> set[str]:
        """The topics whose letter is among what was heard."""
        return {one.topic for one in heard if self.letters.get(one.topic) == one.payload}


@dataclass(frozen=True)
class Cast:
    """The members, and their house. The server has no member: it speaks through the house."""

    house: House
    members: dict[Role, Member]

    @classmethod
    async def gather(cls, house: House) -> Cast:
        agents = dict(zip(AGENTS, await house.agents(len(AGENTS)), strict=True))
        operators = {role: await house.operator(role.name.lower()) for role in OPERATORS}
        return cls(house, {**agents, **operators})

    @property
    def agents(self) -> dict[Role, Agent]:
        return {role: one for role, one in self.members.items() if isinstance(one, Agent)}

    def publishable(self, role: Role, topics: Iterable[str]) -> set[str]:
        own_id = self.members[role].id if role in self.members else ""
        return {topic for topic in topics if may_publish(role, own_id, topic)}

    def receivable(self, role: Role, topics: Iterable[str]) -> set[str]:
        own_id = self.members[role].id if role in self.members else ""
        return {topic for topic in topics if may_receive(role, own_id, topic)}

    def owner(self, topic: str) -> Role:
        """Who may publish on it."""
        return next(role for role in Role if self.publishable(role, [topic]))

    # --- mail --------------------------------------------------------------------------------------

    async def write(self) -> Mail:
        """A letter for every topic of the contract, and for those that are nobody's."""
        number = next(_numbers)
        ids = [agent.id for agent in self.agents.values()]
        users = [self.members[role].user for role in OPERATORS]
        letters = {
            topic: json.dumps({"number": number, "topic": topic}).encode()
            for topic in (*topics_of(ids), *nobodys_topics(ids[0], users))
        }
        command_ids = {agent.id: await self.house.order(agent) for agent in self.agents.values()}
        for agent in self.agents.values():
            letters |= _genuine(agent, number, command_ids[agent.id])
        return Mail(letters, number, command_ids)

    async def stored(self, mail: Mail) -> set[str]:
        """The `up` topics whose letter the server has stored, as far as REST shows it."""
        found = set()
        for agent in self.agents.values():
            scans = (await self.house.call("GET", f"/discovery/{agent.id}?limit=10000"))["discovery"]
            config = await self.house.call("GET", f"/config/{agent.id}")
            command = await self.house.call("GET", f"/commands/{mail.command_ids[agent.id]}")
            shown = {
                "metrics": mail.number in await self.house.history(agent),
                "discovery": mail.number in [scan["duration"] for scan in scans],
                "config": config["reported"] is not None and config["reported"]["version"] == mail.number,
                "results": command["command"]["result"] == mail.number,
            }
            found |= {agent.up(kind) for kind, is_shown in shown.items() if is_shown}
        return found

    # --- at their places ---------------------------------------------------------------------------

    def all_filters(self, role: Role) -> tuple[str, ...]:
        """What somebody subscribes to who wants all that can be had, and more."""
        return "#", "$SYS/#", *filters_of(role, self.members[role].id)

    @asynccontextmanager
    async def seats(self, *, absent: Role | None = None) -> AsyncIterator[dict[Role, Seat]]:
        """Everybody connected, with no subscriptions yet."""
        async with AsyncExitStack() as stack:
            yield {
                role: await stack.enter_async_context(self.house.seat(self.members[role]))
                for role in CLIENTS
                if role is not absent
            }

    async def listen(self, seats: Seats) -> None:
        """Everybody subscribes to everything."""
        for role, seat in seats.items():
            await seat.subscribe(*self.all_filters(role))

    async def settle(self, seats: Seats) -> None:
        """Wait until everything that was sent before has reached the server, and whoever gets it.

        Each agent says two last things, which show once the server has dealt with all that came before; then
        the server says one that reaches everybody.
        """
        for role, agent in self.agents.items():
            await self._last_words(agent, seats[role], seats[Role.ADMIN])
        marker = json.dumps({"marker": next(_numbers)}).encode()
        await self.house.say(SYS_STATUS, marker)
        for seat in seats.values():
            await seat.until(lambda one: one.payload == marker)

    async def _last_words(self, agent: Agent, seat: Seat, admin: Seat) -> None:
        nothing = f"no-command-{next(_numbers)}"
        await seat.publish(agent.up("results"), agent.device.sign(commandId=nothing, status="completed"))
        await admin.until(lambda one: one.topic == SYS_REJECTS and nothing.encode() in one.payload)
        number = next(_numbers)
        await seat.publish(agent.up("metrics"), agent.device.sample(number))
        await admin.until_topic(agent.live("metrics"), cpu=number)


def _genuine(agent: Agent, number: int, command_id: str) -> dict[str, bytes]:
    sign = agent.device.sign
    return {
        agent.up("metrics"): agent.device.sample(number),
        agent.up("discovery"): sign(discovery={"hosts": [], "duration": number}),
        agent.up("status"): sign(session=f"session-{number}", status="online"),
        agent.up("results"): sign(commandId=command_id, status="completed", result=number),
        agent.up("config"): sign(version=number, applied=True),
    }
