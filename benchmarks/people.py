"""The default fit beside a linear probe and beside 8 epochs, on few people and on many, with intervals over people.

    python benchmarks/people.py CACHE --out FOLDER [--people 30 60 191] [--size 128] [--folds 5] [--set KEY=VALUE]

For each number of people that many are drawn from the training people of the cache (which needs its photos), the same
in every run, and get a cache of their own with crops of --size. Everyone is scored by the network, or by the logistic
regression on frozen features, that did not know them; differences are paired over people. What is done is kept: the
same command goes on where it was stopped. The table is FOLDER/people.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd

import maskprep
from maskprep.dataset import View, open_view
from maskprep.errors import UserError
from masktrain.answer import baselines
from masktrain.cli import show
from masktrain.config.config import FitConfig, assignments
from masktrain.runs import folder as runs
from masktrain.score import metrics, paired
from masktrain.study import crossfit
from masktrain.train import device as devices
from masktrain.train.model import build


def part(cache: Path, people: int, size: int, folder: Path) -> Path:
    """A cache of some of the training people, with crops of a size; made once."""
    made = folder / f"{people}-people"
    if (made / "stats.json").is_file():
        return made
    images = pd.read_parquet(cache / "images.parquet")
    root = Path(maskprep.open(cache).root)
    train = images[(images["split"] == "train") & images["error"].isna()]
    names = np.sort(train["person"].dropna().unique())
    chosen = np.random.default_rng(0).permutation(names)[:people]
    photos = folder / f"{people}-photos"
    for image in train.loc[train["person"].isin(chosen), "image"]:
        (photos / image).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / image, photos / image)
    for name in root.rglob("*.csv"):  # lists that name the photos, where the layout has some
        if "eval" not in name.relative_to(root).parts:
            (photos / name.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, photos / name.relative_to(root))
    maskprep.open(photos, made).crop(size=(size, size)).stats()
    return made


def fitted(cache: Path, config: FitConfig, folder: Path) -> pd.DataFrame:
    """Everyone's answer by the network that held them out, in the order of the images."""
    if not folder.is_dir() or not any(folder.iterdir()):
        crossfit.crossfit(cache, config, out=folder, progress=show.PrintedFit())
    elif not (folder / runs.OOF).is_file():
        crossfit.resume(folder, cache, progress=show.PrintedFit())
    return pd.read_parquet(folder / runs.OOF).sort_values("image", ignore_index=True)


def probe(view: View, folder: Path, network: str) -> pd.Series:
    """The answers of logistic regression to the people whom each fold of a fit held out, by image."""
    device = devices.choose_device("auto")
    table = view.table
    rows = np.flatnonzero(table["label"].notna() & table["excluded"].isna() & (table["split"] == "train"))
    net = build(network, 0, view.size, pretrained=True).to(device).eval()
    mean, std = view.mean_std(rows)
    x = baselines.features(net, view, rows, mean.tolist(), std.tolist(), device, 64)
    labels, people = table["label"].iloc[rows].to_numpy(dtype=np.int64), table["person"].iloc[rows]
    answers = np.full(len(rows), -1, dtype=np.int64)
    for member in runs.members(folder):
        held = people.isin(runs.read_data(member)["people"]["val"]).to_numpy()
        answers[held] = baselines.regress(x[~held], labels[~held], x[held])
    return pd.Series(answers, index=table["image"].iloc[rows])


def line(people: int, cache: Path, folder: Path, folds: int, given: dict[str, object]) -> str:
    """A row of the table."""
    view = open_view(cache)
    shared = {"data.val_ratio": 1 / folds, "run.probe": False} | given
    default = fitted(cache, FitConfig.from_keys(shared), folder / f"{people}-default")
    eight = fitted(cache, FitConfig.from_keys(shared | {"optim.epochs": 8}), folder / f"{people}-8-epochs")
    truth, who = default["label"].to_numpy(dtype=np.int64), default["person"].tolist()
    answers = [t.filter(regex=r"^p_\d+$").to_numpy().argmax(1) for t in (default, eight)]
    answers.append(probe(view, folder / f"{people}-default", FitConfig().model.name).loc[default["image"]].to_numpy())
    classes = view.schema.num_classes
    cells = []
    for told in answers:
        interval = metrics.interval(truth, told, who, classes)
        cells.append(f"{metrics.macro_f1(metrics.confusion(truth, told, classes)):.3f} ({interval.text()})")
    against = [paired.compare(truth, answers[0], other, who, classes).text for other in answers[1:]]
    epochs = [max(r["epoch"] for r in runs.read_metrics(m)) for m in runs.members(folder / f"{people}-default")]
    return f"| {people} | {len(truth)} | {min(epochs)} to {max(epochs)} | " + " | ".join([*cells, *against]) + " |"


def main() -> None:
    """Fit what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--people", type=int, nargs="+", default=[30, 60, 191])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    args = parser.parse_args()
    head = ["people", "images", "epochs", "default", "8 epochs", "linear probe", "minus 8 epochs", "minus probe"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for people in args.people:
        cache = part(args.cache, people, args.size, args.out)
        lines.append(line(people, cache, args.out, args.folds, assignments(args.settings)))
        (args.out / "people.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None
