"""Faults made for real, against real processes, and a count of its own: what was promised, what is kept.

`python -m tests.faults` runs all of it; the ordinary tests run a small part of the same cases.
"""
