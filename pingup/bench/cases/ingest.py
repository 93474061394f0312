"""How fast samples that agents publish through Mosquitto are stored, next to those who only receive them."""

from __future__ import annotations

from collections.abc import Iterator

from pingup.bench.behind import Behind, Taken, busy
from pingup.bench.generator import Generator
from pingup.bench.load import Kind, Load
from pingup.bench.peers import bare_session, mosquitto_sub, receive_all
from pingup.bench.report import Measurement, Target, ratio
from pingup.bench.stage import Stage
from pingup.topics import ROOT

OF_MOSQUITTO_SUB = Target(0.9, at_least=True)
CPU = Target(15)
MEMORY = Target(160)
BATCHED = Target(300_000, at_least=True)
AGENTS = 100
MESSAGES = 100_000
BATCHES = 5_000
BATCH = 100  # samples
WINDOW = 1_000
_LIVE = f"{ROOT}/live/#"


def measure(stage: Stage) -> Iterator[Measurement]:
    yield from _single(stage)
    yield from _batched(stage)


def _load(stage: Stage, usual: int, first_seq: int, *, numbered: bool = True, samples: int = 1) -> Load:
    return Load(
        kind=Kind.MQTT,
        agents=AGENTS,
        each=stage.amount(usual // AGENTS),
        connections=AGENTS,
        samples=samples,
        numbered=numbered,
        first_seq=first_seq,
        window=WINDOW,
        timed=False,
    )


def _single(stage: Stage) -> Iterator[Measurement]:
    behind = Behind(stage, AGENTS)
    numbered: list[Taken] = []
    watched: list[Taken] = []
    bare: list[Taken] = []
    peer: list[float] = []
    session: list[float] = []
    seq = 1
    for _ in stage.runs():
        load = _load(stage, MESSAGES, seq)
        with Generator.start(load) as generator:
            numbered.append(behind.take(generator))
            peer.append(receive_all(mosquitto_sub, generator, stage.new_directory("peer")))
            session.append(receive_all(bare_session, generator, stage.new_directory("peer")))
        with Generator.start(_load(stage, MESSAGES, seq + load.each)) as generator:
            watched.append(behind.take(generator, watched=_LIVE))
        with Generator.start(_load(stage, MESSAGES, 1, numbered=False)) as generator:
            bare.append(behind.take(generator))
        seq += 2 * load.each
    checked = behind.checked()
    yield from _rows("ingest", numbered, f"{AGENTS} agents; {busy(numbered)}; {checked}")
    yield Measurement("ingest: mosquitto_sub", "/s", peer, note="-q 1 >/dev/null, same messages and broker")
    yield ratio("ingest / mosquitto_sub", [one.rate for one in numbered], peer, OF_MOSQUITTO_SUB)
    yield Measurement("ingest: bare session", "/s", session, note="acknowledges all and stores nothing")
    yield Measurement("ingest: largest memory", "MB", [one.peak for one in numbered], MEMORY)
    yield from _rows("ingest, live watched", watched, busy(watched))
    yield from _rows("ingest, not numbered", bare, busy(bare))


def _rows(name: str, taken: list[Taken], note: str) -> Iterator[Measurement]:
    yield Measurement(name, "/s", [one.rate for one in taken], note=note)
    yield Measurement(f"{name}: CPU per message", "µs", [one.cpu for one in taken], CPU)


def _batched(stage: Stage) -> Iterator[Measurement]:
    behind = Behind(stage, AGENTS)
    taken: list[Taken] = []
    peer: list[float] = []
    seq = 1
    for _ in stage.runs():
        load = _load(stage, BATCHES, seq, samples=BATCH)
        with Generator.start(load) as generator:
            taken.append(behind.take(generator, samples=BATCH))
            peer.append(receive_all(mosquitto_sub, generator, stage.new_directory("peer")))
        seq += load.each
    note = f"messages of {BATCH} samples, counted by the sample; {busy(taken)}; {behind.checked()}"
    yield Measurement("ingest, batches", "/s", [one.rate * BATCH for one in taken], BATCHED, note)
    yield Measurement("ingest, batches: CPU per sample", "µs", [one.cpu / BATCH for one in taken])
    yield Measurement("ingest, batches: mosquitto_sub", "/s", [one * BATCH for one in peer])
