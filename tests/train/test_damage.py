"""A full disk, and weights that give no numbers: said to people, and nothing is answered or lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from maskprep.dataset import view as views
from maskprep.errors import UserError
from masktrain.answer.evaluate import evaluate
from masktrain.answer.predict import predict
from masktrain.config.config import FitConfig
from masktrain.study.fit import fit
from masktrain.train import checkpoint

resource = pytest.importorskip("resource", reason="needs limits on the size of files")


def test_damaged_pixels_are_not_trained_on(
    run: Path, cache: Path, config: Callable[..., FitConfig], tmp_path: Path
) -> None:
    own = Path(shutil.copytree(cache, tmp_path / "cache"))
    file = own / "views/face/00001.npy"
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    file.write_bytes(data)
    for work in (
        lambda: fit(own, config(optim__epochs=1), out=tmp_path / "run"),
        lambda: predict(run, own, tmp_path / "p.csv"),
        lambda: evaluate(run, own),
    ):
        with pytest.raises(
            UserError, match=r"00001\.npy' is damaged: the crop of \w+/.*jpg is not the one that was made"
        ) as caught:
            work()
        assert f"maskprep verify {own}" in caught.value.hint
    assert not (tmp_path / "p.csv").exists()


def test_a_crop_is_compared_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    right = views.is_intact
    monkeypatch.setattr(views, "is_intact", lambda *both: compared.append(1) or right(*both))
    view = views.open_view(cache)
    for part in (range(8), range(4, 12), range(12)):
        view.before(view.background).gather(part)
    assert len(compared) == 12


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_for_the_first_checkpoint(cache: Path, config: Callable[..., FitConfig], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with files_of_at_most(50_000), pytest.raises(UserError, match=r"last\.ckpt.* MiB are free") as caught:
        fit(cache, config(optim__epochs=1), out=out)
    assert "--resume" in caught.value.hint and not out.exists()
    assert fit(cache, config(optim__epochs=1), out=out).epochs == 1  # nothing is in the way


@pytest.mark.parametrize("size", [0, 4096, 50_000, 300_000])
def test_no_room_for_a_checkpoint(run: Path, tmp_path: Path, size: int) -> None:
    own = Path(shutil.copytree(run, tmp_path / "run"))
    model, sidecar = checkpoint.load_best(own, checkpoint.torch.device("cpu"))
    state = checkpoint.load_last(own)
    before = {path.name: path.read_bytes() for path in own.iterdir() if path.is_file()}
    with files_of_at_most(size):
        for write in (
            lambda: checkpoint.save_last(own, state),
            lambda: checkpoint.save_best(own, model.state_dict(), sidecar, {}),
        ):
            with pytest.raises(UserError, match="could not be written"):
                write()
    assert {path.name: path.read_bytes() for path in own.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("kind", ["weights", "mean"])
def test_a_run_that_gives_no_numbers_answers_nothing(run: Path, cache: Path, tmp_path: Path, kind: str) -> None:
    own = Path(shutil.copytree(run, tmp_path / "damaged"))
    if kind == "mean":
        sidecar = json.loads((own / "best.json").read_text())
        sidecar["mean"][1] = float("nan")
        (own / "best.json").write_text(json.dumps(sidecar))
    else:
        from safetensors.torch import load_file, save_file

        state = load_file(own / "best.safetensors")
        next(value for value in state.values() if value.ndim == 4).view(-1)[0] = float("nan")
        save_file(state, own / "best.safetensors")
        with pytest.raises(UserError, match=r"best\.safetensors is not the file that best\.json was written for"):
            predict(own, cache, tmp_path / "p.csv")
        sidecar = json.loads((own / "best.json").read_text())
        del sidecar["sha256"]  # as earlier versions wrote it
        (own / "best.json").write_text(json.dumps(sidecar))
    with pytest.raises(UserError, match=r"damaged gives no finite probabilities for \d+ of \d+ crops"):
        predict(own, cache, tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()
    with pytest.raises(UserError, match="no finite probabilities"):
        evaluate(own, cache)
