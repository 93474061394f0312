"""Bytes to model and back: sizes, depth, numbers and types of everything that agents send.

Whatever is wrong with a message becomes one `Rejected` that says what and where. Nothing here asks the
time or knows who is who; signatures are checked before (contract, section 2).
"""

from pingup.codec.bounds import check_bounds
from pingup.codec.limits import MAX_BULK_BYTES, MAX_BYTES
from pingup.codec.reading import check_size, decode, numbering_of
from pingup.codec.writing import encode, sample_json, sample_text, scan_json

__all__ = [
    "MAX_BULK_BYTES",
    "MAX_BYTES",
    "check_bounds",
    "check_size",
    "decode",
    "encode",
    "numbering_of",
    "sample_json",
    "sample_text",
    "scan_json",
]
