"""Prediction logs of other tools, and the real ones of LLaVA-1.5-7B where they are at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steadyvlm.errors import InvalidOption, LogError
from steadyvlm.records import UNPARSED, Failure, Prediction
from steadyvlm.tasks.aggregates import yes_no_score
from steadyvlm.tasks.logs import Log, load_log, read_log

SHARED = Path(__file__).resolve().parents[3] / "shared/data/pope-random-llava-1.5-7b"

# Written by hand in the shape of the real logs: sentences and single words, three pictures, one answer unparsed.
POPE = [
    ("1", "a.jpg", "Is there a dog?", "Yes, there is a dog in the image.", "yes"),
    ("2", "a.jpg", "Is there a car?", "No", "no"),
    ("3", "b.jpg", "Is there a cup?", "There is no cup.", "yes"),
    ("4", "b.jpg", "Is there a cat?", "yes.", "no"),
    ("5", "c.jpg", "Is there a bus?", "A red bus.", "yes"),
]


def pope_rows() -> list[dict[str, Any]]:
    names = ("question_id", "image", "prompt", "prediction")
    return [{**dict(zip(names, row[:4], strict=True)), "answers": [row[4]]} for row in POPE]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def row(**changes: Any) -> dict[str, Any]:
    return {"id": "1", "prediction": "red", "answer": "red", "prompt": "What?", **changes}


def load(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> Log:
    return load_log(write(tmp_path / "log.jsonl", list(rows)), **options)


def test_a_small_log_in_the_shape_of_the_real_ones(tmp_path: Path) -> None:
    predictions = read_log(write(tmp_path / "original.jsonl", pope_rows()), task="pope")
    score = yes_no_score(predictions)
    assert (score.tp, score.fp, score.tn, score.fn, score.unparsed_yes) == (1, 1, 1, 1, 1)
    assert [item.answer for item in predictions] == ["yes", "no", "no", "yes", UNPARSED]
    first = predictions[0]
    assert first.key == ("pope", "1", "")
    assert (first.kind, first.cluster, first.references, first.score) == ("yes_no", "a.jpg", ("yes",), 1.0)
    assert (first.question, first.text) == ("Is there a dog?", "Yes, there is a dog in the image.")
    assert first.image_sha256 == predictions[1].image_sha256 != predictions[2].image_sha256
    assert len({item.prompt_sha256 for item in predictions}) == 5
    assert first.generation is None
    assert first.failure is None


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared logs of LLaVA-1.5-7B are not on this machine")
@pytest.mark.parametrize(
    ("name", "counts", "accuracy", "f1"),
    [
        ("original", (1151, 45, 1455, 349), 0.868667, 0.853858),
        ("visionzip", (950, 34, 1466, 550), 0.805333, 0.764895),
    ],
)
def test_the_real_logs_give_their_published_table(
    name: str, counts: tuple[int, ...], accuracy: float, f1: float
) -> None:
    score = yes_no_score(read_log(SHARED / f"{name}.jsonl"))
    assert (score.tp, score.fp, score.tn, score.fn) == counts
    assert (score.unparsed_yes, score.unparsed_no, score.failed) == (0, 0, 0)
    assert (score.accuracy, score.f1) == (pytest.approx(accuracy, abs=5e-7), pytest.approx(f1, abs=5e-7))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared logs of LLaVA-1.5-7B are not on this machine")
def test_the_real_logs_pair_and_flip_as_published() -> None:
    original, accelerated = (
        {item.key: item for item in read_log(SHARED / f"{name}.jsonl")} for name in ("original", "visionzip")
    )
    pairs = [(item, accelerated[key]) for key, item in original.items()]
    assert len(pairs) == 3000
    assert all(left.content == right.content for left, right in pairs)
    assert sum(left.text != right.text for left, right in pairs) == 1002
    assert sum(left.answer != right.answer for left, right in pairs) == 288
    assert sum(left.score > right.score for left, right in pairs) == 239
    assert sum(left.score < right.score for left, right in pairs) == 49


def test_the_same_log_in_four_files_gives_the_same_predictions(tmp_path: Path) -> None:
    rows = pope_rows()
    expected = read_log(write(tmp_path / "a.jsonl", rows))
    (tmp_path / "list.jsonl").write_text(json.dumps(rows))
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
    cells = [[*row_[:4], f'"[""{row_[4]}""]"'] for row_ in POPE]
    lines = [
        "qid,image_path,prompt,pred,gold",
        *(",".join(f'"{c}"' if i < 4 else c for i, c in enumerate(r)) for r in cells),
    ]
    (tmp_path / "a.csv").write_text("\r\n".join(lines))
    for name in ("list.jsonl", "a.json", "a.csv"):
        assert read_log(tmp_path / name) == expected


def test_our_own_records_are_taken_as_they_are(tmp_path: Path) -> None:
    records = read_log(write(tmp_path / "a.jsonl", pope_rows()), task="pope")
    odd = [Prediction.from_json({**item.to_json(), "answer": "as graded before"}) for item in records]
    log = load(tmp_path, *(item.to_json() for item in [*odd, odd[0]]))
    assert list(log.predictions) == odd
    assert (log.duplicates, log.columns) == (1, {})
    changed = {**odd[0].to_json(), "text": "other"}
    with pytest.raises(LogError, match=r"log.jsonl:2: .* already occurred at .*log.jsonl:1 with other content"):
        load(tmp_path, odd[0].to_json(), changed)
    # The same id in another task or under a perturbation is another question.
    assert len(load(tmp_path, odd[0].to_json(), {**changed, "task": "mme"}).predictions) == 2
    # A column map says that the file is somebody else's log after all.
    assert load(tmp_path, odd[0].to_json(), columns={"id": "sample_id"}).predictions[0].answer == "yes"


def test_identical_duplicates_are_dropped_with_a_count_and_others_refused(tmp_path: Path) -> None:
    log = load(tmp_path, row(), row(id="2"), row(), row())
    assert [item.sample_id for item in log.predictions] == ["1", "2"]
    assert log.duplicates == 2
    assert log.notes == ("identical duplicate rows dropped: 2.",)
    with pytest.raises(LogError, match=r"log.jsonl:2: the id '1' already occurred at .*log.jsonl:1 with other content"):
        load(tmp_path, row(), row(prediction="blue"))


def test_ids_that_restart_in_each_category_become_category_and_id(tmp_path: Path) -> None:
    rows = [row(category=category, prompt=f"{category}?") for category in ("random", "popular")]
    log = load(tmp_path, *rows, rows[0])
    assert [item.sample_id for item in log.predictions] == ["random/1", "popular/1"]
    assert [item.family for item in log.predictions] == ["random", "popular"]
    assert log.notes == (
        "identical duplicate rows dropped: 1.",
        "ids restart in each category: 'category/id' is used.",
    )
    with pytest.raises(LogError, match="already occurred"):  # twice within one category: refused after all
        load(tmp_path, *rows, row(category="random", prompt="else?"))
    by_hand = load(tmp_path, *rows, columns={"id": "category+id"})
    assert [item.sample_id for item in by_hand.predictions] == ["random+1", "popular+1"]
    assert [item.sample_id for item in load(tmp_path, rows[0]).predictions] == ["1"]


def test_an_answer_that_is_null_is_a_recorded_failure_and_an_empty_one_is_an_answer(tmp_path: Path) -> None:
    log = load(tmp_path, row(prediction=None), row(id="2", prediction=""), row(id="3"))
    failed, empty, good = log.predictions
    assert failed.failure == Failure("LogError", f"{tmp_path}/log.jsonl:1: the log holds no answer to this question")
    assert (failed.answer, failed.text, failed.score) == (UNPARSED, "", 0.0)
    assert (empty.failure, empty.answer, empty.score) == (None, UNPARSED, 0.0)
    assert good.score == 1.0
    assert log.notes == ("rows without an answer, counted as failed: 1.",)
    (tmp_path / "nan.jsonl").write_text('\n{"id": 1, "pred": NaN, "gold": "x"}\n')
    nan = load_log(tmp_path / "nan.jsonl")
    assert nan.predictions[0].failure is not None
    assert nan.notes[0] == "empty lines skipped: 1."


def test_scores_in_the_log_are_compared_and_ours_are_used(tmp_path: Path) -> None:
    golds = ["red"] * 3 + ["blue"] * 7
    log = load(
        tmp_path,
        row(answers=golds, score=0.9),
        row(id="2", answers=golds, score=1),
        row(id="3", answers=golds, score="C"),
        row(id="4", answers=golds, score=None),
        row(id="5", answers=golds, score=90),
        row(id="6", answers=golds, prediction="green", score=False),
    )
    assert [item.score for item in log.predictions] == [0.9] * 5 + [0.0]
    assert (log.imported_scores, log.score_disagreements) == (3, 1)
    assert log.notes == ("scores in the log that differ from ours: 1 of 3; ours are used.",)


def test_kinds(tmp_path: Path) -> None:
    log = load(
        tmp_path,
        row(id="open"),
        row(id="ten", answer=["red"] * 10),
        row(id="choice", options=["red", "blue"], answer="A", prediction="B"),
        row(id="said", kind="yes_no", answer="no", prediction="No."),
        row(id="other", kind="vqa", answer="no", prediction="No."),
    )
    kinds = {item.sample_id: item.kind for item in log.predictions}
    assert kinds == {"open": "open", "ten": "open_ten", "choice": "choice", "said": "yes_no", "other": "open"}
    chosen = log.predictions[2]
    assert (chosen.answer, chosen.choices, chosen.references) == ("blue", ("red", "blue"), ("A",))
    forced = load(tmp_path, row(answer="yes", prediction="Yes.", choices=["x", "y"]), kind="open").predictions[0]
    assert (forced.kind, forced.answer, forced.choices) == ("open", "yes", ())
    with pytest.raises(InvalidOption, match="kind is 'opne'; use one of open"):
        load(tmp_path, row(), kind="opne")


def test_pictures_are_known_by_their_base_names(tmp_path: Path) -> None:
    log = load(
        tmp_path,
        row(id="1", image="/home/x/val2014/a.jpg"),
        row(id="2", image="C:\\data\\a.jpg"),
        row(id="3", image=["q/a.jpg", "b.jpg"]),
        row(id="4", image={"path": "z/a.jpg", "bytes": None}),
        row(id="5", image={"bytes": "…"}),
        row(id="6", image=12, cluster="c"),
        row(id="7", group="g", category="f", question="Q?"),
    )
    one, two, three, four, five, six, seven = log.predictions
    assert one.image_sha256 == two.image_sha256 == four.image_sha256 == three.image_sha256[:1]
    assert len(three.image_sha256) == 2
    assert [item.cluster for item in log.predictions] == ["a.jpg", "a.jpg", "a.jpg b.jpg", "a.jpg", "5", "c", "7"]
    assert five.image_sha256 == ()
    assert len(six.image_sha256) == 1
    assert (seven.group, seven.family, seven.question) == ("g", "f", "Q?")


def test_the_prompt_or_else_the_question_is_what_both_sides_share(tmp_path: Path) -> None:
    asked = load(tmp_path, row(question="Q?"), row(id="2", prompt=None, question="What?"), row(id="3", prompt=""))
    hashes = [item.prompt_sha256 for item in asked.predictions]
    assert hashes[0] == hashes[1]
    assert hashes[2] == ""


def test_ids_are_texts_or_numbers(tmp_path: Path) -> None:
    log = load(tmp_path, row(id=17), row(id=18.0), row(id=" x "))
    assert [item.sample_id for item in log.predictions] == ["17", "18", "x"]
    for bad in (None, "", True, {"a": 1}):
        with pytest.raises(LogError, match=r"log.jsonl:1: the id in 'id' is .*; give every row a text or a number"):
            load(tmp_path, row(id=bad))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction": {"text": "x"}}, "log.jsonl:2: column 'prediction': found .* where a text belongs"),
        ({"prediction": ["a", "b"]}, "log.jsonl:2: column 'prediction'"),
        ({"answer": None}, "log.jsonl:2: question '2': there is no reference answer"),
        ({"answer": True}, "log.jsonl:2: column 'answer': found True"),
        ({"answer": "['a' 'b']"}, "log.jsonl:2: column 'answer': the list .* has no commas"),
        ({"choices": ["x"]}, "log.jsonl:2: question '2': a choice needs 2 to 26 options, found 1"),
        ({"choices": ["x", "y"]}, "log.jsonl:2: question '2': the gold option is 'red'; write a letter"),
        ({"kind": "yes_no"}, "log.jsonl:2: question '2': the reference of a yes/no question is 'red'"),
        ({"prompt": ["x"]}, "log.jsonl:2: column 'prompt'"),
    ],
)
def test_a_bad_row_is_named_with_its_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(LogError, match=message):
        load(tmp_path, row(), row(id="2", **changes))


def test_a_row_without_the_answer_column_stops_the_import(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"log.jsonl:2: there is no 'prediction'; finish the run, or write null"):
        load(tmp_path, row(), {"id": "2", "answer": "x"})


def test_one_answer_in_a_list_is_that_answer(tmp_path: Path) -> None:
    log = load(tmp_path, row(prediction=["red"]), row(id="2", prediction=3, answer=3))
    assert [item.score for item in log.predictions] == [1.0, 1.0]


def test_lines_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="more than 20 bytes"):
        read_log(write(tmp_path / "a.jsonl", [row()]), max_line_bytes=20)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["yes", "A", "['x']"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["answer", "path", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)
columns = ("id", "prediction", "answer", "choices", "image", "score", "kind", "category", "sample_id", "prompt_sha256")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(st.sampled_from(columns), json_values, max_size=10), max_size=3))
def test_any_rows_give_predictions_or_a_log_error_with_the_file(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    filled = [{"id": str(index), "prediction": "x", "answer": "x", **values} for index, values in enumerate(rows)]
    path = tmp_path / "fuzz.jsonl"
    path.write_text("\n".join(map(json.dumps, filled)))
    refusal, predictions = "fuzz.jsonl", []
    try:
        predictions = read_log(path)
    except LogError as error:
        refusal = str(error)
    assert "fuzz.jsonl" in refusal
    for item in predictions:
        json.dumps(item.to_json(), allow_nan=False, ensure_ascii=False).encode("utf-8")
