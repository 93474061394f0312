"""What can go wrong, as a tree.

    PingupError
    ├── Rejected      a message is not taken: counted by reason, shown, acknowledged
    ├── Refused       a REST call is not carried out: answered with a problem document
    │   ├── Invalid             400
    │   ├── Unauthenticated     401
    │   ├── Forbidden           403
    │   ├── NotFound            404
    │   ├── Conflict            409
    │   └── PreconditionFailed  412
    ├── Unstorable    some record of a batch cannot be stored: the batch is halved until it is found
    ├── Unavailable   a store or a broker cannot work now: nothing is acknowledged, senders wait
    │   └── NotAllowed   a broker does not let us in, or not do that
    └── Unusable      the program cannot start or go on as it was called: one line, an exit code

Any other exception is a bug and ends the process loudly.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class PingupError(Exception):
    """The root of all expected errors; its text is a sentence for a person."""


class Reason(StrEnum):
    """Why a message was rejected. The values are shown to users and never change their meaning."""

    NO_SIGNATURE = "no_signature"
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_AGENT = "unknown_agent"
    UNKNOWN_KIND = "unknown_kind"
    WRONG_AGENT = "wrong_agent"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    MALFORMED = "malformed"
    INVALID = "invalid"
    FROM_THE_FUTURE = "from_the_future"
    TOO_OLD = "too_old"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    NOT_ALLOWED = "not_allowed"
    INTERNAL = "internal"


class Rejected(PingupError):
    """A message is not taken, for good: sending the same bytes again would change nothing."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Refused(PingupError):
    """A call is not carried out; the caller can do something about it."""

    def __init__(self, detail: str, errors: Mapping[str, str] | None = None) -> None:
        """`errors` says by field what is wrong with it."""
        super().__init__(detail)
        self.detail = detail
        self.errors = dict(errors or {})


class Invalid(Refused):
    """Something in the call is malformed or out of its bounds."""


class Unauthenticated(Refused):
    """No credential, or one that nobody knows."""


class Forbidden(Refused):
    """The credential is known and does not reach that far."""


class NotFound(Refused):
    """There is no such thing."""


class Conflict(Refused):
    """It exists already, or has ended already."""


class PreconditionFailed(Refused):
    """It was changed by somebody else in the meantime (`If-Match`)."""


class Unstorable(PingupError):
    """Some record of a batch cannot be stored, ever; nothing of the batch was. The text says why."""


class Unavailable(PingupError):
    """A store or a broker cannot work now. Nothing is lost: what was not acknowledged is sent again."""


class NotAllowed(Unavailable):
    """A broker does not let us in, or not do that; until somebody changes its settings, or ours."""


class Unusable(PingupError):
    """The program cannot start or go on as it was called; the text says what to do."""

    def __init__(self, detail: str, exit_code: int = 1) -> None:
        super().__init__(detail)
        self.exit_code = exit_code
