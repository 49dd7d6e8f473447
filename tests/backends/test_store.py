"""The store: files come back whole or not at all, and those that nobody asks for make room."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from octavo.backends import store

LONG = np.random.default_rng(0).bytes(3 * store._PIECE // 2)  # more than one thread hashes


@pytest.mark.parametrize("parts", [[b"a"], [b"", b"ab", b"c"], [LONG], [LONG[:100], LONG]])
def test_what_is_kept_is_found(parts: list[bytes], tmp_path: Path):
    store.keep(tmp_path / "entry", parts)
    found = store.find(tmp_path / "entry")
    assert found is not None
    assert bytes(found) == b"".join(parts)
    assert np.frombuffer(found, np.uint8).ctypes.data % 64 == 0


@pytest.mark.parametrize("at", [0, 63, 64, 1000, -1])
def test_one_changed_byte_anywhere_makes_it_none(at: int, tmp_path: Path):
    store.keep(tmp_path / "entry", [LONG])
    data = bytearray((tmp_path / "entry").read_bytes())
    data[at] ^= 1
    (tmp_path / "entry").write_bytes(data)
    assert store.find(tmp_path / "entry") is None


@pytest.mark.parametrize("length", [0, 10, 64, 65, len(LONG), len(LONG) + 63])
def test_a_truncated_file_is_none(length: int, tmp_path: Path):
    store.keep(tmp_path / "entry", [LONG])
    os.truncate(tmp_path / "entry", length)
    assert store.find(tmp_path / "entry") is None


def test_the_files_asked_for_longest_ago_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for k in range(6):
        store.keep(tmp_path / str(k), [bytes(1000)])
        os.utime(tmp_path / str(k), (k, k))
    store.find(tmp_path / "0")
    monkeypatch.setattr(store, "MOST_BYTES", 3500)
    store.clear(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "4", "5"]
    monkeypatch.setattr(store, "MOST_FILES", 1)
    store.clear(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["0"]


def test_keeping_clears_the_folder_as_it_fills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "MOST_BYTES", 16_000)
    for k in range(100):
        store.keep(tmp_path / str(k), [bytes(500)])
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 16_000 * 17 / 16 + 1000


def test_a_content_that_would_take_a_quarter_of_the_folder_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store, "MOST_BYTES", 1000)
    store.keep(tmp_path / "entry", [bytes(251)])
    assert not (tmp_path / "entry").exists()
