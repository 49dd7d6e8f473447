"""AMX: the matrix registers of loop IR as the tile registers of x86-64.

`ldtilecfg` gives all eight their shapes and `tilerelease` takes them away again; in between, what a thread saves when it is interrupted
is eight KiB more.  A process has to ask Linux for that once (`runtime/features.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.errors import CodegenError
from ...ir.loops import Buf, Expr, Matrix, MatrixDot, MatrixLoad, MatrixStore, MatrixZero
from ...ir.types import i8, i32, i64, u8
from ..instructions import Val
from ..llvm import Emitter

REGISTERS, MOST_ROWS, MOST_WORDS = 8, 16, 16  # of palette 1, the only one so far
WORD_BYTES = 4


def configuration(registers: Sequence[Matrix]) -> bytes:
    """What `ldtilecfg` reads.  Raises CodegenError for what no processor has."""
    if len(registers) > REGISTERS or not all(0 < m.rows <= MOST_ROWS and 0 < m.words <= MOST_WORDS for m in registers):
        shapes = ", ".join(f"{m.rows}x{m.words}" for m in registers)
        raise CodegenError(f"matrix registers of {shapes}: there are {REGISTERS} of up to {MOST_ROWS}x{MOST_WORDS}")
    data = bytearray(64)
    data[0] = 1  # the palette
    for k, m in enumerate(registers):
        data[16 + 2 * k] = m.words * WORD_BYTES
        data[48 + k] = m.rows
    return bytes(data)


class MatrixEmitter:
    """Emits statements of matrix registers by another emitter."""

    def __init__(self, code: Emitter) -> None:
        self.code = code
        self.open: list[Sequence[Matrix]] = []  # those of each body that is open

    def begin(self, registers: Sequence[Matrix]) -> None:
        """Give registers their shapes."""
        if not (self.code.target and self.code.target.matrices):
            raise CodegenError(f"{self.code.target and self.code.target.name} has no matrix registers")
        self.open.append(registers)
        self._configure(registers)

    def end(self) -> None:
        """Those of the body around this one have their shapes again, or none has one."""
        self.open.pop()
        if self.open:
            self._configure(self.open[-1])
        else:
            self._call("tilerelease")

    def emit(self, s: MatrixZero | MatrixLoad | MatrixStore | MatrixDot) -> None:
        """Emit one statement."""
        match s:
            case MatrixZero():
                self._call("tilezero", self._number(s.matrix))
            case MatrixLoad():
                self._call("tileloadd64", self._number(s.matrix), *self._rows(s.buf, s.index, s.stride))
            case MatrixStore():
                self._call("tilestored64", self._number(s.matrix), *self._rows(s.buf, s.index, s.stride))
            case MatrixDot():
                if (s.sums.rows, s.sums.words, s.a.words) != (s.a.rows, s.b.words, s.b.rows):
                    raise CodegenError(f"{s.sums} cannot hold the products of {s.a} and {s.b}")
                self._call("tdpbusd", *map(self._number, (s.sums, s.a, s.b)))

    def _number(self, matrix: Matrix) -> str:
        if not self.open or matrix not in self.open[-1]:
            raise CodegenError(f"matrix register {matrix.name} is not among those of the body around it")
        return f"i8 {self.open[-1].index(matrix)}"

    def _rows(self, buf: Buf, index: Expr, stride: Expr) -> tuple[str, str]:
        if buf.dtype not in (i32, u8, i8):
            raise CodegenError(f"no matrix register holds words of {buf.dtype}")
        code = self.code
        step = code.operation("mul", [code.value(stride), Val(str(buf.dtype.itemsize), i64)], i64)
        return f"ptr {code.address(buf, code.value(index))}", f"i64 {step.text}"

    def _configure(self, registers: Sequence[Matrix]) -> None:
        data = configuration(registers)
        name = f"@tiles.{data.hex()}"
        values = ", ".join(f"i8 {byte}" for byte in data)
        self.code.declarations.add(f"{name} = private unnamed_addr constant [64 x i8] [{values}], align 64")
        self._call("ldtilecfg", f"ptr {name}")

    def _call(self, name: str, *args: str) -> None:
        types = ", ".join(arg.split()[0] + (" immarg" if arg.startswith("i8 ") else "") for arg in args)
        self.code.declarations.add(f"declare void @llvm.x86.{name}({types})")
        self.code.put(f"call void @llvm.x86.{name}({', '.join(args)})")
