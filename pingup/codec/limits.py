"""Bounds of what agents send (contract, section 2). Sizes are in bytes."""

from __future__ import annotations

MAX_BYTES = 64 * 1024
MAX_BULK_BYTES = 256 * 1024
MAX_DEPTH = 8
MAX_METRICS = 64
MAX_METRIC_NAME = 64
# DuckDB unpacks 2,048 rows at a time, and with wider ones the memory that it is given does not suffice. ASCII
# names never get there.
MAX_EXTRA_BYTES = 6 * 1024
MAX_SAMPLES = 1000
MAX_ID = 64

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT64_MIN, INT64_MAX, UINT64_MAX = -(2**63), 2**63 - 1, 2**64 - 1
RESERVED_METRICS = frozenset({"timestamp", "status", "agentId"})
