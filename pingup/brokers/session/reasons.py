"""What went wrong with a broker, in plain words: MQTT 5 reason codes and errors of sockets, names and TLS."""

from __future__ import annotations

import os
import re
import socket
import ssl

# MQTT 5, section 2.4: a code means the same in every packet that may carry it.
_CODES = {
    0x00: "closed without an error",
    0x04: "closed with its will",
    0x10: "nobody subscribes to it",
    0x80: "an error without a name",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x83: "an error of this broker alone",
    0x84: "the broker does not speak MQTT 5",
    0x85: "the client id is not allowed",
    0x86: "bad user name or password",
    0x87: "not authorised",
    0x88: "the broker is unavailable",
    0x89: "the broker is busy",
    0x8A: "this client is banned",
    0x8B: "the broker is shutting down",
    0x8C: "bad authentication method",
    0x8D: "keep-alive timeout, the broker heard nothing for too long",
    0x8E: "session taken over by another client with the same id",
    0x8F: "topic filter not valid",
    0x90: "topic name not valid",
    0x91: "packet id in use",
    0x93: "more unacknowledged messages than were agreed",
    0x94: "topic alias not valid",
    0x95: "packet too large",
    0x96: "message rate too high",
    0x97: "quota exceeded",
    0x98: "closed by an administrator",
    0x99: "payload format not valid",
    0x9A: "the broker does not retain messages",
    0x9B: "the broker does not support this QoS",
    0x9C: "the broker says to use another server",
    0x9D: "the broker has moved",
    0x9E: "the broker does not support shared subscriptions",
    0x9F: "too many connections in a short time",
    0xA0: "the longest time for a connection is over",
    0xA1: "the broker does not support subscription ids",
    0xA2: "the broker does not support wildcards in subscriptions",
}
_SHOWN = 120  # characters of a broker's own words

_OTHER_NAME = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH
_UNTRUSTED = frozenset({18, 19, 20, 21})  # self-signed (in the chain), no issuer found, chain not verifiable
_NOT_YET, _EXPIRED = 9, 10

_TLS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the broker demands a client certificate",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the broker refuses TLS with us; it may demand a client certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the broker does not accept the client certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the client certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the client certificate is revoked",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the broker does not accept the client certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "the broker does not trust the client certificate",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the broker speaks no TLS version from 1.2 on",
    "UNSUPPORTED_PROTOCOL": "the broker speaks no TLS version from 1.2 on",
    "WRONG_VERSION_NUMBER": "the broker does not speak TLS on this port",
    "RECORD_LAYER_FAILURE": "the broker does not speak TLS on this port",
}
_ERRNO = re.compile(r"\[Errno (\d+)\]")


def of_code(code: int, said: str | None = None) -> str:
    """A reason code in words; `said` is the broker's own reason string."""
    words = _CODES.get(code, f"reason code 0x{code:02X}")
    return f"{words} (the broker says {said[:_SHOWN]!r})" if said else words


def of_error(problem: OSError) -> str:
    """An error of the socket, of name resolution or of TLS in words."""
    match problem:
        case ssl.SSLCertVerificationError():
            return _of_certificate(problem)
        case ssl.SSLError():
            return _of_tls(problem)
        case socket.gaierror():
            return _of_name(problem)
        case _:
            return _of_system(problem)


def _of_certificate(problem: ssl.SSLCertVerificationError) -> str:
    if problem.verify_code in _OTHER_NAME:
        return "the host name doesn't match the broker's certificate"
    if problem.verify_code in _UNTRUSTED:
        return f"the broker's certificate is not trusted: {problem.verify_message}"
    if problem.verify_code == _EXPIRED:
        return "the broker's certificate has expired"
    if problem.verify_code == _NOT_YET:
        return "the broker's certificate is not valid yet; the clock may be wrong"
    return f"the broker's certificate is not accepted: {problem.verify_message}"


def _of_tls(problem: ssl.SSLError) -> str:
    if isinstance(problem, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "the broker closed the connection during the TLS handshake"
    name = getattr(problem, "reason", None) or ""  # only OpenSSL's own errors have one
    return _TLS.get(name, f"TLS: {name.lower().replace('_', ' ') or 'failed'}")


def _of_name(problem: socket.gaierror) -> str:
    if problem.errno == socket.EAI_AGAIN:
        return "the host name cannot be resolved at the moment"
    if problem.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
        return "the host name is not known"
    return f"the host name cannot be resolved: {problem.strerror}"


def _of_system(problem: OSError) -> str:
    """asyncio wraps the system's words into its own, and those of several addresses into one sentence."""
    if problem.errno is not None:
        return os.strerror(problem.errno).lower()
    numbers = dict.fromkeys(int(number) for number in _ERRNO.findall(str(problem)))
    return ", ".join(os.strerror(number).lower() for number in numbers) or str(problem)
