"""A run as one file: what comes back, and files that nobody should trust."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskprep.dataset.view import open_view
from maskprep.errors import UserError
from masktrain.answer import model
from masktrain.answer.evaluate import evaluate
from masktrain.cli import app as cli
from masktrain.combine import ensemble
from masktrain.config.config import FitConfig
from masktrain.pages.compare import compare
from masktrain.runs import archive as pack
from masktrain.study.fit import fit, resume


def test_a_run_is_used_elsewhere(run: Path, cache: Path, tmp_path: Path) -> None:
    made = pack.pack(run, tmp_path / "run.zip")
    assert "last.ckpt" in made.left_out and not any(n.endswith(".html") for n in made.left_out)
    back = pack.unpack(tmp_path / "run.zip", tmp_path / "elsewhere" / "theirs").place
    theirs = {p.relative_to(back).as_posix() for p in back.rglob("*") if p.is_file()}
    assert {"best.safetensors", "best.json", "config.yaml", "data.json", "oof.parquet"} <= theirs
    assert all((back / n).read_bytes() == (run / n).read_bytes() for n in theirs)
    moved = tmp_path / "their cache"
    shutil.copytree(cache, moved)
    rows = np.arange(5)
    view = open_view(moved)
    np.testing.assert_array_equal(model.load(back)(view, rows), model.load(run)(open_view(cache), rows))
    assert evaluate(back, moved, split="val").scores == evaluate(run, cache, split="val").scores
    assert compare([run, back]).rows[0].scores == compare([run, back]).rows[1].scores
    for kept in run.glob("eval-people-val.*"):
        kept.unlink()


def test_no_faces_unless_asked(run: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(run, tmp_path / "own"))
    (own / "explain").mkdir()
    photo = "data:image/jpeg;base64,"
    for name in ("explain/explain.html", "explain/decisions-draft-2.csv", "explain/attention.csv"):
        (own / name).write_text(photo if name.endswith("html") else "image\n")
    assert "data:image/" in (own / "report.html").read_text()
    without = pack.pack(own, tmp_path / "a.zip")
    assert without.faces == ("explain/decisions-draft-2.csv", "explain/explain.html", "report.html")
    with zipfile.ZipFile(tmp_path / "a.zip") as made:
        assert not any(b"data:image/" in made.read(name) for name in made.namelist())
        assert not set(without.faces) & set(made.namelist()) and "explain/attention.csv" in made.namelist()
    pack.pack(own, tmp_path / "b.zip", with_faces=True)
    with zipfile.ZipFile(tmp_path / "b.zip") as made:
        assert set(without.faces) <= set(made.namelist())


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copies" / run.name, copy_function=shutil.copy)  # of another time
    pack.pack(run, tmp_path / "a.zip")
    pack.pack(tmp_path / "copies" / run.name, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_whole_run_goes_on_elsewhere(
    run: Path, cache: Path, config: Callable[..., FitConfig], tmp_path: Path
) -> None:
    pack.pack(run, tmp_path / "run.zip", whole=True)
    back = pack.unpack(tmp_path / "run.zip", tmp_path / "back").place
    shutil.copytree(cache, tmp_path / "moved")
    assert resume(back, tmp_path / "moved").best == json.loads((run / "result.json").read_text())["best"]


def test_an_ensemble_is_one_file(run: Path, cache: Path, config: Callable[..., FitConfig], tmp_path: Path) -> None:
    other = fit(cache, config(run__seed=3, optim__epochs=1), out=tmp_path / "other").run
    both = ensemble.ensemble([run, other], tmp_path / "both").run
    pack.pack(both, tmp_path / "both.zip")
    wanted = model.load(both)(open_view(cache), np.arange(4))
    shutil.rmtree(both)
    back = pack.unpack(tmp_path / "both.zip", tmp_path / "back").place
    np.testing.assert_array_equal(model.load(back)(open_view(cache), np.arange(4)), wanted)


def test_nothing_is_written_over(run: Path, tmp_path: Path) -> None:
    pack.pack(run, tmp_path / "run.zip")
    with pytest.raises(UserError, match="already exists"):
        pack.pack(run, tmp_path / "run.zip")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        pack.unpack(tmp_path / "run.zip", tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert pack.unpack(tmp_path / "run.zip", tmp_path / "empty").place == tmp_path / "empty"
    with pytest.raises(UserError, match="would lie in the run itself"):
        pack.pack(tmp_path / "empty", tmp_path / "empty" / "x.zip")
    with pytest.raises(UserError, match="is not a run"):
        pack.pack(tmp_path / "full", tmp_path / "x.zip")
    (tmp_path / "empty" / "a:b.json").write_text("{}")
    with pytest.raises(UserError, match="not every system"):
        pack.pack(tmp_path / "empty", tmp_path / "x.zip")
    (tmp_path / "empty" / "a:b.json").unlink()
    (tmp_path / "empty" / "extra.json").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="is a link"):
        pack.pack(tmp_path / "empty", tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def written(file: Path, entries: dict[str, bytes], *, listed: dict[str, bytes] | None = None, mode: int = 0o100644):
    """A zip as pack writes it, of anything; ``listed`` is what it says it holds."""
    known = {n: {"sha256": hashlib.sha256(b).hexdigest(), "bytes": len(b)} for n, b in (listed or entries).items()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(pack.MANIFEST, json.dumps({"format": 1, "name": "theirs", "files": known}))
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, mode << 16
            made.writestr(info, data)


SIDE = {"best.json": b"{}", "best.safetensors": b"x"}


@pytest.mark.parametrize(
    "entries, said",
    [
        ({"../evil.json": b"{}"}, "no plain file"),
        ({"a/../../evil.json": b"{}"}, "no plain file"),
        ({"/tmp/evil.json": b"{}"}, "no plain file"),
        ({"C:\\evil.json": b"{}"}, "no plain file"),
        ({"a//b.json": b"{}"}, "no plain file"),
        ({"con.json": b"{}"}, "no plain file"),
        ({"a/AUX": b"{}"}, "no plain file"),
        ({"\x1b[31m.json": b"{}"}, r"holds '\\x1b\[31m\.json', which is no plain file"),
        ({"evil.py": b"import os"}, "which no run holds"),
        ({"other.ckpt": b"x"}, "which no run holds"),
        ({"model.pt": b"x"}, "which no run holds"),
        ({"BEST.json": b"{}"}, "each once"),
        ({"ensemble.json": b'{"members": [{"folder": "../../secret"}]}'}, "is not in it"),
        ({"ensemble.json": b'{"members": 3}'}, "cannot be read"),
    ],
)
def test_files_that_are_not_trusted(tmp_path: Path, entries: dict[str, bytes], said: str) -> None:
    written(tmp_path / "x.zip", SIDE | entries)
    with pytest.raises(UserError, match=said):
        pack.unpack(tmp_path / "x.zip", tmp_path / "in" / "run")
    assert {p.name for p in tmp_path.rglob("*")} <= {"x.zip", "in"}


def test_links_bombs_and_damage(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "in" / "run"

    def refused(said: str, file: Path = tmp_path / "x.zip") -> None:
        with pytest.raises(UserError, match=said):
            pack.unpack(file, out)
        assert not out.exists() and not (out.parent.is_dir() and any(out.parent.iterdir()))

    written(tmp_path / "x.zip", SIDE, mode=stat.S_IFLNK | 0o777)
    refused("no plain file")
    written(tmp_path / "x.zip", SIDE | {"big.json": bytes(3 * 2**20)})
    monkeypatch.setattr(pack, "ANYWAY", 2**20)
    refused("times its size")
    monkeypatch.undo()
    written(tmp_path / "x.zip", SIDE | {"a.json": b"{}"}, listed=SIDE | {"a.json": b"[]"})
    refused("is not what was packed")
    written(tmp_path / "x.zip", SIDE | {"a.json": b"{}"}, listed=SIDE)
    refused("does not hold the files")
    written(tmp_path / "x.zip", SIDE | {"a.json": b"{}"}, listed=SIDE | {"a.json": b"{ }"})
    refused("another size")
    written(tmp_path / "x.zip", {"metrics.jsonl": b"{}"})
    refused("not a run with a finished epoch")
    (tmp_path / "x.zip").write_bytes(b"PK, but no zip")
    refused("cannot be unpacked")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        made.writestr("best.json", "{}")
    refused("is no packed run")
    pack.pack(run, tmp_path / "good.zip")
    whole = (tmp_path / "good.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    refused("cannot be unpacked", tmp_path / "cut.zip")
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 255
    (tmp_path / "flipped.zip").write_bytes(broken)
    refused("cannot be unpacked|not what was packed", tmp_path / "flipped.zip")


def test_a_size_that_is_no_number(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        listed = '{"best.json": {"sha256": "0", "bytes": 1e400}}'
        made.writestr(pack.MANIFEST, f'{{"format": 1, "name": "theirs", "files": {listed}}}')
    with pytest.raises(UserError, match="is no packed run"):
        pack.unpack(tmp_path / "x.zip", tmp_path / "run")


def test_a_name_that_leads_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known = {n: {"sha256": hashlib.sha256(b).hexdigest(), "bytes": len(b)} for n, b in SIDE.items()}
    for name in ("../theirs", "a/b", "..", ""):
        with zipfile.ZipFile("x.zip", "w") as made:
            made.writestr(pack.MANIFEST, json.dumps({"format": 1, "name": name, "files": known}))
            for each, data in SIDE.items():
                made.writestr(each, data)
        with pytest.raises(UserError, match="no name of a folder"):
            pack.unpack(Path("x.zip"))
    assert [p.name for p in tmp_path.iterdir()] == ["x.zip"]


def test_the_commands(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["pack", str(run), "run.zip"], ["unpack", "run.zip"]):
        monkeypatch.setattr(sys, "argv", ["masktrain", *command])
        with pytest.raises(SystemExit) as done:
            cli.main()
        assert done.value.code == 0
    out = capsys.readouterr().out
    assert (
        "not packed: last.ckpt" in out
        and "not packed, as they show photos: report.html" in out
        and (tmp_path / "runs" / run.name / "best.json").is_file()
    )
