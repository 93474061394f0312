"""The types that travel between the rooms: frozen, without behaviour of their own.

Moments are aware datetimes in UTC, to the microsecond. Latency is in milliseconds, a scan's duration in
milliseconds, cpu, ram and disk in percent. A `rename="camel"` Struct is answered over REST as it stands.
"""

from pingup.model.accounts import Account, Obstacle, Reconciled, Unsettled
from pingup.model.audit import Action, Actor, ActorKind, AuditEntry, Refusal
from pingup.model.messages import (
    CommandReport,
    ConfigReport,
    Inbound,
    Message,
    Outcome,
    SampleVerdict,
    StatusReport,
    TelemetryReport,
)
from pingup.model.people import ApiToken, EnrolmentToken, Principal, Role, Scope
from pingup.model.registry import (
    Agent,
    AgentKey,
    Algorithm,
    Command,
    CommandStatus,
    ConfigVersion,
    Presence,
    ReportedConfig,
    StatusChange,
)
from pingup.model.telemetry import (
    Deposit,
    Fate,
    Host,
    Numbering,
    Order,
    Place,
    Record,
    Run,
    Sample,
    Scan,
    Span,
)

__all__ = [
    "Account",
    "Action",
    "Actor",
    "ActorKind",
    "Agent",
    "AgentKey",
    "Algorithm",
    "ApiToken",
    "AuditEntry",
    "Command",
    "CommandReport",
    "CommandStatus",
    "ConfigReport",
    "ConfigVersion",
    "Deposit",
    "EnrolmentToken",
    "Fate",
    "Host",
    "Inbound",
    "Message",
    "Numbering",
    "Obstacle",
    "Order",
    "Outcome",
    "Place",
    "Presence",
    "Principal",
    "Reconciled",
    "Record",
    "Refusal",
    "ReportedConfig",
    "Role",
    "Run",
    "Sample",
    "SampleVerdict",
    "Scan",
    "Scope",
    "Span",
    "StatusChange",
    "StatusReport",
    "TelemetryReport",
    "Unsettled",
]
