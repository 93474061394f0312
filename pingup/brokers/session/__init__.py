"""Our own MQTT 5 client: small, over the codec `mqtt5`, without a topic of ours in it.

Client: keeps a connection up     client.py
connect, dial                     dialling.py
Connection: publish, subscribe    connection.py, unacknowledged.py, in_flight.py
Line: socket, keep-alive, end     line.py, pulse.py
bytes ↔ packets                   packets.py and the codec
"""

from __future__ import annotations

from pingup.brokers.session.client import Client
from pingup.brokers.session.connection import Connection, OnMessages, at_once
from pingup.brokers.session.dialling import check_tls, connect
from pingup.brokers.session.options import Credentials, Options, Subscription, Tls, Will
from pingup.brokers.session.packets import Message

__all__ = [
    "Client",
    "Connection",
    "Credentials",
    "Message",
    "OnMessages",
    "Options",
    "Subscription",
    "Tls",
    "Will",
    "at_once",
    "check_tls",
    "connect",
]
