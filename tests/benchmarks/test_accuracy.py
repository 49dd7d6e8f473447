"""Accuracy: the figures on cases worked out by hand, the data made from seeds, and what a run says. Nothing is downloaded."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")

from click.testing import CliRunner
from octavo import OctavoError
from octavo.benchmarks.accuracy import __main__ as command
from octavo.benchmarks.accuracy import files, lines, names, pitch, sentences, speech
from octavo.benchmarks.accuracy.contenders import CONTENDERS, OCTAVO_INT8, REFERENCE, Contender
from octavo.benchmarks.accuracy.measure import Outcome, Row, measure
from octavo.benchmarks.accuracy.metrics import (
    auc,
    cents,
    character_error_rate,
    cosine,
    edit_distance,
    intersection_over_union,
    share_equal,
)
from octavo.benchmarks.accuracy.results import Results, as_json, as_markdown, cells
from octavo.benchmarks.accuracy.task import SAMPLES, Data, Measure, Requirement, Runs, Task
from octavo.benchmarks.accuracy.tasks import TASKS
from octavo.benchmarks.fetch import resources


@pytest.mark.parametrize(
    ("a", "b", "edits"), [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2), ("abc", "abc", 0)]
)
def test_edit_distance(a: str, b: str, edits: int) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) == edits


def test_character_error_rate_is_edits_over_characters_written() -> None:
    assert character_error_rate(["abd", "efgh"], ["abc", "efg"]) == 2 / 6


def test_spaces_do_not_count_in_lines() -> None:
    assert lines._solid("March UF-7472 what") == lines._solid("MarchUF-7472what") == "MarchUF-7472what"


def test_share_equal_wants_as_many_answers_as_questions() -> None:
    assert share_equal([1, 2, 3, 4], [1, 2, 0, 4]) == 0.75
    with pytest.raises(ValueError, match="longer"):
        share_equal([1], [1, 2])


@pytest.mark.parametrize(
    ("scores", "positive", "area"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 0.0),
        ([0.1, 0.8, 0.2, 0.9], [0, 0, 1, 1], 0.75),
        ([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1], 0.5),
        ([0.5, 0.5, 0.9], [0, 1, 1], 0.75),  # the pair with equal scores counts half
    ],
)
def test_auc_is_the_share_of_pairs_in_order(scores: list[float], positive: list[int], area: float) -> None:
    assert auc(np.array(scores), np.array(positive, bool)) == pytest.approx(area)


def test_auc_of_one_class_is_no_number() -> None:
    assert np.isnan(auc(np.array([0.1, 0.2]), np.array([True, True])))


def test_cents_are_hundredths_of_a_semitone_either_way() -> None:
    heard = cents(np.array([440.0, 880.0, 415.3047, 0.0, np.nan]), np.full(5, 440.0))
    assert heard[:3].tolist() == pytest.approx([0, 1200, 100], abs=1e-3)
    assert np.isinf(heard[3:]).all()


def test_cosine_is_taken_row_by_row() -> None:
    assert cosine(np.array([[1, 0], [2, 2], [1, 0]]), np.array([[3, 0], [-1, -1], [1, 1]])).tolist() == pytest.approx([1, -1, 0.5**0.5])


def test_intersection_over_union() -> None:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert intersection_over_union(a, b) == 1 / 3
    assert intersection_over_union(a & False, b & False) == 1.0


@pytest.mark.parametrize(
    ("requirement", "value", "f32", "met"),
    [
        (Requirement(0.05, "lower"), 0.05, 0.03, True),
        (Requirement(0.05, "lower"), 0.051, 0.03, False),
        (Requirement(0.995, "higher"), 0.995, 1.0, True),
        (Requirement(0.995, "higher"), 0.99, 1.0, False),
        (Requirement(0.001, "higher", than_f32=True), 0.9926, 0.9936, True),
        (Requirement(0.001, "higher", than_f32=True), 0.9925, 0.9936, False),
        (Requirement(1.0, "lower", than_f32=True), 3.5, 2.7, True),
        (Requirement(0.99, "higher"), float("nan"), 1.0, False),
    ],
)
def test_a_requirement_is_a_limit_or_a_distance_from_f32(requirement: Requirement, value: float, f32: float, met: bool) -> None:
    assert requirement.met(value, f32) is met


@pytest.mark.parametrize(
    ("requirement", "text"),
    [
        (Requirement(0.995, "higher"), ">= 0.995"),
        (Requirement(5, "lower"), "<= 5"),
        (Requirement(2 / 297, "higher", than_f32=True), "f32 - 0.0067"),
        (Requirement(1, "lower", than_f32=True), "f32 + 1"),
    ],
)
def test_a_requirement_reads_as_a_formula(requirement: Requirement, text: str) -> None:
    assert str(requirement) == text


def test_frames_are_speech_where_someone_speaks_half_of_the_time() -> None:
    frame = speech.FRAME / speech.RATE
    rttm = f"SPEAKER x 1 {frame} {1.4 * frame} <NA> <NA> a <NA> <NA>\nSPEAKER x 1 {2.2 * frame} {0.4 * frame} <NA> <NA> b <NA> <NA>\n"
    assert speech.speech_frames(rttm, 5).tolist() == [False, True, True, False, False]


def test_a_wave_file_of_floats_is_read(tmp_path: Path) -> None:
    samples = np.array([0.5, -0.25, 0.0], "<f4")
    path = tmp_path / "x.wav"
    header = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + bytes(16)
    path.write_bytes(header + b"data" + (12).to_bytes(4, "little") + samples.tobytes() + b"LIST")
    assert speech.read_float_wave(path).tolist() == samples.tolist()


def test_tones_have_the_pitch_that_they_claim() -> None:
    tone = pitch.make_tone(np.random.default_rng(3))
    audio = tone.feed["audio"][0]
    assert len(tone.hertz) == -(-len(audio) // pitch.HOP)
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    loudest = spectrum.argmax() * pitch.RATE / len(audio)
    assert cents(np.array([loudest]), np.array([tone.hertz.mean()]))[0] < 30
    assert np.array_equal(audio, pitch.make_tone(np.random.default_rng(3)).feed["audio"][0])


def test_pitch_errors_leave_out_the_ends() -> None:
    tone = pitch.Tone({}, np.full(40, 200.0))
    heard = np.full((1, 39), 200.0)
    heard[0, : pitch.EDGE], heard[0, pitch.EDGE] = 100.0, 400.0
    errors = pitch.errors([heard], [tone])
    assert errors.tolist() == pytest.approx([1200.0] + [0.0] * (39 - 2 * pitch.EDGE - 1))


VOCABULARY = {w: k for k, w in enumerate(["[UNK]", "[CLS]", "[SEP]", "em", "##bed", "##ding", "cafe", "?", "un", "##em"])}


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Embedding?", ["em", "##bed", "##ding", "?"]),
        ("Café", ["cafe"]),
        ("unem unknown em", ["un", "##em", "[UNK]", "em"]),
        ("", []),
    ],
)
def test_words_become_the_longest_known_pieces(text: str, pieces: list[str]) -> None:
    assert sentences.tokens(text, VOCABULARY) == [VOCABULARY[p] for p in ["[CLS]", *pieces, "[SEP]"]]


def test_long_sentences_are_cut() -> None:
    ids = sentences.tokens("em " * 500, VOCABULARY)
    assert len(ids) == sentences.LONGEST
    assert (ids[0], ids[-1]) == (VOCABULARY["[CLS]"], VOCABULARY["[SEP]"])


def test_files_become_their_first_and_last_bytes() -> None:
    short = files._feed(b"  ab\n")["bytes"]
    assert short.shape == (1, 2 * files.PART)
    assert short[0, :3].tolist() == [97, 98, 10]  # only what stands before is white space to the first bytes
    assert short[0, -4:].tolist() == [32, 32, 97, 98]
    assert set(short[0, 3:-4].tolist()) == {files.PADDING}
    long = files._feed(bytes(range(33, 133)) * 100)["bytes"]
    assert files.PADDING not in long
    assert long[0, files.PART - 1] == 33 + (files.PART - 1) % 100


@pytest.mark.parametrize("kind", [k for k in files.WRITERS if k not in ("txt", "json", "jsonl", "csv", "xml", "eml")])
def test_written_binary_files_begin_as_their_kind_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "make_page", lambda rng, width, height: __import__("PIL.Image").Image.new("RGB", (width, height)))
    begins = {
        "pickle": b"\x80", "npy": b"\x93NUMPY", "npz": b"PK", "sqlite": b"SQLite format 3", "gzip": b"\x1f\x8b", "bzip": b"BZh",
        "xz": b"\xfd7zXZ", "zip": b"PK", "tar": b"part0.txt", "wav": b"RIFF", "png": b"\x89PNG", "jpeg": b"\xff\xd8", "gif": b"GIF8",
        "bmp": b"BM", "tiff": b"II", "webp": b"RIFF", "pdf": b"%PDF",
    }  # fmt: skip
    first, again = (files.WRITERS[kind](np.random.default_rng(1)) for _ in range(2))
    assert first.startswith(begins[kind])
    assert first == again


def test_names_are_spelled_greedily_until_the_end() -> None:
    def decoder(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        best = [4, 5, 4, names.END][feed["prefix"].shape[1] - 1]
        return [np.eye(6, dtype=np.float32)[[best]], feed["hidden"] + 1]

    encoder: Callable = lambda feed: [np.zeros((1, 3, 2)), feed["src_mask"], np.zeros((1, 1))]
    runs = {names.ENCODER: encoder, names.DECODER: decoder}
    assert names.spelled(runs, {"src_mask": np.zeros((1, 3), bool)}, ["", "", "", "", "a", "b"]) == "aba"


def test_names_have_one_romanisation_and_a_known_country(tmp_path: Path) -> None:
    path = tmp_path / "names.sqlite3"
    with sqlite3.connect(path) as c:
        c.execute("create table units (arabic_key text, latin text, country text, role text, count int)")
        rows = [
            ("xy", "Iks", "EG", "given", 5),
            ("yx", "A", "EG", "given", 5),
            ("yx", "B", "EG", "given", 5),
            ("xx", "C", "QQ", "surname", 5),
        ]
        c.executemany("insert into units values (?, ?, ?, ?, ?)", rows)
    index = {"<EG>": 9, "<ROLE_GIVEN>": 20, "<ROLE_SURNAME>": 21, "x": 30}
    (name,) = names._names(str(path), index)
    assert name.latin == "Iks"
    assert name.source["src"].tolist() == [[9, 20, 30, names.UNKNOWN, names.END]]


def test_every_task_is_of_models_that_are_listed() -> None:
    for name, task in TASKS.items():
        assert name == task.name
        assert set(task.models) <= set(resources())


def fake_task(score: Requirement) -> Task:
    """Answers are what the runs give for one number."""
    answer: Callable[[Runs], float] = lambda runs: float(runs["tiny"]({})[0])
    one = Measure("all", "top-1", answer, lambda given, best: given, score)
    return Task("tiny", ("tiny",), "nothing", lambda f32: Data({"tiny": [{}] * SAMPLES}, (one,)))


def contender(name: str, value: float, dynamic: bool = False) -> Contender:
    def prepare(onnx: Path, calibration: object, transformer: bool):
        if np.isnan(value):
            raise RuntimeError("cannot read /tmp/somewhere/else/model.onnx")
        return lambda feeds: [np.array(value)]

    return Contender(name, prepare, dynamic)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo.benchmarks.accuracy.measure.fetch", lambda models: {name: Path(name) for name in models})
    monkeypatch.setattr("octavo.benchmarks.accuracy.measure.CONTENDERS", (contender(REFERENCE, 0.9), *CONTENDERS[1:]))


def test_contenders_are_scored_and_their_failures_told_without_folders(offline: None) -> None:
    others = (contender(OCTAVO_INT8, 0.89), contender("lost", float("nan")), contender("for transformers", 1.0, dynamic=True))
    outcome = measure(fake_task(Requirement(0.02, "higher", than_f32=True)), others)
    assert outcome.samples == SAMPLES
    (row,) = outcome.rows
    assert row.figures == {REFERENCE: 0.9, OCTAVO_INT8: 0.89}
    assert (row.met(OCTAVO_INT8), row.met("lost")) == (True, None)
    assert outcome.failures == {"lost": "RuntimeError: cannot read model.onnx"}


def results(value: float | None) -> Results:
    figures = {REFERENCE: 0.9} | ({} if value is None else {OCTAVO_INT8: value})
    row = Row("tiny", "all", "top-1", Requirement(0.8, "higher"), figures)
    free = Row("tiny", "all", "IoU", None, {REFERENCE: 1.0})
    return Results.of([Outcome("tiny", "nothing", 10, (row, free), {"openvino int8": "refused"})], {})


def test_a_run_passes_if_every_requirement_is_met() -> None:
    assert [results(v).passed for v in (0.85, 0.75, None)] == [True, False, False]


def test_the_table_says_what_is_required_and_met() -> None:
    met, free = (cells(row) for row in results(0.85).rows)
    assert met[:6] == ("tiny", "all", "top-1", ">= 0.8", "yes", "0.9000")
    assert free[3:5] == ("-", "-")
    assert cells(results(0.75).rows[0])[4] == "no"
    text = as_markdown(results(0.85))
    assert "| tiny | all | top-1 | >= 0.8 | yes | 0.9000 | - | 0.8500 |" in text
    assert "- tiny: openvino int8: refused" in text
    data = json.loads(json.dumps(as_json(results(0.85))))
    assert data["passed"] is True
    assert data["tasks"][0]["measures"][0]["figures"] == {REFERENCE: 0.9, OCTAVO_INT8: 0.85}


def test_no_network_ends_with_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(task: Task) -> Outcome:
        raise OctavoError("cannot download qonnx==1.0.0 (is there a network?)")

    monkeypatch.setattr(command, "measure", offline)
    ran = CliRunner().invoke(command.main, ["mnist", "--output", str(tmp_path / "out")])
    assert ran.exit_code == 1
    assert "is there a network?" in ran.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("value", "code"), [(0.85, 0), (0.75, command.GATE)])
def test_a_run_writes_its_table_and_tells_if_a_requirement_is_missed(
    value: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "measure", lambda task: results(value).outcomes[0])
    ran = CliRunner().invoke(command.main, ["mnist", "--json", "--output", str(tmp_path)])
    assert ran.exit_code == code
    assert json.loads((tmp_path / "accuracy.json").read_text())["passed"] is (code == 0)
    assert (tmp_path / "accuracy.md").read_text().startswith("# Accuracy\n")


def test_an_unknown_model_is_a_usage_error() -> None:
    ran = CliRunner().invoke(command.main, ["nonsense"])
    assert ran.exit_code == 2
    assert "nonsense" in ran.output
