"""The measuring side of `pingup bench`: its load is what agents send, and it notices what goes wrong."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from pingup import codec, signing
from pingup.bench.generator import send_once
from pingup.bench.load import Kind, Load, Sent, percentile
from pingup.bench.messages import Author, device
from pingup.bench.report import Measurement, Target, ratio, table
from pingup.bench.scripts import MAX_PACKET_ID, Publishing, scripts
from pingup.bench.server import Unmeasured
from pingup.bench.stored import check_count
from pingup.model import AgentKey, Algorithm, Sample, TelemetryReport
from pingup.storage.duckdb import migrate
from pingup.topics import Kind as Topic

NOON = 1_772_013_600_000_000  # microseconds


def decoded(message: bytes, number: int) -> TelemetryReport:
    who = device(number)
    signing.verify(
        message, AgentKey(who.id, Algorithm.HMAC_SHA256, who.secret, None, signing.hash_token(who.token))
    )
    report = codec.decode(Topic.METRICS, message)
    assert isinstance(report, TelemetryReport)
    assert report.agent_id == who.id
    return report


def test_a_sample_is_signed_and_numbered_as_an_agent_would() -> None:
    author = Author(device(7), numbered=True, first_seq=100)
    first, second = (decoded(author.sample(NOON + step), 7) for step in range(2))
    assert first.numbering is not None
    assert second.numbering is not None
    assert (first.numbering.seq, first.numbering.first) == (100, 1)
    assert (second.numbering.seq, second.numbering.first) == (101, 101)
    assert isinstance(first.records[0], Sample)
    assert first.records[0].timestamp.timestamp() == NOON / 1e6


def test_a_batch_holds_a_sample_for_each_moment() -> None:
    report = decoded(Author(device(0)).batch([NOON, NOON + 1, NOON + 2]), 0)
    assert report.batch
    assert report.numbering is None
    assert len({record.timestamp for record in report.records}) == 3


@pytest.mark.parametrize("samples", [1, 3])
def test_no_two_samples_of_a_load_are_repeats(samples: int) -> None:
    load = Load(kind=Kind.MQTT, agents=5, each=4, connections=2, samples=samples)
    moments = [moment for script in scripts(load) for moment in script.moments]
    assert len(set(moments)) == len(moments) == load.messages


def publishing(count: int) -> Publishing:
    return Publishing(device(0), ((b"t", b"x", number) for number in range(count)))


def pubacks(numbers: Iterator[int] | range) -> bytes:
    return b"".join(b"\x40\x02" + (number % MAX_PACKET_ID + 1).to_bytes(2, "big") for number in numbers)


def test_answers_are_counted_across_the_end_of_the_packet_ids() -> None:
    received = pubacks(range(MAX_PACKET_ID - 2, MAX_PACKET_ID * 2 + 5))
    found, size = publishing(1).count_answers(received + b"\x40", MAX_PACKET_ID - 2)
    assert found == MAX_PACKET_ID + 7
    assert size == len(received)


def test_a_puback_out_of_turn_is_noticed() -> None:
    with pytest.raises(Unmeasured, match="whose turn it is"):
        publishing(3).count_answers(pubacks(range(2, 3)), 0)


@contextmanager
def peer(*answers: bytes) -> Iterator[int]:
    """A server that says one thing after the other, whatever it hears, and hangs up."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            for answer in answers:
                connection.recv(1 << 16)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


@pytest.mark.parametrize("timed", [True, False])
def test_a_server_that_hangs_up_is_no_measurement(timed: bool) -> None:
    load = Load(kind=Kind.MQTT, agents=1, each=2, connections=1, window=2, timed=timed)
    with peer(b"\x20\x02\x00\x00", pubacks(range(1))) as port, pytest.raises(Unmeasured, match="ended"):
        send_once(load, port)


def test_a_call_that_is_refused_is_no_measurement() -> None:
    refusal = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nX: y\r\n\r\n{}"
    load = Load(kind=Kind.POST, agents=1, each=1, connections=1)
    with peer(refusal) as port, pytest.raises(Unmeasured, match="503"):
        send_once(load, port)


def test_samples_that_are_missing_in_the_database_are_no_measurement(tmp_path: Path) -> None:
    migrate(tmp_path / "analytics.duckdb")
    with duckdb.connect(tmp_path / "analytics.duckdb") as connection:
        connection.execute("INSERT INTO metrics (agent_id, timestamp) VALUES ('a', now()::TIMESTAMP)")
    assert check_count(tmp_path, 1) == "1 samples sent, as many rows in the database"
    with pytest.raises(Unmeasured, match="1 samples are in the database, 2 were sent"):
        check_count(tmp_path, 2)


def test_a_generator_that_needs_a_whole_core_says_that_it_was_the_limit() -> None:
    assert Sent(0, 2.0, 10, 1.9, [], {}).was_limit
    assert not Sent(0, 2.0, 10, 1.0, [], {}).was_limit


def test_percentiles_are_by_nearest_rank() -> None:
    ordered = [number / 1000 for number in range(1, 101)]
    assert (percentile(ordered, 50), percentile(ordered, 99)) == (50, 99)
    assert percentile([0.007], 99) == 7


def test_a_ratio_is_taken_pair_by_pair_and_told_with_its_target() -> None:
    found = ratio("ours / theirs", [90, 10], [100, 10], Target(0.9, at_least=True))
    assert found.values == [0.9, 1]
    assert found.is_met
    told = table([found, Measurement("slow", "ms", [20], Target(5), "why")])
    assert "| ours / theirs | ≥ 0.9 × | 0.95 × |   0.9–1 | yes |" in told
    assert "- slow: why" in told
