"""evaluate and predict: every photo counts once, and is found by its name."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from maskprep.labels.schema import MASK_SCHEMA
from maskprep.photos import load
from masktrain.answer import card
from masktrain.answer.evaluate import evaluate
from masktrain.answer.predict import predict
from masktrain.cli import tables
from masktrain.data import names as answers
from masktrain.score import metrics
from masktrain.train.checkpoint import load_sidecar

Rows = list[dict[str, str]]


@pytest.fixture
def truth(cache: Path) -> pd.DataFrame:
    """The true joint label of every photo of the split eval, by file name."""
    table = pd.read_csv(cache / "truth.csv")
    table = table[table["image"].str.startswith("eval/")]
    return pd.DataFrame({"ImageID": table["image"].str.removeprefix("eval/"), "ans": table["truth"]})


def read(file: Path) -> Rows:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_the_held_out_people_score_as_in_training(own_run: Path, cache: Path) -> None:
    report = evaluate(own_run, cache)
    # two photos of the first person have no crop; they count if that person is held out
    data = json.loads((own_run / "data.json").read_text())
    first = "0000" in data["people"]["val"]
    assert report.scores.n == 28 + 2 * first and len(report.without_crop) == 2 * first
    if not first:
        assert report.scores.macro_f1 == pytest.approx(load_sidecar(own_run).score, abs=1e-12)
    assert report.warnings == [] and "held out" in report.what
    assert json.loads(report.file.read_text())["scores"]["macro_f1"] == report.scores.macro_f1
    assert report.file == own_run / "eval-people-val.json"


def test_other_images_of_a_cache_have_a_file_of_their_own(own_run: Path, cache: Path, truth: pd.DataFrame) -> None:
    truth.to_csv(own_run / "val.csv", index=False)
    asked: list[dict[str, Any]] = [{}, {"split": "train"}]
    asked += [{"answers": own_run / "val.csv"}, {"answers": own_run / "val.csv", "split": "eval"}]
    reports = [evaluate(own_run, cache, **each) for each in asked]
    parts = [r.file.stem.removeprefix("eval-people-") for r in reports]
    assert parts == ["val", "train", "by-val", "by-val-eval"]
    assert [json.loads(r.file.read_text())["scores"]["n"] for r in reports] == [r.scores.n for r in reports]
    rows = {(what, n, f1) for what, n, f1, *_ in card.evaluations(own_run)[0]}
    assert rows == {(r.what, r.scores.n, r.scores.macro_f1) for r in reports}
    reports[0].file.write_text("[]")
    with pytest.raises(UserError, match=r"eval-people-val\.json is damaged") as error:
        card.evaluations(own_run)
    assert "evaluate the run again" in error.value.hint


def test_answers_are_matched_by_name_in_any_order(own_run: Path, cache: Path, truth: pd.DataFrame) -> None:
    predict(own_run, cache, own_run / "p.csv", split="eval")
    predicted = {r["ImageID"]: int(r["ans"]) for r in read(own_run / "p.csv")}
    assert list(predicted) == truth["ImageID"].tolist()
    shuffled = truth.sample(frac=1, random_state=0)
    shuffled.to_csv(own_run / "answers.csv", index=False)
    report = evaluate(own_run, cache, answers=own_run / "answers.csv")
    expected = metrics.confusion(truth["ans"].to_numpy(), np.array([predicted[i] for i in truth["ImageID"]]), 6)
    assert report.scores.macro_f1 == pytest.approx(metrics.macro_f1(expected), abs=1e-12)
    assert report.scores.n == 20 and report.interval.people == 20
    assert report.scores.macro_f1 > 0.5


@pytest.mark.parametrize("form", ["label", "names", "attributes", "float", "bom and path"])
def test_forms_of_answers(own_run: Path, cache: Path, truth: pd.DataFrame, form: str) -> None:
    schema = open_view(cache).schema
    encoding = "utf-8"
    table = truth.rename(columns={"ans": "label"})
    if form == "names":
        table["label"] = [schema.class_names[k].upper() for k in truth["ans"]]
    elif form == "attributes":
        table = truth[["ImageID"]].rename(columns={"ImageID": "file"})
        for i, name in enumerate(schema.joint):
            table[name.title()] = [schema[name].classes[schema.decode(k)[i]] for k in truth["ans"]]
    elif form == "float":
        table["label"] = truth["ans"].astype(float)
    elif form == "bom and path":
        encoding, table = "utf-8-sig", truth.assign(ImageID="eval/" + truth["ImageID"], person="one")
    table.to_csv(own_run / "answers.csv", index=False, encoding=encoding)
    truth.to_csv(own_run / "plain.csv", index=False)
    plain = evaluate(own_run, cache, answers=own_run / "plain.csv")
    report = evaluate(own_run, cache, answers=own_run / "answers.csv")
    assert report.scores == plain.scores
    assert report.interval.people == (1 if form == "bom and path" else 20)


def add_row(table: pd.DataFrame, name: str, ans: Any = 0) -> pd.DataFrame:
    return pd.concat([table.astype(object), pd.DataFrame({"ImageID": [name], "ans": [ans]})])


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: add_row(t, "nowhere.jpg"), r"1 photo that the cache does not have: nowhere\.jpg"),
        (lambda t: add_row(t, "wear0.jpg"), r"matching several images: wear0\.jpg \(train/"),
        (lambda t: add_row(t, "0030" + "0.jpg"), r"names photos twice: 00300\.jpg"),
        (lambda t: add_row(t, "00301.jpg", 6).iloc[[-1]], "1 answer outside the classes: '6' in row 2"),
        (lambda t: t.assign(ans=""), "20 answers outside the classes: '' in row 2"),
        (lambda t: t.assign(ans="wear"), "20 answers outside the classes: 'wear'"),
        (lambda t: t.rename(columns={"ans": "x"}), r"no answers; it needs ans, label or the columns mask, gender"),
        (lambda t: t.rename(columns={"ImageID": "x"}), "no column with file names"),
        (lambda t: t.iloc[:0], "has no rows"),
    ],
)
def test_answers_that_cannot_be_used(
    run: Path, cache: Path, truth: pd.DataFrame, tmp_path: Path, change: Callable[..., pd.DataFrame], said: str
) -> None:
    change(truth).to_csv(tmp_path / "answers.csv", index=False)
    with pytest.raises(UserError, match=said):
        evaluate(run, cache, answers=tmp_path / "answers.csv")


def test_a_name_that_is_not_clear_is_clear_within_a_split(own_run: Path, synthetic: ModuleType, tmp_path: Path) -> None:
    names = answers.Names(["train/a/1.jpg", "eval/1.jpg", "2.jpg", "a/2.jpg"])
    assert names.find("1.jpg") == ["train/a/1.jpg", "eval/1.jpg"]
    assert names.find("eval/1.jpg") == names.find("./eval/1.jpg") == names.find("eval\\1.jpg") == ["eval/1.jpg"]
    assert names.find("a/1.jpg") == ["train/a/1.jpg"]
    assert names.find("2.jpg") == ["2.jpg"]  # a whole path
    assert names.find("n/1.jpg") == names.find("3.jpg") == []


def test_a_photo_without_a_crop_counts_as_the_most_frequent_class(own_run: Path, cache: Path) -> None:
    report = evaluate(own_run, cache, split="train")
    assert report.scores.n == 150
    assert report.without_crop == ["train/0000_x/wear0.jpg", "train/0000_x/wear1.jpg"]
    assert "people that the run was trained on" in report.warnings[0]
    predict(own_run, cache, own_run / "p.csv", split="train")
    answered = sum(r["ans"] == str(load_sidecar(own_run).fallback) for r in read(own_run / "p.csv"))
    assert {c.name: c.predicted for c in report.scores.classes}["wear/male"] == answered + 2


def test_labels_of_the_eval_split_are_used_when_there_are_some(own_run: Path, cache: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(cache, tmp_path / "copy"))
    labels, known = pd.read_parquet(copy / "labels.parquet"), pd.read_csv(copy / "truth.csv")
    labels["label"] = known["truth"].astype("Int64")
    labels.to_parquet(copy / "labels.parquet")
    report = evaluate(own_run, copy)
    assert report.scores.n == 20 and "'eval'" in report.what and report.warnings == []


def test_what_cannot_be_evaluated(own_run: Path, cache: Path, synthetic: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run"):
        evaluate(tmp_path, cache)
    with pytest.raises(UsageError, match="no split 'holdout'"):
        evaluate(own_run, cache, split="holdout")
    small = synthetic.write_cache(tmp_path / "small", size=(16, 16))
    with pytest.raises(UsageError, match=r"crops of 32x32, view 'face' of .* has 16x16") as error:
        evaluate(own_run, small)
    assert "--size 32x32" in error.value.hint
    (own_run / "best.safetensors").write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"best\.safetensors cannot be used"):
        evaluate(own_run, cache)


def test_other_people_are_not_taken_for_those_held_out(own_run: Path, synthetic: ModuleType, tmp_path: Path) -> None:
    other = synthetic.write_cache(tmp_path / "other", seed=5)
    data = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps(data | {"source": data["source"] | {"root": "elsewhere"}}))
    keys = other / "views/face/00000.parquet"
    table = pd.read_parquet(keys)
    table.assign(key="x" + table["key"].astype(str)).to_parquet(keys)
    with pytest.raises(UsageError, match="its people are not those of the run"):
        evaluate(own_run, other)


def test_probabilities_and_statuses(own_run: Path, cache: Path) -> None:
    done = predict(own_run, cache, own_run / "p.csv", proba=True)
    rows = read(own_run / "p.csv")
    assert done.rows == len(rows) == 170
    assert list(rows[0])[:3] == ["ImageID", "ans", "class"] and list(rows[0])[-1] == "status"
    assert done.unanswered == {f"train/0000_x/wear{k}.jpg": "unreadable" for k in (0, 1)}
    for row in rows:
        p = [float(v or "nan") for k, v in row.items() if k.startswith("p_")]
        if row["ans"]:
            assert sum(p) == pytest.approx(1, abs=1e-4) and int(row["ans"]) == int(np.argmax(p))
            assert row["status"] == "ok"
        else:
            assert row["status"] == "unreadable"


def test_all_is_well_without_a_status(own_run: Path, cache: Path) -> None:
    done = predict(own_run, cache, own_run / "p.csv", split="eval")
    assert done.unanswered == {} and (own_run / "p.csv").read_text().startswith("ImageID,ans,class\n00300.jpg,")


def test_what_cannot_be_predicted(own_run: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        predict(own_run, cache, tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        predict(own_run, tmp_path / "nowhere", tmp_path / "p.csv")
    with pytest.raises(UsageError, match="no split 'holdout'"):
        predict(own_run, cache, tmp_path / "p.csv", split="holdout")
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match="is not a cache"):
        predict(own_run, tmp_path / "photos", tmp_path / "p.csv", split="eval")


class Pipeline:
    """Stands in for the preprocessing: every photo becomes a crop, except those called broken."""

    def __init__(self, synthetic: ModuleType) -> None:
        self.synthetic, self.calls = synthetic, []

    def prepare(
        self, source: Path, cache: Path, settings: dict[str, Any], view: str, workers: int, matted: bool
    ) -> None:
        assert not matted
        self.calls.append((settings, view, workers))
        names = sorted(p.relative_to(source).as_posix() for p in source.rglob("*.*g"))
        good = [n for n in names if "broken" not in (source / n).resolve().name]
        rng = np.random.default_rng(0)
        crops = [self.synthetic.draw(int(Path(n).stem[-1]) % 3, 0, (32, 32), rng) for n in good]
        cache.mkdir()
        schema = self.synthetic.SCHEMA.to_dict()
        (cache / "dataset.json").write_text(json.dumps(self.synthetic.dataset_of(schema)))
        pd.DataFrame({"image": names}).to_parquet(cache / "images.parquet")
        status = ["ok" if n in good else "unreadable" for n in names]
        pd.DataFrame({"image": names, "status": status}).to_parquet(cache / "subjects.parquet")
        labels = ["person", "label", "excluded", *(attribute.name for attribute in self.synthetic.SCHEMA.attributes)]
        pd.DataFrame({"image": names, **dict.fromkeys(labels)}).to_parquet(cache / "labels.parquet")
        self.synthetic.write_view(cache, view, good, crops, 1, 0, rng)


@pytest.fixture
def pipeline(synthetic: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    import maskprep

    stand_in = Pipeline(synthetic)
    monkeypatch.setitem(sys.modules, "maskprep.pipeline", stand_in)
    monkeypatch.setattr(maskprep, "pipeline", stand_in, raising=False)
    return stand_in


def photos(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"photo")
    return folder


def test_photos_go_through_the_settings_of_the_run(own_run: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    source = photos(tmp_path / "photos", "a0.jpg", "b1.jpg", "c2.jpg")
    predict(own_run, source, tmp_path / "p.csv", workers=3)
    assert pipeline.calls == [(pipeline.synthetic.dataset_of({})["settings"], "face", 3)]
    assert [(r["ImageID"], int(r["ans"]) // 2) for r in read(tmp_path / "p.csv")] == [
        ("a0.jpg", 0), ("b1.jpg", 1), ("c2.jpg", 2),
    ]  # fmt: skip
    assert sorted(p.name for p in source.rglob("*")) == ["a0.jpg", "b1.jpg", "c2.jpg"]  # the source is left alone


def test_photos_in_folders_keep_their_paths(own_run: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    source = photos(tmp_path / "photos", "x/a0.jpg", "y/a0.jpg", "y/broken1.jpg")
    done = predict(own_run, source, tmp_path / "p.csv", proba=True)
    rows = read(tmp_path / "p.csv")
    assert [(r["ImageID"], r["status"]) for r in rows] == [
        ("x/a0.jpg", "ok"), ("y/a0.jpg", "ok"), ("y/broken1.jpg", "unreadable"),
    ]  # fmt: skip
    assert rows[2]["ans"] == rows[2]["p_wear/male"] == "" and done.unanswered == {"y/broken1.jpg": "unreadable"}


def test_one_photo(own_run: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    source = photos(tmp_path / "photos", "a0.jpg", "b1.jpg")
    predict(own_run, source / "b1.jpg", tmp_path / "p.csv")
    assert [r["ImageID"] for r in read(tmp_path / "p.csv")] == ["b1.jpg"]


def test_pictures_in_memory(own_run: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    kept: list[NDArray[np.uint8]] = []

    def prepare(source: Path, *args: Any, **more: Any) -> None:
        kept[:] = [load(p) for p in sorted(source.iterdir())]
        Pipeline.prepare(pipeline, source, *args, **more)

    pipeline.prepare = prepare  # type: ignore[method-assign]
    turned = Image.fromarray(array)
    exif = turned.getexif()
    exif[0x0112] = 3  # upside down
    turned.info["exif"] = exif.tobytes()
    done = predict(own_run, [array, Image.fromarray(array), turned, Image.fromarray(array).convert("CMYK")])
    for seen, wanted in zip(kept, [array, array, array[::-1, ::-1], None], strict=True):
        assert wanted is None or (seen == wanted).all()  # without loss
    assert kept[3].shape == array.shape
    table = done.table
    assert table is not None and done.file is None and table["ImageID"].tolist() == ["0", "1", "2", "3"]
    predict(own_run, [array] * 4, tmp_path / "p.parquet")
    pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / "p.parquet"), check_dtype=False)
    one = predict(own_run, array).table
    assert one is not None and len(one) == 1
    for wrong in (array.astype(float), array[..., 0], "no picture"):
        with pytest.raises(UsageError, match="Picture 1 is a"):
            predict(own_run, [array, wrong])  # type: ignore[list-item]


def test_one_photo_is_answered_in_the_terminal(
    own_run: Path,
    pipeline: Pipeline,
    tmp_path: Path,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = photos(tmp_path / "photos", "b1.jpg")
    assert call("predict", own_run, source / "b1.jpg") == 0
    said = capsys.readouterr().out
    row = predict(own_run, source / "b1.jpg").table
    assert row is not None and row["mask"][0] == "wear"
    assert f"answer  {row['class'][0]} (class {row['ans'][0]})" in said
    assert f"mask    wear {row['mask_p'][0]:.1%}" in said and "status  ok" in said
    tables.predicted(pd.Series({"ans": np.nan, "status": "no_face"}), MASK_SCHEMA, 0, "no face found")
    assert "no answer: no_face (no face found)" in capsys.readouterr().out
    assert call("predict", own_run, source) == 2
    assert "not a single photo" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix) == []


def test_an_info_csv_decides_rows_and_order(own_run: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    source = photos(tmp_path / "photos", "images/a0.jpg", "images/b1.jpg", "images/c2.jpg")
    (source / "info.csv").write_text("ImageID,ans\nc2.jpg,0\na0.jpg,0\nmissing.jpg,0\n")
    done = predict(own_run, source, tmp_path / "p.csv")
    rows = read(tmp_path / "p.csv")
    assert [(r["ImageID"], r["status"]) for r in rows] == [
        ("c2.jpg", "ok"), ("a0.jpg", "ok"), ("missing.jpg", "missing"),
    ]  # fmt: skip
    assert done.unanswered == {"missing.jpg": "missing"}
    photos(source, "other/a0.jpg")
    with pytest.raises(UserError, match=r"several photos are called a0\.jpg"):
        predict(own_run, source, tmp_path / "again.csv")


def test_the_order_of_photos_and_batches_does_not_matter(own_run: Path, cache: Path, tmp_path: Path) -> None:
    for size in (1, 7, 64):
        predict(own_run, cache, tmp_path / f"{size}.csv", proba=True, batch_size=size)
    one, seven, all_ = (pd.read_csv(tmp_path / f"{s}.csv").set_index("ImageID").filter(like="p_") for s in (1, 7, 64))
    np.testing.assert_allclose(one, all_, atol=2e-5)
    np.testing.assert_allclose(seven, all_, atol=2e-5)
