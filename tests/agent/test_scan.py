"""Scans of loopback, with real sockets that listen."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pingup.agent.collect import NO_ANSWER, Collector
from pingup.agent.discover import _fit
from pingup.agent.messages import number
from pingup.agent.probe import Address, connect_time, resolve
from pingup.agent.scan import check_ranges, scan
from pingup.agent.settings import LatencyTuning, Tuning
from pingup.codec import MAX_BULK_BYTES, decode
from pingup.model import Host, Scan, TelemetryReport
from pingup.topics import Kind
from tests.agent.rig import ID, by_secret, now, rig

ANYWHERE = ("0.0.0.0/0", "::/0")


@contextmanager
def listening(host: str) -> Iterator[int]:
    """A socket that accepts connections; its port."""
    with socket.create_server((host, 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that is taken, so nobody else gets it, and accepts nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def test_a_scan_finds_the_hosts_and_ports_that_accept() -> None:
    with listening("127.0.0.2") as web, listening("127.0.0.2") as mail, listening("127.0.0.3") as other:
        plan = check_ranges(["127.0.0.0/29"], [web, mail, other], ANYWHERE)
        found = await scan(ID, now(), plan)
    assert [(host.ip, host.ports) for host in found.hosts] == [
        ("127.0.0.2", tuple(sorted([web, mail]))),
        ("127.0.0.3", (other,)),
    ]
    assert all(host.latency is not None and 0 <= host.latency < 1000 for host in found.hosts)
    assert 0 <= found.duration < 10_000


async def test_an_empty_scan_is_a_scan() -> None:
    with closed_port() as port:
        found = await scan(ID, now(), check_ranges(["127.0.0.1"], [port], ANYWHERE))
    assert found.hosts == ()


async def test_a_scan_opens_no_more_connections_than_it_may() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closed_port() as port:
        plan = check_ranges(["127.0.0.0/24"], [port], ANYWHERE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(_open_files()) + 8, hard))
        try:
            found = await scan(ID, now(), plan, concurrency=4)
            with pytest.raises(OSError, match="Too many open files"):
                await scan(ID, now(), plan, concurrency=64)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found.hosts == ()


def _open_files() -> list[Path]:
    return list(Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(
    ("ranges", "ports", "problem"),
    [
        (["10.0.0.0/15"], [80], "131,072 addresses, one scan takes at most 65,536"),
        (["10.0.0.0/16", "10.1.0.0/32"], [80], "65,537 addresses"),
        (["2001:db8::/64"], [80], "addresses, one scan takes at most"),
        (["10.0.0.0/16"], range(1, 18), "65,536 addresses by 17 ports, one scan tries at most 1,048,576"),
        (["10.0.0.1"], range(1, 5000), "4,999 ports, one scan takes at most 4,096"),
        (["nonsense"], [80], "'nonsense' does not appear to be an IPv4 or IPv6 network"),
    ],
)
def test_a_scan_that_is_too_large_is_refused_in_words(
    ranges: list[str], ports: list[int], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        check_ranges(ranges, ports, ANYWHERE)


def test_a_range_reaches_no_further_than_the_device_allows() -> None:
    assert len(check_ranges(["10.0.0.0/25"], [80], ["10.0.0.0/24"]).networks) == 1
    # Two allowed halves are one allowed whole.
    assert len(check_ranges(["10.0.0.0/24"], [80], ["10.0.0.0/25", "10.0.0.128/25"]).networks) == 1
    for outside in ("10.0.0.0/23", "10.0.1.1", "::1"):
        with pytest.raises(ValueError, match="is outside of what this agent is allowed to scan"):
            check_ranges([outside], [80], ["10.0.0.0/24"])


def test_what_overlaps_is_tried_once() -> None:
    plan = check_ranges(["127.0.0.0/30", "127.0.0.1/32"], [80, 80], ANYWHERE)
    assert [str(ip) for ip, _ in plan.probes()] == ["127.0.0.1", "127.0.0.2"]


@pytest.mark.mosquitto
async def test_scan_network_sends_what_it_found_and_a_summary(tmp_path: Path) -> None:
    with listening("127.0.0.1") as port:
        async with rig(tmp_path, scan__ranges=["127.0.0.1/32"], scan__ports=[port]) as (server, *_):
            status, result = await server.run("scan_network")
            report = await server.expect(TelemetryReport, lambda report: isinstance(report.records[0], Scan))
    assert status == "completed"
    assert result.pop("duration") >= 0
    assert result == {"hosts": 1, "openPorts": 1}
    found = report.records[0]
    assert isinstance(found, Scan)
    assert [(host.ip, host.ports) for host in found.hosts] == [("127.0.0.1", (port,))]


@pytest.mark.mosquitto
async def test_scan_network_stays_within_the_configured_ranges(tmp_path: Path) -> None:
    with closed_port() as port:
        async with rig(tmp_path, scan__ranges=["127.0.0.0/30"]) as (server, *_):
            inside = {"ranges": ["127.0.0.1"], "ports": [port]}
            assert (await server.run("scan_network", inside))[0] == "completed"
            params: dict[str, Any]
            for params in ({"ranges": ["127.0.0.0/8"]}, {"ranges": ["x"]}, {"ports": [-1]}, {"ports": []}):
                status, result = await server.run("scan_network", params)
                assert status == "rejected"
                assert result["error"]


@pytest.mark.mosquitto
async def test_an_agent_without_ranges_scans_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as (server, *_):
        status, result = await server.run("scan_network")
    assert (status, result) == ("rejected", {"error": "this agent has no ranges to scan"})


@pytest.mark.mosquitto
async def test_scans_come_by_themselves_when_an_interval_is_set(tmp_path: Path) -> None:
    with listening("127.0.0.1") as port:
        flags = {"scan.ranges": ["127.0.0.1/32"], "scan.ports": [port], "scan.interval": 1}
        async with rig(tmp_path, **flags) as (server, *_):
            await server.expect(TelemetryReport, lambda report: isinstance(report.records[0], Scan))


def test_a_scan_that_is_too_large_for_a_message_is_cut_at_its_end() -> None:
    first = int(ip_address("10.0.0.0"))
    hosts = tuple(Host(str(ip_address(first + number)), 12, (22, 80, 443)) for number in range(20_000))
    body, left_out = _fit(Scan(ID, now(), 1, hosts))
    message = by_secret(number(body, "f" * 16, 2**63 - 1, 2**63 - 1))
    assert len(message) <= MAX_BULK_BYTES
    report = decode(Kind.DISCOVERY, message)
    assert isinstance(report, TelemetryReport)
    kept = report.records[0]
    assert isinstance(kept, Scan)
    assert kept.hosts == hosts[: len(hosts) - left_out]
    assert len(message) > MAX_BULK_BYTES * 0.8


# --- latency -----------------------------------------------------------------------------------------


async def test_latency_is_the_time_to_connect() -> None:
    with listening("127.0.0.1") as port:
        latency = await connect_time(ip_address("127.0.0.1"), port, 5.0)
        assert latency is not None
        assert 0 < latency < 5000
        sample = await Collector(Address("localhost", port)).measure(Tuning())
        assert 0 < sample.latency < 5000


async def test_a_refused_connection_and_an_unknown_name_are_no_answer() -> None:
    with closed_port() as port:
        assert await connect_time(ip_address("127.0.0.1"), port, 5.0) is None
        target = LatencyTuning(target=f"127.0.0.1:{port}")
        assert (await Collector(Address("localhost", 1)).measure(Tuning(latency=target))).latency == NO_ANSWER
    for name in ("no.such.host.invalid", "x" * 64, "a\0b", ""):
        assert await resolve(name, 5.0) is None or name == ""


async def test_where_echo_requests_cannot_be_sent_latency_is_measured_by_tcp() -> None:
    with listening("127.0.0.1") as port:
        tuning = Tuning(latency=LatencyTuning(method="icmp"))
        sample = await Collector(Address("127.0.0.1", port)).measure(tuning)
    assert sample.latency != NO_ANSWER


async def test_a_disk_that_is_not_there_leaves_the_other_metrics() -> None:
    with closed_port() as port:
        collector = Collector(Address("127.0.0.1", port))
        sample = await collector.measure(Tuning(disk="/no/such/disk"))
        assert sample.disk is None
        assert 0 < sample.ram < 100
        assert (await collector.measure(Tuning(disk="/"))).disk is not None
