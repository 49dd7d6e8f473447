"""Golden files: expected text that `pytest --update-golden` writes anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from octavo.tests.backends import amx as amx_here


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what tests compute into their golden files")
    parser.addoption("--amx", action="store_true", help="all tests of levels include that of AMX, emulated where need be: slow")


@pytest.hookimpl(trylast=True)  # faulthandler answers SIGILL too
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--amx"):
        if reason := amx_here.missing():
            raise pytest.UsageError(f"--amx {reason}")
        amx_here.enable(pytest.MonkeyPatch())


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """golden(name, text) asserts that golden/NAME.txt beside the test's file says the same, or makes it say so."""

    def check(name: str, text: str) -> None:
        path = Path(request.path).parent / "golden" / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"there is no {path}; pytest --update-golden writes it"
        assert text == path.read_text(), (
            f"{path.name} says otherwise; if this is meant: pytest --update-golden, and read the difference"
        )

    return check


@pytest.fixture
def amx(monkeypatch: pytest.MonkeyPatch) -> Iterator[amx_here.Emulator | None]:
    """This process runs code for AMX; the emulator of it where the processor has none."""
    if reason := amx_here.missing():
        pytest.skip(reason)
    emulator = amx_here.enable(monkeypatch)
    yield emulator
    if emulator:
        emulator.check()
