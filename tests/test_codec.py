"""What agents send is read exactly, and whatever is out of bounds is refused with a reason and a place."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pingup import codec
from pingup.codec import reading
from pingup.codec.samples import parse_plain
from pingup.errors import Reason, Rejected
from pingup.model import (
    CommandReport,
    CommandStatus,
    ConfigReport,
    Host,
    Sample,
    Scan,
    StatusReport,
    TelemetryReport,
)
from pingup.topics import Kind

AT = datetime(2026, 2, 25, 10, tzinfo=UTC)
METRICS: dict[str, Any] = {
    "agentId": "AGENT-001",
    "timestamp": "2026-02-25T10:00:00Z",
    "metrics": {"cpu": 12.5, "ram": 43.2, "disk": 71.4, "latency": 8},
    "status": "online",
}
DISCOVERY: dict[str, Any] = {
    "agentId": "AGENT-001",
    "timestamp": "2026-02-25T10:00:00Z",
    "discovery": {"hosts": [{"ip": "192.168.1.1", "latency": 2, "ports": [80, 443]}], "duration": 15230},
}
HEAD = '{"agentId":"AGENT-001","timestamp":"2026-02-25T10:00:00Z"'


def decode(kind: Kind, message: dict[str, Any]) -> Any:
    return codec.decode(kind, json.dumps(message).encode())


def sample(**metrics: Any) -> Sample:
    report = decode(Kind.METRICS, {**METRICS, "metrics": metrics})
    assert isinstance(report, TelemetryReport)
    record = report.records[0]
    assert isinstance(record, Sample)
    return record


def refusal(kind: Kind, payload: bytes) -> Rejected:
    with pytest.raises(Rejected) as caught:
        codec.decode(kind, payload)
    return caught.value


def test_a_sample_is_read_into_its_columns() -> None:
    assert decode(Kind.METRICS, METRICS).records == (
        Sample("AGENT-001", AT, 12.5, 43.2, 71.4, 8, "online", None),
    )


def test_further_metrics_are_kept_by_name_and_null_means_absent() -> None:
    kept = sample(cpu=1, temp=21.5, fan=None, größe=2)
    assert kept.cpu == 1.0
    assert kept.ram is None
    assert json.loads(kept.extra or "") == {"größe": 2.0, "temp": 21.5}


def test_64_long_names_are_kept_and_what_no_page_could_show_again_is_refused() -> None:
    longest = {f"{number:064}": -1.2345678901234567e-300 for number in range(64)}
    assert json.loads(sample(**longest).extra or "") == longest
    unreadable = {**METRICS, "metrics": {chr(0x1F600 + number) * 64: 1 for number in range(64)}}
    refused = refusal(Kind.METRICS, json.dumps(unreadable, ensure_ascii=False).encode())
    assert refused.reason is Reason.INVALID
    assert refused.detail.endswith("at most 6,144 are allowed - at `$.metrics`")


def test_64_further_metrics_are_kept_beside_the_four_and_those_that_are_null() -> None:
    further = {f"n{number}": float(number) for number in range(64)}
    nulls = dict.fromkeys(f"x{number}" for number in range(64))
    assert json.loads(sample(cpu=1, ram=2, disk=3, latency=4, **further, **nulls).extra or "") == further


def test_the_order_of_further_metrics_makes_no_difference() -> None:
    assert sample(a=1, b=2).extra == sample(b=2.0, a=1.0).extra


def test_a_timestamp_is_read_with_its_offset_to_the_microsecond() -> None:
    report = decode(Kind.METRICS, {**METRICS, "timestamp": "2026-02-25T12:00:00.123456+02:00"})
    assert report.sent_at == AT.replace(microsecond=123456)
    assert report.sent_at.tzinfo is UTC


@pytest.mark.parametrize(
    ("sent", "stored"),
    [(8, 8), (8.4, 8), (8.5, 9), (0, 0), (-1, None), (-0.1, None), (2**31 - 1, 2**31 - 1), (None, None)],
)
def test_latency_is_rounded_to_milliseconds_and_below_zero_means_no_answer(
    sent: float | None, stored: int | None
) -> None:
    assert sample(cpu=1, latency=sent).latency == stored


def test_a_batch_keeps_each_samples_time() -> None:
    items = [{**METRICS, "timestamp": f"2026-02-25T10:00:0{second}Z"} for second in range(3)]
    report = decode(Kind.METRICS, {"agentId": "A", "timestamp": "2026-02-25T11:00:00Z", "samples": items})
    assert report.batch
    assert [record.timestamp.second for record in report.records] == [0, 1, 2]
    assert {record.agent_id for record in report.records} == {"A"}


def test_a_scan_is_read_with_its_hosts() -> None:
    hosts = [
        {
            "ip": "192.168.1.1",
            "latency": 2.5,
            "ports": [80, 443],
            "mac": "aa:bb:cc:dd:ee:ff",
            "hostname": "gw",
        },
        {"ip": "2001:DB8::1", "latency": -1, "ports": []},
    ]
    report = decode(Kind.DISCOVERY, {**DISCOVERY, "discovery": {"hosts": hosts, "duration": 15230.4}})
    assert report.records == (
        Scan(
            "AGENT-001",
            AT,
            15230,
            (
                Host("192.168.1.1", 3, (80, 443), "aa:bb:cc:dd:ee:ff", "gw"),
                Host("2001:db8::1", None, ()),
            ),
        ),
    )


def test_an_empty_scan_is_a_scan() -> None:
    report = decode(Kind.DISCOVERY, {**DISCOVERY, "discovery": {"hosts": [], "duration": 1}})
    assert report.records == (Scan("AGENT-001", AT, 1, ()),)


def test_a_birth_a_result_and_a_config_report_are_read() -> None:
    envelope = {"agentId": "A", "timestamp": "2026-02-25T10:00:00Z"}
    birth = {**envelope, "session": "s1", "status": "online", "version": "1.2", "interval": 10}
    assert decode(Kind.STATUS, birth) == StatusReport("A", AT, "s1", True, "1.2", 10.0)
    result = {**envelope, "commandId": "CMD-1", "status": "completed", "result": {"out": [1, "x"]}}
    assert decode(Kind.RESULTS, result) == CommandReport(
        "A", AT, "CMD-1", CommandStatus.COMPLETED, '{"out": [1, "x"]}'
    )
    report = {**envelope, "version": 3, "applied": False, "error": "no such range"}
    assert decode(Kind.CONFIG, report) == ConfigReport("A", AT, 3, False, "no such range")


def test_unknown_members_are_ignored() -> None:
    assert decode(Kind.METRICS, {**METRICS, "x": {"y": [1, 2, {"z": None}]}}).records[0].cpu == 12.5


def test_digits_and_brackets_inside_strings_are_only_text() -> None:
    note = "1" * 200 + "[{" * 50 + '\\"' + "1e999"
    assert decode(Kind.METRICS, {**METRICS, "note": note}).records[0].cpu == 12.5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"{", Reason.MALFORMED),
        (b"[]", Reason.INVALID),
        (b"\xff\xfe{}", Reason.MALFORMED),
        (f'{HEAD},"metrics":{{"cpu":NaN}},"status":"online"}}'.encode(), Reason.MALFORMED),
        (f'{HEAD},"metrics":{{"cpu":Infinity}},"status":"online"}}'.encode(), Reason.MALFORMED),
        (f'{HEAD},"metrics":{{"cpu":1e999}},"status":"online"}}'.encode(), Reason.INVALID),
        (f'{HEAD},"metrics":{{"cpu":{"9" * 100}}},"status":"online"}}'.encode(), Reason.INVALID),
        (f'{HEAD},"metrics":{{"cpu":18446744073709551616}},"status":"online"}}'.encode(), Reason.INVALID),
        (f'{HEAD},"metrics":{{"cpu":-9223372036854775809}},"status":"online"}}'.encode(), Reason.INVALID),
        (f'{HEAD},"metrics":{{"cpu":1}},"status":"online","x":1e999}}'.encode(), Reason.INVALID),
        (f'{HEAD},"metrics":{{"cpu":1}},"status":"online","x":{"9" * 5000}}}'.encode(), Reason.INVALID),
        (f'{HEAD},"metrics":{{"cpu":1}},"status":"online","x":"'.encode() + b'\xff"}', Reason.MALFORMED),
        (
            f'{HEAD},"metrics":{{"cpu":1}},"status":"online","x":{"[" * 2000}{"]" * 2000}}}'.encode(),
            Reason.TOO_DEEP,
        ),
        (
            f'{HEAD},"metrics":{{"cpu":1}},"status":"online","x":{"[" * 8}{"]" * 8}}}'.encode(),
            Reason.TOO_DEEP,
        ),
    ],
    ids=range(15),
)
def test_text_that_is_no_bounded_json_is_refused(text: bytes, reason: Reason) -> None:
    assert refusal(Kind.METRICS, text).reason is reason


def test_seven_levels_inside_the_message_are_still_taken() -> None:
    text = f'{HEAD},"metrics":{{"cpu":1}},"status":"online","x":{"[" * 7}{"]" * 7}}}'.encode()
    codec.decode(Kind.METRICS, text)


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {}},
        {"metrics": {"cpu": None}},
        {"metrics": {"cpu": "1"}},
        {"metrics": {"cpu": True}},
        {"metrics": {"cpu": [1]}},
        {"metrics": [1]},
        {"metrics": {"latency": 3_000_000_000}},
        {"metrics": {"latency": 2147483647.5}},
        {"metrics": {"cpu": 1, "": 1}},
        {"metrics": {"cpu": 1, "x" * 65: 1}},
        {"metrics": {"cpu": 1, "timestamp": 1}},
        {"metrics": {"cpu": 1, "status": 1}},
        {"metrics": {"cpu": 1, "agentId": 1}},
        {"metrics": {f"m{n}": n for n in range(65)}},
        {"status": ""},
        {"status": "On line"},
        {"status": "online\n"},
        {"status": "x" * 33},
        {"status": None},
        {"timestamp": "2026-02-25T10:00:00"},
        {"timestamp": "yesterday"},
        {"timestamp": 1700000000},
        {"timestamp": "0001-01-01T00:00:00+10:00"},
        {"agentId": 7},
        {"samples": [METRICS]},
        {"seq": 0},
        {"seq": "1"},
        {"stream": ""},
    ],
    ids=str,
)
def test_a_metrics_message_out_of_its_bounds_is_invalid(change: dict[str, Any]) -> None:
    assert refusal(Kind.METRICS, json.dumps({**METRICS, **change}).encode()).reason is Reason.INVALID


@pytest.mark.parametrize("missing", ["agentId", "timestamp", "metrics", "status"])
def test_a_missing_member_is_named(missing: str) -> None:
    message = {name: value for name, value in METRICS.items() if name != missing}
    assert f"`{missing}`" in refusal(Kind.METRICS, json.dumps(message).encode()).detail


@pytest.mark.parametrize(
    "host",
    [
        {"ip": "300.1.1.1", "latency": 1, "ports": []},
        {"ip": "example.org", "latency": 1, "ports": []},
        {"ip": "10.0.0.1", "latency": 1, "ports": [65536]},
        {"ip": "10.0.0.1", "latency": 1, "ports": [-1]},
        {"ip": "10.0.0.1", "latency": 1, "ports": ["80"]},
        {"ip": "10.0.0.1", "latency": 3_000_000_000, "ports": []},
        {"ip": "10.0.0.1", "ports": []},
        {"latency": 1, "ports": []},
    ],
    ids=str,
)
def test_a_scan_with_a_bad_host_is_invalid(host: dict[str, Any]) -> None:
    message = {**DISCOVERY, "discovery": {"hosts": [host], "duration": 1}}
    assert refusal(Kind.DISCOVERY, json.dumps(message).encode()).reason is Reason.INVALID


@pytest.mark.parametrize("duration", [-1, 3_000_000_000, "1", None])
def test_a_scan_with_a_bad_duration_is_invalid(duration: Any) -> None:
    message = {**DISCOVERY, "discovery": {"hosts": [], "duration": duration}}
    assert refusal(Kind.DISCOVERY, json.dumps(message).encode()).reason is Reason.INVALID


def test_a_batch_has_1_to_1000_samples_and_one_wrong_type_refuses_it() -> None:
    outer = {"agentId": "A", "timestamp": "2026-02-25T10:00:00Z"}
    item = {"timestamp": "2026-02-25T10:00:00Z", "metrics": {"cpu": 1}, "status": "online"}
    assert len(decode(Kind.METRICS, {**outer, "samples": [item] * 1000}).records) == 1000
    for samples in ([], [item] * 1001, [item, {**item, "status": 1}], [item, {**item, "metrics": {}}]):
        assert (
            refusal(Kind.METRICS, json.dumps({**outer, "samples": samples}).encode()).reason is Reason.INVALID
        )


def test_sizes_are_bounded_by_kind() -> None:
    padded = {**METRICS, "note": "x" * codec.MAX_BYTES}
    assert refusal(Kind.METRICS, json.dumps(padded).encode()).reason is Reason.TOO_LARGE
    batch = {
        "agentId": "A",
        "timestamp": METRICS["timestamp"],
        "samples": [METRICS],
        "note": "x" * codec.MAX_BYTES,
    }
    assert decode(Kind.METRICS, batch).batch
    decode(Kind.DISCOVERY, {**DISCOVERY, "note": "x" * codec.MAX_BYTES})
    for kind in Kind:
        assert refusal(kind, b" " * (codec.MAX_BULK_BYTES + 1)).reason is Reason.TOO_LARGE
    assert refusal(Kind.STATUS, b" " * (codec.MAX_BYTES + 1)).reason is Reason.TOO_LARGE


@pytest.mark.parametrize("kind", list(Kind))
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_and_nothing_else(kind: Kind, payload: bytes) -> None:
    assert refusal(kind, payload).reason in (Reason.MALFORMED, Reason.INVALID)


numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
names = st.text(min_size=1, max_size=64).filter(
    lambda name: name not in ("cpu", "ram", "disk", "latency", "timestamp", "status", "agentId")
)


@given(st.dictionaries(names, numbers, min_size=1, max_size=16), numbers)
def test_every_finite_metric_comes_back_as_it_was_sent(extra: dict[str, float], cpu: float) -> None:
    kept = sample(cpu=cpu, **extra)
    shown = codec.sample_json(kept)
    assert shown["cpu"] == float(cpu)
    assert {name: shown[name] for name in extra} == {name: float(value) for name, value in extra.items()}


@given(st.lists(st.sampled_from(["[", "]", "{", "}", '"', "\\", "1", "e", ",", "9" * 19, "x"]), max_size=60))
def test_the_bounds_check_never_fails_otherwise_than_by_refusing(parts: list[str]) -> None:
    with contextlib.suppress(Rejected):
        codec.check_bounds("".join(parts).encode())


# --- the plain way and the general one ---------------------------------------------------------------

_numbers = st.sampled_from(
    [
        "0",
        "-0",
        "1",
        "-1",
        "1.5",
        "-2.5",
        "0.49999999999999994",
        "2.5",
        "1e3",
        "1E+3",
        "1e-400",
        "1e308",
        "1e309",
        "2147483646.5",
        "2147483647",
        "2147483647.5",
        "9007199254740993",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775809",
        "18446744073709551615",
        "18446744073709551616",
        "1e18",
        "1e19",
        "1e25",
        "1e400",
        "null",
        "true",
        "01",
        ".5",
        "1.",
        "NaN",
        "Infinity",
    ]
) | st.floats(allow_nan=False, allow_infinity=False).map(repr)
_names = st.sampled_from(["cpu", "ram", "disk", "latency", "temp", "fan", "größe", "status", "timestamp", ""])
_statuses = st.sampled_from(['"online"', '"on line"', '""', '"ok"', f'"{"a" * 33}"', "null", '"Ö"'])
_times = st.sampled_from(
    [
        "2026-02-25T10:00:00Z",
        "2026-02-25T10:00:00.123456+05:30",
        "2026-02-25T10:00:00",
        "0001-01-01T00:00:00+10:00",
        "x",
    ]
).map(lambda text: f'"{text}"')
_metrics = st.lists(st.tuples(_names, _numbers), max_size=5).map(
    lambda pairs: "{" + ",".join(f'"{name}":{number}' for name, number in pairs) + "}"
)
_samples = st.lists(
    st.builds('{{"timestamp":{},"metrics":{},"status":{}}}'.format, _times, _metrics, _statuses), max_size=3
).map(lambda samples: f"[{','.join(samples)}]")
_further = st.sampled_from(
    [
        '"stream":"s"',
        '"stream":""',
        '"seq":1',
        '"seq":0',
        '"seq":1.0',
        '"first":2',
        '"room":"x"',
        '"room":[[[[[[[[]]]]]]]]',
        '"room":1e999',
        f'"room":{"9" * 30}',
        '"signature":"S"',
        '"signature":1',
        '"agentId":"B"',
    ]
)


@st.composite
def metrics_messages(draw: st.DrawFn) -> bytes:
    """Texts that are metrics messages, or nearly."""
    members = ['"agentId":"A"', f'"timestamp":{draw(_times)}']
    if draw(st.booleans()):
        members += [f'"metrics":{draw(_metrics)}', f'"status":{draw(_statuses)}']
    twice = _metrics.map('"metrics":{}'.format) | _statuses.map('"status":{}'.format)
    members += draw(st.lists(twice, max_size=1))
    if draw(st.integers(0, 3)) == 0:
        members.append(f'"samples":{draw(_samples)}')
    members += draw(st.lists(_further, max_size=3))
    return ("{" + ",".join(draw(st.permutations(members))) + "}").encode()


def outcome(payload: bytes) -> object:
    """What becomes of a message, to its last bit and letter."""
    try:
        return repr(codec.decode(Kind.METRICS, payload))
    except Rejected as refusal:
        return refusal.reason, refusal.detail


@given(metrics_messages())
def test_the_plain_way_tells_exactly_what_the_general_one_does(payload: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "parse_plain", lambda payload: None)
        expected = outcome(payload)
    assert outcome(payload) == expected


def test_what_agents_send_goes_the_plain_way() -> None:
    numbered = {**METRICS, "stream": "s", "seq": 7, "first": 3, "signature": "S"}
    batch = {key: value for key, value in numbered.items() if key not in ("metrics", "status")}
    batch["samples"] = [{key: METRICS[key] for key in ("timestamp", "metrics", "status")}]
    for message in (METRICS, numbered, batch):
        assert parse_plain(json.dumps(message).encode()) is not None


@given(
    st.dictionaries(st.sampled_from(["temp", "größe", 'a"b', "\\"]), st.floats(0, 1), max_size=3),
    st.floats(0, 1),
)
def test_the_live_text_of_a_sample_is_its_json(extra: dict[str, float], cpu: float) -> None:
    kept = sample(cpu=cpu, **extra)
    assert json.loads(codec.sample_text(kept)) == json.loads(
        codec.encode({"agentId": kept.agent_id, **codec.sample_json(kept)})
    )
