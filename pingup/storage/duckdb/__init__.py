"""Telemetry in DuckDB: the only folder that imports the driver.

telemetry.py   the store as the services see it, asynchronous
writer.py      the one writing thread's work      reading.py     questions, but for
               (the journal: storage/journal.py)
intake.py      what of a batch is new             histories.py   histories by the page
sorting.py     cold rows by agent and time        rollups.py     and by the bucket
tables.py      model ↔ rows
sequences.py   which numbered messages came
database.py    the open file and its cursors      opening.py     opening it, whatever state it is in
migrations.py  the numbered migrations            faults.py      the driver's errors as ours
"""

from pingup.storage.duckdb.migrations import migrate
from pingup.storage.duckdb.telemetry import DuckDBTelemetry, take_journal
from pingup.storage.duckdb.writer import JOURNALED_BELOW

__all__ = ["JOURNALED_BELOW", "DuckDBTelemetry", "migrate", "take_journal"]
