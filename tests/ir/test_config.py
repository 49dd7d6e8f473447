"""The environment variables: defaults, values, and refusals that name the variable."""

from pathlib import Path

import pytest
from octavo.ir import config
from octavo.ir.errors import OctavoError

NAMES = ("OCTAVO_DUMP", "OCTAVO_DEBUG", "OCTAVO_VERIFY", "OCTAVO_THREADS", "OCTAVO_CACHE", "OCTAVO_TUNE")


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_defaults(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert config.dump_dir() is None
    assert config.debug() is False
    assert config.verify_passes() is True
    assert config.threads() is None
    assert config.cache_dir() == Path("/caches/octavo")
    assert config.tune_file() == Path("/caches/octavo/schedules.json")


@pytest.mark.parametrize(
    ("name", "value", "read", "expected"),
    [
        ("OCTAVO_DUMP", "d", config.dump_dir, Path("d")),
        ("OCTAVO_DEBUG", "1", config.debug, True),
        ("OCTAVO_VERIFY", "0", config.verify_passes, False),
        ("OCTAVO_THREADS", "3", config.threads, 3),
        ("OCTAVO_CACHE", "c", config.cache_dir, Path("c")),
        ("OCTAVO_CACHE", "0", config.cache_dir, None),
        ("OCTAVO_CACHE", "", config.cache_dir, None),
        ("OCTAVO_TUNE", "best.json", config.tune_file, Path("best.json")),
        ("OCTAVO_CACHE", "c", config.tune_file, Path("c/schedules.json")),
        ("OCTAVO_CACHE", "0", config.tune_file, None),
    ],
)
def test_values(monkeypatch, name, value, read, expected):
    monkeypatch.setenv(name, value)
    assert read() == expected


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("OCTAVO_DEBUG", "yes", config.debug),
        ("OCTAVO_VERIFY", "off", config.verify_passes),
        ("OCTAVO_THREADS", "0", config.threads),
        ("OCTAVO_THREADS", "-1", config.threads),
        ("OCTAVO_THREADS", "two", config.threads),
    ],
)
def test_refusals_name_the_variable(monkeypatch, name, value, read):
    monkeypatch.setenv(name, value)
    with pytest.raises(OctavoError, match=name):
        read()
