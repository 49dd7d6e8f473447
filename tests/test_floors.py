"""The architecture as tests: floors import only floors below them, and heavy packages stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import octavo
import pytest

ROOT = Path(octavo.__file__).parent
FLOORS = {"ir": 1, "frontend": 2, "passes": 2, "backends": 2, "compiler": 3, "serving": 4, "benchmarks": 5}
HOMES = {
    # the backend module is an interface of the onnx package; torch, a peer in benchmarks, is given what the file says; onnxruntime, a
    # peer as well, an operator of its own
    "onnx": (
        "frontend/onnx/",
        "compiler/onnx_backend.py",
        "compiler/onnx_torch.py",
        "compiler/torch_ops.py",
        "benchmarks/weight_only.py",
    ),
    "torch": ("compiler/contender.py", "compiler/onnx_torch.py", "compiler/torch_ops.py"),
    "llvmlite": ("backends/",),
    "pycuda": ("backends/",),
    "click": ("compiler/cli/", "benchmarks/"),
    "rich": ("compiler/cli/", "benchmarks/"),
}


def sources() -> list[Path]:
    return sorted(p for floor in FLOORS for p in (ROOT / floor).rglob("*.py"))


def imported(path: Path) -> list[tuple[int, str]]:
    """(line, module) of every import in a file; relative ones as paths below the package: `ir.graph`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(("octavo", *parts)[: len(parts) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found += [(node.lineno, module)] if node.module else [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_floor_imports_only_itself_and_floors_below(path: Path) -> None:
    home = path.relative_to(ROOT).parts[0]
    for line, module in imported(path):
        package, _, rest = module.partition(".")
        floor = rest.partition(".")[0]
        if package != "octavo" or floor not in FLOORS or floor == home:
            continue
        assert FLOORS[floor] < FLOORS[home], f"{path}:{line}: {home} (floor {FLOORS[home]}) imports {floor} (floor {FLOORS[floor]})"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_packages_are_imported_at_home_only(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    for line, module in imported(path):
        homes = HOMES.get(module.partition(".")[0])
        assert homes is None or relative.startswith(homes), f"{path}:{line} imports {module}, which belongs in {' or '.join(homes)}"


def loaded_after(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


FORBIDDEN = {"onnx", "llvmlite", "click", "rich", "google", "ml_dtypes", "onnxruntime", "pycuda"}


def test_import_octavo_needs_numpy_at_most() -> None:
    assert not loaded_after("import octavo") & FORBIDDEN


def test_load_needs_numpy_alone() -> None:
    assert not loaded_after("import octavo; octavo.load") & FORBIDDEN


@pytest.mark.parametrize("name", octavo.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(octavo, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = octavo.nonsense  # type: ignore[attr-defined]


def test_every_folder_with_code_is_packaged() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {p.parent for floor in FLOORS if (ROOT / floor).is_dir() for p in (ROOT / floor).rglob("*.py")}
    existing = {"octavo", *(".".join(("octavo", *f.relative_to(ROOT).parts)) for f in folders)}
    assert listed == existing


def test_the_repository_speaks_of_no_machine() -> None:
    """Nothing in the tree names a private path."""
    words = ("/" + "work/", "/" + "root/")
    for path in [*sources(), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]:
        text = path.read_text()
        assert not [w for w in words if w in text], path
