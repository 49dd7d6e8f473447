"""Every task, in the order of the table: a new one is a file beside this one and a line here."""

from __future__ import annotations

from . import digits, faces, files, lines, names, pages, pitch, sentences, speech, upright
from .task import Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        lines.TASK,
        digits.TASK,
        pages.ORIENTATION,
        faces.TASK,
        files.TASK,
        sentences.TASK,
        pitch.TASK,
        speech.TASK,
        upright.TASK,
        pages.DETECTION,
        names.TASK,
    )
}
