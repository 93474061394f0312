"""The access table, every role by every topic: what may not be reaches nobody and is never stored."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import pytest
import pytest_asyncio

from pingup.topics import covers, matches
from tests.contract.brokers.access_table import CLIENTS, Role, filters_of
from tests.contract.brokers.cast import SYS_REJECTS, SYS_STATUS, Cast, Mail, Seats
from tests.contract.brokers.conftest import OUTSIDE
from tests.contract.brokers.houses import House
from tests.contract.brokers.kinds import OutsideHouse
from tests.contract.brokers.members import Member
from tests.contract.mqtt_packets import Will, connect

pytestmark = pytest.mark.asyncio(loop_scope="package")

Deliveries = set[tuple[Role, str]]


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def cast(house: House) -> Cast:
    """The same people for all of these tests: their mail differs."""
    return await Cast.gather(house)


def _delivered(seats: Seats, mail: Mail, *, retained: bool = False) -> Deliveries:
    return {
        (role, topic)
        for role, seat in seats.items()
        for topic in mail.arrived(one for one in seat.heard if one.retain is retained)
    }


def _rightful(cast: Cast, topics: Iterable[str], receivers: Iterable[Role]) -> Deliveries:
    topics = set(topics)
    return {(role, topic) for role in receivers for topic in cast.receivable(role, topics)}


def _sendable(cast: Cast, role: Role, mail: Mail) -> list[str]:
    """The topics that a role is tried with: all, but the embedded broker has no server to keep out."""
    if role is Role.SERVER and not cast.house.ways.is_external:
        return sorted(cast.publishable(role, mail.letters))
    return sorted(mail.letters)


def _retained(cast: Cast, topics: Iterable[str]) -> set[str]:
    """Of permitted topics those on which a broker of this kind keeps a message that is to be retained."""
    if not cast.house.ways.retains_only_births:
        return set(topics)
    return {topic for topic in topics if "/up/" not in topic or topic.endswith("/status")}


async def _publish(cast: Cast, seats: Seats, role: Role, topic: str, payload: bytes, *, retain: bool) -> None:
    if role is Role.SERVER:
        await cast.house.say(topic, payload, retain=retain)
    else:
        await seats[role].publish(topic, payload, retain=retain)


async def _clear(cast: Cast, role: Role, mail: Mail) -> None:
    """Take back what the server retained here, since others use this house too."""
    if role is Role.SERVER:
        for topic in cast.publishable(role, mail.letters):
            await cast.house.say(topic, b"", retain=True)


@pytest.mark.parametrize("role", Role, ids=lambda role: role.name)
async def test_what_is_published_reaches_whom_the_table_names(cast: Cast, role: Role) -> None:
    mail = await cast.write()
    async with cast.seats() as seats:
        await cast.listen(seats)
        for topic in _sendable(cast, role, mail):
            await _publish(cast, seats, role, topic, mail.letters[topic], retain=False)
        await cast.settle(seats)
    permitted = cast.publishable(role, mail.letters)
    assert _delivered(seats, mail) == _rightful(cast, permitted, CLIENTS)
    assert await cast.stored(mail) == {
        topic for topic in permitted if "/up/" in topic and not topic.endswith("/status")
    }


@pytest.mark.parametrize("role", Role, ids=lambda role: role.name)
async def test_what_is_retained_waits_for_whom_the_table_names(house: House, role: Role) -> None:
    # New agents: of those that have just said something the server itself is about to retain what is newest.
    cast = await Cast.gather(house)
    mail = await cast.write()
    async with cast.seats() as seats:
        for topic in _sendable(cast, role, mail):
            await _publish(cast, seats, role, topic, mail.letters[topic], retain=True)
        await cast.listen(seats)
        await cast.settle(seats)
        await _clear(cast, role, mail)
    kept = _retained(cast, cast.publishable(role, mail.letters))
    assert _delivered(seats, mail, retained=True) == _rightful(cast, kept, CLIENTS)


# What a filter must not be able to bring, however it is written; {id} is the subscriber's own id.
FILTERS = {
    "all": ("#",),
    "all of ours": ("pingup/#",),
    "any levels": ("+/+/+/+/+", "+/+/sys/+"),
    "branches": ("pingup/v1/up/#", "pingup/v1/down/#", "pingup/v1/live/#", "pingup/v1/sys/#"),
    "of anybody": ("pingup/v1/up/+/metrics", "pingup/v1/down/+/commands", "pingup/v1/live/+/presence"),
    "each topic by its name": (),
}


def _reach(cast: Cast, role: Role, filters: Iterable[str], topics: Iterable[str]) -> set[str]:
    """The topics that subscriptions of a role bring."""
    member = cast.members[role]
    granted = [
        one
        for one in filters
        if cast.house.ways.grants_wide_filters or any(covers(own, one) for own in filters_of(role, member.id))
    ]
    return {topic for topic in cast.receivable(role, topics) if any(matches(topic, one) for one in granted)}


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS.keys())
async def test_a_filter_brings_no_more_and_no_less_than_the_table(
    cast: Cast, filters: tuple[str, ...]
) -> None:
    mail = await cast.write()
    owned = [(topic, role) for role in Role for topic in cast.publishable(role, mail.letters)]
    topics = [topic for topic, _ in owned]
    filters = filters or tuple(topics)
    async with cast.seats() as seats:
        for seat in seats.values():
            await seat.subscribe(*filters, SYS_STATUS)
        shown = [agent.live("metrics") for agent in cast.agents.values()]
        await seats[Role.ADMIN].subscribe(SYS_REJECTS, *shown)
        for topic, role in owned:
            await _publish(cast, seats, role, topic, mail.letters[topic], retain=False)
        await cast.settle(seats)
    assert _delivered(seats, mail) == {
        (role, topic) for role, seat in seats.items() for topic in _reach(cast, role, seat.filters, topics)
    }


async def test_a_shared_subscription_brings_nothing_beyond_the_table(cast: Cast) -> None:
    mail = await cast.write()
    async with cast.seats() as seats:
        for role, seat in seats.items():
            shared = [f"$share/{role.name}/{one}" for one in ("#", "pingup/#", "pingup/v1/up/+/+")]
            await seat.subscribe(SYS_STATUS, *shared)
        await seats[Role.ADMIN].subscribe("pingup/v1/sys/#", "pingup/v1/live/#")
        for role in Role:
            for topic in cast.publishable(role, mail.letters):
                await _publish(cast, seats, role, topic, mail.letters[topic], retain=False)
        await cast.settle(seats)
    assert _delivered(seats, mail) <= _rightful(cast, mail.letters, CLIENTS)


async def _die(house: House, member: Member, will: Will) -> None:
    """Connect with a will and go without a word, as a device without power does."""
    greeting = connect(member.client_id, member.user, member.password, will=will)
    async with house.peer(greeting) as peer:
        with suppress(EOFError, ConnectionError):
            await peer.read()


@pytest.mark.parametrize("role", CLIENTS, ids=lambda role: role.name)
async def test_a_will_goes_only_where_its_owner_may_publish(cast: Cast, role: Role) -> None:
    mail = await cast.write()
    member = cast.members[role]
    async with cast.seats(absent=role) as others:
        await cast.listen(others)
        for topic, payload in mail.letters.items():
            await _die(cast.house, member, Will(topic, payload, retain=True))
        # One client id has one connection: when this one is let in, those before it are over.
        async with cast.house.seat(member, *cast.all_filters(role)) as seat:
            everybody = {**others, role: seat}
            await cast.settle(everybody)
            admin = everybody[Role.ADMIN]
            await admin.subscribe("pingup/#")
            await cast.settle(everybody)
    permitted = cast.publishable(role, mail.letters)
    assert _delivered(others, mail) == _rightful(cast, permitted, others)
    retained = mail.arrived(one for one in admin.heard if one.retain)
    assert retained == _retained(cast, permitted)


@pytest.mark.parametrize("house", OUTSIDE, indirect=True)
async def test_the_servers_account_at_a_broker_can_do_no_more_than_the_table(cast: Cast) -> None:
    assert isinstance(cast.house, OutsideHouse)
    mail = await cast.write()
    agents, server = cast.agents, cast.house.server_account()
    async with cast.seats() as seats, cast.house.vacated():
        await cast.listen(seats)
        for topic, payload in mail.letters.items():
            await _die(cast.house, server, Will(topic, payload))
        async with cast.house.seat(server, "#", "pingup/#", *mail.letters) as seat:
            for topic, payload in mail.letters.items():
                await seat.publish(topic, payload)
            for role, agent in agents.items():
                for topic in cast.publishable(role, mail.letters):
                    await seats[role].publish(topic, mail.letters[topic])
                await seats[role].publish(agent.up("metrics"), b"end")
                await seat.until(lambda one: one.payload == b"end")
            await seat.publish(SYS_STATUS, b"end")
            for other in seats.values():
                await other.until(lambda one: one.payload == b"end" and one.topic == SYS_STATUS)
    own = cast.publishable(Role.SERVER, mail.letters)
    known = {topic for role in agents for topic in cast.publishable(role, mail.letters)}
    overheard = {SYS_STATUS} if cast.house.ways.server_hears_its_own_status else set()
    assert mail.arrived(seat.heard) == known | overheard
    assert known <= cast.receivable(Role.SERVER, mail.letters)
    assert _delivered(seats, mail) == _rightful(cast, own | known, CLIENTS)
