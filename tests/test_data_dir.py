"""The data directory opens whole or not at all, whatever an interrupted start has left in it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pingup.data_dir import open_data_dir, read_admin_token, write_private
from pingup.errors import Unusable

TOKEN = "pgp_" + "x" * 43


def test_first_starts_at_the_same_moment_agree_on_one_key(tmp_path: Path) -> None:
    starts = 16
    together = threading.Barrier(starts)

    def start(directory: Path) -> bytes:
        together.wait()
        return open_data_dir(directory).master_key

    for number in range(5):
        directory = tmp_path / str(number)
        with ThreadPoolExecutor(starts) as pool:
            keys = set(pool.map(start, [directory] * starts))
        assert keys == {open_data_dir(directory).master_key}


def test_an_interrupted_write_leaves_nothing_that_stops_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "master.new").write_text("half a k")
    key = open_data_dir(tmp_path).master_key
    assert open_data_dir(tmp_path).master_key == key
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {"master.key": 0o600}


def test_the_admin_token_that_a_first_start_has_left_is_read_again(tmp_path: Path) -> None:
    data = open_data_dir(tmp_path)
    assert read_admin_token(data) is None
    write_private(data.admin_token, TOKEN)
    assert read_admin_token(data) == TOKEN


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"short", b"two words that are long enough together", b"\xff" * 40]
)
def test_a_file_that_holds_no_token_is_never_taken_for_one(tmp_path: Path, content: bytes) -> None:
    data = open_data_dir(tmp_path)
    data.admin_token.write_bytes(content)
    with pytest.raises(Unusable, match=r"admin\.token holds no token"):
        read_admin_token(data)


def test_what_cannot_be_read_or_written_is_told_in_words(tmp_path: Path) -> None:
    data = open_data_dir(tmp_path)
    data.admin_token.mkdir()
    with pytest.raises(Unusable, match="cannot read"):
        read_admin_token(data)
    with pytest.raises(Unusable, match="cannot write"):
        write_private(data.admin_token, TOKEN)
