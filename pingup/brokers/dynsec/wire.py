"""What travels to and from Mosquitto's dynamic security plugin, as JSON (mosquitto.org, dynamic-security).

Names are the plugin's. Tried with Mosquitto 2.0.11, which knows no `%u` in topics: each agent needs a role.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
from msgspec import UNSET, UnsetType

REQUESTS = "$CONTROL/dynamic-security/v1"
ANSWERS = f"{REQUESTS}/response"

LOWEST_PRIORITY = -1


class AclType(StrEnum):
    """What a line of a role is about."""

    SEND = "publishClientSend"
    RECEIVE = "publishClientReceive"
    SUBSCRIBE = "subscribePattern"


class Acl(msgspec.Struct, frozen=True):
    """A line of a role; of those that match, the one with the highest priority counts.

    `acltype` is any text, since others' roles may have types that we don't use.
    """

    acltype: str
    topic: str
    allow: bool = False
    priority: int = 0


class Role(msgspec.Struct, frozen=True):
    """What its holders may do."""

    rolename: str
    acls: tuple[Acl, ...] = ()


class HeldRole(msgspec.Struct, frozen=True):
    """A client's role; those of a higher priority are looked at first."""

    rolename: str
    priority: int = LOWEST_PRIORITY


class HeldGroup(msgspec.Struct, frozen=True):
    """A client's group, which may give it more roles."""

    groupname: str


class Client(msgspec.Struct, frozen=True):
    """A user, as it is listed: without the password."""

    username: str
    clientid: str | None = None
    textdescription: str | None = None
    disabled: bool = False
    roles: tuple[HeldRole, ...] = ()
    groups: tuple[HeldGroup, ...] = ()


# --- commands ----------------------------------------------------------------------------------------


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="command"):
    """One command; `mark` comes back with its answer."""

    mark: str = msgspec.field(name="correlationData", default="")


class ListClients(Command, frozen=True, tag="listClients"):
    verbose: bool = False
    count: int = -1
    offset: int = 0


class ListRoles(Command, frozen=True, tag="listRoles"):
    verbose: bool = False
    count: int = -1
    offset: int = 0


class GetClient(Command, frozen=True, tag="getClient"):
    username: str


class GetRole(Command, frozen=True, tag="getRole"):
    rolename: str


class CreateRole(Command, frozen=True, tag="createRole"):
    rolename: str
    acls: tuple[Acl, ...]


class ModifyRole(Command, frozen=True, tag="modifyRole"):
    """It counts at once, also for those who are connected."""

    rolename: str
    acls: tuple[Acl, ...]


class DeleteRole(Command, frozen=True, tag="deleteRole"):
    rolename: str


class CreateClient(Command, frozen=True, tag="createClient"):
    username: str
    password: str
    clientid: str
    textdescription: str
    roles: tuple[HeldRole, ...]


class ModifyClient(Command, frozen=True, tag="modifyClient"):
    """Ends the client's connections, whatever is modified. Without a password it keeps the one it has."""

    username: str
    clientid: str
    textdescription: str
    roles: tuple[HeldRole, ...]
    groups: tuple[HeldGroup, ...]
    password: str | UnsetType = UNSET


class DeleteClient(Command, frozen=True, tag="deleteClient"):
    """Ends the client's connections, without their wills."""

    username: str


class Request(msgspec.Struct, frozen=True):
    """What is published: commands that are carried out one after the other, failed ones skipped."""

    commands: tuple[Command, ...]


# --- answers -----------------------------------------------------------------------------------------


class Data(msgspec.Struct, frozen=True, rename={"total": "totalCount"}):
    """What was asked for."""

    total: int = 0
    clients: tuple[Client, ...] = ()
    roles: tuple[Role, ...] = ()
    client: Client | None = None
    role: Role | None = None


class Answer(msgspec.Struct, frozen=True, rename={"mark": "correlationData"}):
    """What became of a command."""

    command: str
    error: str | None = None
    mark: str = ""
    data: Data = Data()


class Response(msgspec.Struct, frozen=True):
    """What is published in return."""

    responses: tuple[Answer, ...]


class MarkedAnswer(msgspec.Struct, frozen=True, rename={"mark": "correlationData"}):
    """An answer, of which only the mark is looked at."""

    mark: str = ""


class AnyResponse(msgspec.Struct, frozen=True):
    """What everybody who may read it gets, of all who ask: others ask things that we don't."""

    responses: tuple[MarkedAnswer, ...]
