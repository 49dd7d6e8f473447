"""Tables of results, as Markdown and on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from ..compiler.cli.terminal import table


@dataclass(frozen=True)
class Section:
    """A table; the first `text` columns are words."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    text: int = 1


def markdown(sections: Sequence[Section]) -> list[str]:
    """The lines of the tables, each under its title and above its notes."""
    lines = []
    for section in sections:
        marks = ["---" if k < section.text else "---:" for k in range(len(section.columns))]
        rows = [section.columns, tuple(marks), *section.rows]
        lines += ["", f"## {section.title}", "", *("| " + " | ".join(row) + " |" for row in rows)]
        lines += [line for note in section.notes for line in ("", note[0].upper() + note[1:] + ".")]
    return lines


def show(out: Console, setting: Sequence[str], sections: Sequence[Section]) -> None:
    """Print what was measured and how, and the tables."""
    for line in setting:
        out.print(line, highlight=False, markup=False)
    for section in sections:
        out.print()
        rows = table(*section.columns, title=section.title, text=section.text)
        for row in section.rows:
            rows.add_row(*map(escape, row))
        out.print(rows)
        for note in section.notes:
            out.print(note, highlight=False, markup=False)
