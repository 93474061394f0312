"""Every reason has words that a person can do something with."""

from __future__ import annotations

import errno
import re
import socket
import ssl

import mqtt5
import pytest

from pingup.brokers.session import reasons

_TABLES = (
    mqtt5.ConnAckReasonCode,
    mqtt5.DisconnectReasonCode,
    mqtt5.PubAckReasonCode,
    mqtt5.SubAckReasonCode,
)
CODES = sorted(
    {
        int(getattr(table, name))
        for table in _TABLES
        for name in dir(table)
        if re.fullmatch(r"[A-Z_]+", name) and int(getattr(table, name)) >= 0x80
    }
)


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_the_protocol_has_words(code: int) -> None:
    assert "reason code" not in reasons.of_code(code)


def test_an_unknown_code_is_told_as_a_number() -> None:
    assert reasons.of_code(0xF0) == "reason code 0xF0"


def test_a_brokers_own_words_are_shown_on_one_line_and_not_for_ever() -> None:
    words = reasons.of_code(0x97, "one\ntwo" + "x" * 1000)
    assert words.startswith("quota exceeded (the broker says 'one\\ntwoxxx")
    assert len(words) < 200


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), "connection refused"),
        (OSError(errno.EHOSTUNREACH, "x"), "no route to host"),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed (1), [Errno 111] failed (2)"),
            "connection refused",
        ),
        (
            OSError("Multiple exceptions: [Errno 111] a, [Errno 113] b"),
            "connection refused, no route to host",
        ),
        (OSError("something else"), "something else"),
        (socket.gaierror(socket.EAI_NONAME, "x"), "the host name is not known"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "the host name cannot be resolved at the moment"),
        (socket.gaierror(socket.EAI_FAIL, "Big failure"), "the host name cannot be resolved: Big failure"),
        (ssl.SSLEOFError(8, "x"), "the broker closed the connection during the TLS handshake"),
        (ssl.SSLError(1, "x"), "TLS: failed"),
    ],
)
def test_errors_of_sockets_names_and_tls_have_words(problem: OSError, words: str) -> None:
    assert reasons.of_error(problem) == words


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (62, "the host name doesn't match the broker's certificate"),
        (64, "the host name doesn't match the broker's certificate"),
        (18, "the broker's certificate is not trusted: as OpenSSL says"),
        (20, "the broker's certificate is not trusted: as OpenSSL says"),
        (10, "the broker's certificate has expired"),
        (9, "the broker's certificate is not valid yet; the clock may be wrong"),
        (23, "the broker's certificate is not accepted: as OpenSSL says"),
    ],
)
def test_errors_of_certificates_have_words(code: int, words: str) -> None:
    problem = ssl.SSLCertVerificationError(1, "x")
    problem.verify_code, problem.verify_message = code, "as OpenSSL says"
    assert reasons.of_error(problem) == words
