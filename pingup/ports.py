"""What the services need from the rooms above and beside them, as Protocols; they never know the makers.

Every method may raise `Unavailable`. Stores run their work in threads of their own and never block the loop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol

from pingup.model import (
    Account,
    Agent,
    AgentKey,
    ApiToken,
    Command,
    CommandStatus,
    ConfigReport,
    ConfigVersion,
    Deposit,
    Presence,
    Reconciled,
    ReportedConfig,
    Run,
    Sample,
    Scan,
    Span,
)
from pingup.rollups import Bucket, Rollup


class TelemetryStore(Protocol):
    """Time series: samples and scans, and which numbered messages brought them."""

    async def store(self, deposit: Deposit) -> list[bool]:
        """Commit it in one transaction; for each record whether it was new, False for a repeat.

        A repeat has the agent, timestamp and values of a stored record or of an earlier one of the deposit.
        Runs are kept whether records are new or not.

        Raises:
            Unstorable: something in it can't be stored; nothing of it was, and the store goes on.
            Unavailable: the store can't work now; nothing of it was stored.
        """
        ...

    async def runs(self) -> list[Run]:
        """What was kept of numbered messages, in no order; runs of one stream may touch or overlap.

        Of an agent's streams the 16 heard of last are kept for sure, and of a stream the highest 4,096 runs
        of each fate.
        """
        ...

    async def samples(self, agent_id: str, span: Span) -> list[Sample]:
        """A page of an agent's samples, by timestamp; records of one moment always in the same order."""
        ...

    async def buckets(self, agent_id: str, rollup: Rollup) -> list[Bucket]:
        """A page of an agent's samples rolled up, only buckets in which there are some.

        Raises:
            Invalid: there are too many samples in a bucket to find percentiles.
        """
        ...

    async def newest_samples(self, agent_ids: Sequence[str] | None = None) -> list[Sample]:
        """The newest sample of each agent, of these agents or of all, by agent id."""
        ...

    async def scans(self, agent_id: str, span: Span) -> list[Scan]:
        """A page of an agent's scans, whole ones, by timestamp."""
        ...

    async def has(self, agent_id: str) -> bool:
        """Whether anything of this agent is stored."""
        ...

    async def newest(self) -> datetime | None:
        """The newest moment of all that is stored, by its sender's clock."""
        ...

    async def purge(self, agent_id: str) -> None:
        """Delete all of an agent's telemetry, and what is known of its streams."""
        ...

    async def forget(self, samples_before: datetime, scans_before: datetime) -> None:
        """Delete what is older than the retention, and streams of which nothing was heard since."""
        ...

    async def sort(self, before: datetime) -> bool:
        """Sort the oldest stretch of telemetry that ended before, so that it is read faster.

        Whether there was one. It takes a second or so; meanwhile everything else goes on.
        """
        ...

    async def check(self) -> None:
        """Return if the store works."""
        ...


class AgentStore(Protocol):
    """Agents and their keys. Secrets are sealed on the way in and opened on the way out."""

    async def add(self, agent: Agent, key: AgentKey) -> None:
        """Raises Conflict when the id exists."""
        ...

    async def get(self, agent_id: str) -> Agent | None: ...

    async def page(
        self, *, status: Presence | None, tag: str | None, query: str | None, limit: int, after: str | None
    ) -> list[Agent]:
        """Agents by id; `query` is looked for in id and name; `after` is the last id of the page before."""
        ...

    async def change(
        self,
        agent_id: str,
        *,
        name: str | None = None,
        metadata: dict[str, Any] | None = None,
        tags: Sequence[str] | None = None,
    ) -> Agent | None:
        """Change what is given and leave what is None; None when there is no such agent."""
        ...

    async def remove(self, agent_id: str) -> bool:
        """Delete the agent, its key, its commands and its configurations; False if there was none."""
        ...

    async def mark(self, seen: Iterable[tuple[str, Presence, datetime | None]]) -> None:
        """Write presence and last-seen of many agents in one transaction; None leaves last-seen alone."""
        ...

    async def keys(self) -> list[AgentKey]:
        """Every agent's key, opened."""
        ...


class CommandStore(Protocol):
    """Commands, with each change of state."""

    async def add(self, command: Command) -> None:
        """Raises NotFound when there is no such agent."""
        ...

    async def get(self, command_id: str) -> Command | None:
        """The command with its history."""
        ...

    async def page(
        self,
        *,
        agent_id: str | None,
        status: CommandStatus | None,
        limit: int,
        after: tuple[datetime, str] | None,
    ) -> list[Command]:
        """Newest first, without histories; `after` is creation time and id of the last one shown."""
        ...

    async def undelivered(self, agent_id: str | None, now: datetime) -> list[Command]:
        """Commands pending or sent that still live, oldest first: of one agent or of all."""
        ...

    async def overdue(self, now: datetime) -> list[str]:
        """Ids of commands pending or sent whose time is over."""
        ...

    async def move(
        self,
        command_id: str,
        sources: Sequence[CommandStatus],
        target: CommandStatus,
        at: datetime,
        result: str | None = None,
    ) -> bool:
        """Go to `target` if the command is in one of `sources` now; False, and nothing changed, if not."""
        ...


class ConfigStore(Protocol):
    """Configurations by agent, every version kept."""

    async def get(self, agent_id: str, version: int | None = None) -> ConfigVersion | None:
        """The newest version, or the given one."""
        ...

    async def add(
        self, agent_id: str, config: dict[str, Any], at: datetime, expected: int | None
    ) -> ConfigVersion:
        """Make the next version.

        Raises:
            NotFound: there is no such agent.
            PreconditionFailed: the newest version is not the expected one.
        """
        ...

    async def history(self, agent_id: str, limit: int) -> list[ConfigVersion]:
        """All versions, newest first."""
        ...

    async def newest(self) -> list[ConfigVersion]:
        """The newest version of every agent that has one."""
        ...

    async def report(self, report: ConfigReport, at: datetime) -> None:
        """Keep an agent's report, unless a newer one (by its own time) is known. Unknown agents: nothing."""
        ...

    async def reported(self, agent_id: str) -> ReportedConfig | None: ...


class TokenStore(Protocol):
    """API tokens, by their SHA-256."""

    async def add(self, token: ApiToken, token_hash: bytes) -> None: ...

    async def all(self) -> list[tuple[ApiToken, bytes]]: ...

    async def remove(self, token_id: str) -> bool: ...

    async def used(self, seen: Iterable[tuple[str, datetime]]) -> None:
        """Write when tokens were last used."""
        ...


class SettingStore(Protocol):
    """Small things that the server keeps for itself by name, sealed: its Ed25519 seed, for one."""

    async def read(self, name: str) -> bytes | None: ...

    async def write(self, name: str, value: bytes) -> None: ...


class Registry(Protocol):
    """The store of agents, commands, configurations and tokens, a noun each."""

    @property
    def agents(self) -> AgentStore: ...
    @property
    def commands(self) -> CommandStore: ...
    @property
    def configs(self) -> ConfigStore: ...
    @property
    def tokens(self) -> TokenStore: ...
    @property
    def settings(self) -> SettingStore: ...

    async def check(self) -> None:
        """Return if the store works."""
        ...


class Downlink(Protocol):
    """The way out to agents and people: the broker, seen from the services."""

    def is_listening(self, agent_id: str) -> bool:
        """Whether the agent is connected and would get a command now, as far as the broker tells us."""
        ...

    async def deliver(
        self, topic: str, payload: bytes, *, retain: bool = False, expires_at: datetime | None = None
    ) -> bool:
        """Publish with QoS 1; whether an agent that was connected got it, as far as the broker tells.

        An empty retained payload clears the topic. A message is never kept beyond `expires_at`.
        """
        ...

    def is_watched(self, topic: str) -> bool:
        """Whether somebody may be there who gets what is emitted on this topic; asked of every sample."""
        ...

    def emit(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish with QoS 0 and go on at once; slow readers lose it."""
        ...

    def keep(self, topic: str, payload: bytes) -> None:
        """Retain a message for those who come later; who watches now has seen it."""
        ...

    def end_sessions(self, principal_id: str) -> None:
        """Close every connection of this agent, or of the operator with this token id; forget its session."""
        ...


class AccountStore(Protocol):
    """A broker's own list of who may come in, where it can be changed while the broker runs.

    Other people's accounts in it are never touched. Whose account is changed or removed is disconnected.
    """

    async def reconcile(self, wanted: Sequence[Account], *, spared: Collection[str] = ()) -> Reconciled:
        """Bring in exactly these accounts, changing nothing that is right already; `spared` stay as they are.

        Raises:
            NotAllowed: the broker doesn't let us.
        """
        ...

    async def settle(self, username: str, account: Account | None) -> Reconciled:
        """Bring in, change or (None) remove this one account; for when all others are known to be right.

        Raises:
            NotAllowed: the broker doesn't let us.
        """
        ...

    async def rest(self) -> None:
        """There is nothing to do for now: close what is open. The next call opens it again."""
        ...
