"""`python -m tests.benchmarks [case …]`: `pingup bench` with the developers' cases."""

from __future__ import annotations

from pingup.bench.suite import CASES, Case
from pingup.cli.bench import bench
from tests.benchmarks import bench_inserts

if __name__ == "__main__":
    inserts = Case(bench_inserts.measure, "rows into DuckDB by the store alone, by the size of a commit")
    bench.main(prog_name="python -m tests.benchmarks", obj=CASES | {"inserts": inserts})
