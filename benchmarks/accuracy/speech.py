"""silero-vad-seq: is there speech in a frame of 32 ms? 30 s of conversation, with labels by people, from the package pyannote-audio.

A frame counts as speech if someone speaks in at least half of it. Calibration hears a meeting from the same package: other people in
another room, in pieces of two seconds.
"""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from ..feeds import Feeds
from ..fetch import fetch
from .metrics import auc
from .task import Data, Measure, Requirement, Runs, Task, outputs

RATE, FRAME, CONTEXT = 16000, 512, 64  # samples
PIECE = 2 * RATE


def load(f32: Runs) -> Data:
    files = fetch(["speech", "speech-labels", "meeting"])
    with wave.open(str(files["speech"])) as w:
        audio = np.frombuffer(w.readframes(w.getnframes()), np.int16).astype(np.float32) / 2**15
    meeting = read_float_wave(files["meeting"])
    spoken = speech_frames(files["speech-labels"].read_text(), len(audio) // FRAME)
    measure = Measure(
        "speech",
        "AUC of frames",
        outputs("silero-vad-seq", [_feed(audio)]),
        lambda given, _: auc(given[0], spoken),
        Requirement(0.995, "higher"),
    )
    pieces = [_feed(meeting[start : start + PIECE]) for start in range(0, len(meeting) - PIECE + 1, PIECE)]
    return Data({"silero-vad-seq": pieces}, (measure,))


def read_float_wave(path: Path) -> np.ndarray:
    """The samples of a mono WAV file of f32, which the standard library does not read."""
    data = path.read_bytes()
    at = data.index(b"data")
    return np.frombuffer(data, "<f4", int.from_bytes(data[at + 4 : at + 8], "little") // 4, at + 8)


def speech_frames(rttm: str, count: int) -> np.ndarray:
    """bool[count]: is at least half of a frame inside one of the segments, of which each line of `rttm` gives start and length?"""
    spoken = np.zeros(count * FRAME, bool)
    for line in rttm.splitlines():
        start, length = (float(field) for field in line.split()[3:5])
        spoken[round(start * RATE) : round((start + length) * RATE)] = True
    return spoken.reshape(count, FRAME).mean(axis=1) >= 0.5


def _feed(audio: np.ndarray) -> Feeds:
    """Frames with the end of the one before, and the state that silence leaves."""
    frames = audio[: len(audio) // FRAME * FRAME].reshape(-1, FRAME)
    before = np.concatenate([np.zeros((1, CONTEXT), np.float32), frames[:-1, -CONTEXT:]])
    state = np.zeros((1, 1, 128), np.float32)
    return {"input": np.concatenate([before, frames], axis=1), "h": state, "c": state}


TASK = Task("silero-vad-seq", ("silero-vad-seq",), "30 s of conversation from pyannote-audio; a meeting for calibration", load)
