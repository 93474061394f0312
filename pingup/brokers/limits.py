"""How much the embedded broker takes from its clients, and how long it waits for them."""

from __future__ import annotations

import msgspec

KIB = 1024
MIB = 1024 * KIB


class Limits(msgspec.Struct, frozen=True):
    """Bounds of the embedded broker. Times are in seconds, sizes in bytes."""

    connections: int = 20_000
    sessions: int = 20_000
    """Kept and connected ones; the one that has been offline for longest makes room for a new one."""
    session_expiry: int = 86_400
    filters: int = 64
    """Subscriptions of one client."""
    routes: int = 10_000
    """Topics of which is remembered who gets their messages, some 200 bytes each."""

    connect_within: float = 10.0
    other_bytes: int = 16 * KIB
    """Any packet but PUBLISH."""
    payload_bytes: int = MIB
    overhead_bytes: int = KIB
    """What a PUBLISH may have beside its payload."""

    unacknowledged: int = 1_000
    """Messages of one connection that wait for their commit; reading pauses above."""
    unacknowledged_bytes: int = 4 * MIB
    unreleased: int = 1_000
    """QoS 2 messages of one session that wait for their PUBREL; the oldest is forgotten above."""

    in_flight: int = 100
    """QoS 1 messages on their way to one client at a time."""
    in_flight_bytes: int = MIB
    queued: int = 1_000
    """QoS 1 messages of one session that wait behind them, or for it to come back."""
    queued_bytes: int = 4 * MIB
    write_buffer: int = MIB
    """QoS 0 messages are dropped while more than this waits to be written to their reader."""
    write_buffer_pause: int = 4 * MIB
    """Nothing more is read from a client that leaves this much of its answers unread…"""
    stall: float = 60.0
    """…and it is closed when that lasts this long."""

    acknowledge_within: float = 10.0
    """How long `deliver` waits for a receiver's PUBACK."""
    will_within: float = 10.0
    """How long a will waits for room in the server, when its store is down; then it is lost."""
    close_within: float = 5.0
    """How long a closing broker waits for commits, and then for unread answers."""
