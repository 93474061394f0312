"""Whatever is done and killed, the store with a journal is what a model in a list is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import Enum, auto
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

from pingup.errors import Unstorable
from pingup.model import Deposit, Fate, Order, Record, Run, Sample, Scan
from pingup.storage.duckdb import DuckDBTelemetry
from pingup.storage.duckdb.writer import JOURNALED_BELOW
from tests.contract.telemetry_examples import (
    Model,
    all_samples,
    all_scans,
    at,
    crashed,
    opened,
    sample,
    scan,
    store,
)

AGENTS = ("A", "B")
POISON = replace(sample("B", 9), latency=2**40)
FORMAT = b"pingup journal 1\n"
TORN = b"\x40\0\0\0 half"
STEPS = 60


class Step(Enum):
    STORE = auto()
    CHOKE = auto()
    READ = auto()
    PURGE = auto()
    FORGET = auto()
    STOP = auto()
    CRASH = auto()
    CRASH_BEFORE_CLEARING = auto()
    CRASH_WHILE_ADDING = auto()


WEIGHTS = dict.fromkeys(Step, 4) | {Step.STORE: 60, Step.READ: 10}
ENDS = (Step.STOP, Step.CRASH, Step.CRASH_BEFORE_CLEARING, Step.CRASH_WHILE_ADDING)


class NumberedModel(Model):
    """And the numbers of each stream, with when it was heard of last."""

    def __init__(self) -> None:
        super().__init__()
        self._runs: list[Run] = []

    def settle(self, runs: Sequence[Run]) -> None:
        self._runs += runs

    def purge(self, agent_id: str) -> None:
        self.keep(lambda one: one.agent_id != agent_id)
        self._runs = [run for run in self._runs if run.agent_id != agent_id]

    def forget(self, before: datetime) -> None:
        self.keep(lambda one: one.timestamp >= before)
        heard = {(run.agent_id, run.stream) for run in self._runs if run.received_at >= before}
        self._runs = [run for run in self._runs if (run.agent_id, run.stream) in heard]

    def numbers(self) -> set[tuple[str, str, int]]:
        return numbers(self._runs)


def numbers(runs: Sequence[Run]) -> set[tuple[str, str, int]]:
    return {(run.agent_id, run.stream, seq) for run in runs for seq in range(run.low, run.high + 1)}


class Life:
    """What agents send, and what else happens to a store, by chance; time goes on with each step."""

    def __init__(self, seed: int) -> None:
        self._chance = Random(seed)
        self._now = 0

    def step(self) -> Step:
        self._now += 1
        [step] = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        return step

    def agent(self) -> str:
        return self._chance.choice(AGENTS)

    def moment(self) -> datetime:
        """Now, mostly; or some time ago, perhaps one that was before."""
        return at(self._now - self._chance.choice([0, 0, 0, 0, 1, 2, 10]))

    def deposit(self) -> Deposit:
        records = [self._record() for _ in range(self._chance.choice([0, 1, 1, 1, 2, 5]))]
        return Deposit(records, [self._run() for _ in range(self._chance.choice([0, 1, 1, 2]))])

    def _record(self) -> Record:
        if self._chance.random() < 0.05:
            return replace(scan(self.agent(), hosts=self._chance.randrange(3)), timestamp=self.moment())
        values = sample(self.agent(), cpu=self._chance.choice([None, 1.0]))
        return replace(values, timestamp=self.moment())

    def _run(self) -> Run:
        low, more = self._chance.randint(1, 50), self._chance.randrange(3)
        stream, heard = self._chance.choice("st"), at(self._now)
        return Run(self.agent(), stream, Fate.STORED, low, low + more, 1, heard, heard, heard)


@pytest.mark.parametrize("way", [2, JOURNALED_BELOW])
@pytest.mark.parametrize("seed", range(4))
async def test_nobody_sees_the_journal_whatever_is_done_and_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: int, seed: int
) -> None:
    # Time alone brings nothing into the tables.
    monkeypatch.setattr("pingup.storage.duckdb.telemetry._APPLY_AFTER", 3600)
    life, model, directory = Life(seed), NumberedModel(), tmp_path
    left = STEPS
    while left:
        async with opened(directory, way) as telemetry:
            await _compare(telemetry, model)
            while left:
                left -= 1
                if (step := life.step()) in ENDS:
                    directory = await _end(telemetry, directory, step)
                    break
                await _take(telemetry, model, step, life)
    async with opened(directory, way) as telemetry:
        await _compare(telemetry, model)


async def _take(telemetry: DuckDBTelemetry, model: NumberedModel, step: Step, life: Life) -> None:
    match step:
        case Step.STORE:
            deposit = life.deposit()
            assert await telemetry.store(deposit) == model.store(deposit.records)
            model.settle(deposit.runs)
        case Step.CHOKE:
            with pytest.raises(Unstorable):
                await store(telemetry, [scan(seconds=99), POISON])
        case Step.PURGE:
            agent = life.agent()
            await telemetry.purge(agent)
            model.purge(agent)
        case Step.FORGET:
            moment = life.moment()
            await telemetry.forget(moment, moment)
            model.forget(moment)
        case _:
            agent = life.agent()
            assert await all_samples(telemetry, agent) == model.history(Sample, agent, Order.ASC)


async def _end(telemetry: DuckDBTelemetry, directory: Path, how: Step) -> Path:
    """Where the next process goes on: after a crash in a copy of what it leaves."""
    if how is Step.STOP:
        return directory
    journal = directory / "analytics.journal"
    content = journal.read_bytes() if journal.exists() else b""
    if how is Step.CRASH_BEFORE_CLEARING:
        await telemetry._write(telemetry._writer.apply)
    copy = await crashed(telemetry, directory)
    if how is Step.CRASH_WHILE_ADDING:
        content = (content or FORMAT) + TORN
    if content:
        (copy / journal.name).write_bytes(content)
    return copy


async def _compare(telemetry: DuckDBTelemetry, model: NumberedModel) -> None:
    for agent in AGENTS:
        assert await all_samples(telemetry, agent) == model.history(Sample, agent, Order.ASC)
        assert await all_scans(telemetry, agent) == model.history(Scan, agent, Order.ASC)
    assert numbers(await telemetry.runs()) == model.numbers()
