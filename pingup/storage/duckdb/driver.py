"""DuckDB, without the part of its package that is written in Python.

That part is a second API beside SQL, which nothing here uses, and importing it takes 70 ms and 3 MB: a fifth
of a start. So the compiled module below it is imported, for which the package brings its annotations.
"""

import _duckdb as duckdb

__all__ = ["duckdb"]
