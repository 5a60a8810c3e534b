"""Recipes beside each other on people-disjoint folds of one cache, at equal budget, with intervals over people.

    python benchmarks/recipes.py CACHE --out FOLDER [--view NAME] [--epochs 8] [--folds 5] [--seeds 1]
                                 [--base joint] [--only heads,number] [--answers ANSWERS.csv] [--set KEY=VALUE]

Every recipe trains for the same epochs on the same folds; everyone is scored by the model that held them out. Those
with a + are the base and what their name says. Beside the scores stand the differences to the base, paired over people,
and the minutes: several networks take several times as long. Other backgrounds need mattes and are left out without.
A mean over the folds' models cannot be scored on people that some of them know; with --answers, a CSV for the eval
split, it is scored there beside the single models. The settings of a fit may be changed with --set for all recipes
alike. What is done is kept: the same command goes on where it was stopped. The table is FOLDER/recipes.md.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd

from maskprep.dataset import open_view
from maskprep.errors import UserError
from masktrain.answer import evaluate
from masktrain.cli import show
from masktrain.config.config import FitConfig, assignments
from masktrain.data.trainset import TrainSet
from masktrain.runs import folder as runs
from masktrain.score import metrics, paired
from masktrain.study import crossfit
from masktrain.study import fit as fitting
from masktrain.train.targets import make_target

PLAIN = {"loss.class_weights": "none"}
LDAM = {
    "model.head": "cosine",
    "loss.name": "ldam",
    "loss.class_weights": "effective",
    "loss.defer": 0.8,
    "loss.label_smoothing": 0.0,
}
SOFT_F1 = {**PLAIN, "loss.name": "ce_f1", "loss.f1_share": 0.7, "loss.label_smoothing": 0.0, "sample.kind": "sqrt"}
RECIPES: dict[str, dict[str, Any]] = {
    "joint": {"target.kind": "joint"},
    "from scratch": {"model.pretrained": False},
    "heads": {"target.kind": "heads"},
    "ordinal": {"target.kind": "ordinal"},
    "number": {"target.kind": "number", "data.soft_labels": "age=2"},
    "+ weighted sampler": {**PLAIN, "sample.kind": "sqrt"},
    "+ cutmix": {"augment.cutmix": 0.5},
    "+ halves": {"augment.halves": 0.5, "augment.within": 0.5},
    "+ LDAM": LDAM,
    "+ soft F1": SOFT_F1,
    "+ random background": {"data.background": "random"},
    "+ mean background": {"data.background": "mean"},
    "+ EMA": {"optim.ema": 0.99},
    "+ strong": {"augment.recipe": "strong"},
}


@dataclass(frozen=True)
class Row:
    """One recipe: everyone's truth and held-out answer, all seeds after one another, and how long it took."""

    name: str
    images: np.ndarray
    people: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    folds: list[float]
    minutes: float


def trained(cache: Path, config: FitConfig, folder: Path) -> None:
    """Fit all folds, or what is left of them."""
    if not folder.is_dir() or not any(folder.iterdir()):
        crossfit.crossfit(cache, config, out=folder, progress=show.PrintedFit())
        return
    crossfit.resume(folder, cache, progress=show.PrintedFit())


def row(name: str, folders: list[Path]) -> Row:
    """A recipe from what its runs have written."""
    tables = [pd.read_parquet(f / runs.OOF).sort_values("image", ignore_index=True) for f in folders]
    parts = [member for f in folders for member in runs.members(f)]
    records = [runs.read_metrics(member) for member in parts]
    both = pd.concat(tables, ignore_index=True)
    return Row(
        name,
        both["image"].to_numpy(),
        both["person"].to_numpy(),
        both["label"].to_numpy(dtype=np.int64),
        both.filter(regex=r"^p_\d+$").to_numpy().argmax(1),
        [max(r["macro_f1"] for r in own) for own in records],
        sum(r["seconds"] for own in records for r in own) / 60,
    )


def table(rows: list[Row], base: Row, classes: int, about: str, ensemble: list[str]) -> str:
    """The rows as Markdown, compared with one of them."""
    lines = [
        about,
        "",
        f"| recipe | macro-F1 (95 % over people) | minus {base.name} (95 %), p | accuracy | folds | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        matrix = metrics.confusion(r.truth, r.predicted, classes)
        interval = metrics.interval(r.truth, r.predicted, r.people.tolist(), classes)
        against = ""
        if r is not base:
            d = paired.compare(r.truth, r.predicted, base.predicted, r.people.tolist(), classes)
            against = d.text
        folds = f"{min(r.folds):.3f} to {max(r.folds):.3f}"
        lines.append(
            f"| {r.name} | {metrics.macro_f1(matrix):.4f} ({interval.text()}) | {against}"
            f" | {metrics.accuracy(matrix):.4f} | {folds} | {r.minutes:.1f} |"
        )
    return "\n".join([*lines, *ensemble]) + "\n"


def together(cache: Path, folder: Path, answers: Path) -> list[str]:
    """The models of the folds alone and together on the eval split."""
    alone = [evaluate.evaluate(member, cache, answers=answers, by=()) for member in runs.members(folder)]
    both = evaluate.evaluate(folder, cache, answers=answers, by=())
    single = ", ".join(f"{r.scores.macro_f1:.4f}" for r in alone)
    return [
        "",
        f"Eval split, {both.scores.n} images: models of the folds alone {single}; together {both.scores.macro_f1:.4f}"
        f" ({both.interval.text()}).",
    ]


def main() -> None:
    """Fit what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--view")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--only", default="", help="names of recipes, separated by commas; the base is always among them"
    )
    parser.add_argument("--base", default="joint", choices=[n for n in RECIPES if not n.startswith("+")])
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    args = parser.parse_args()
    view = open_view(args.cache, args.view)
    asked = [args.base, *(n.strip() for n in args.only.split(",") if n.strip() not in ("", args.base))]
    wanted = [args.base, *(n for n in RECIPES if (not args.only or n in asked) and n != args.base)]
    if unknown := set(asked) - set(RECIPES):
        raise UserError(f"There is no recipe {', '.join(sorted(unknown))}.", f"There are: {', '.join(RECIPES)}.")
    matted = view.table["matte"].notna().any() if len(view) else False
    shared = {"data.view": view.name, "data.val_ratio": 1 / args.folds, "optim.epochs": args.epochs}
    shared |= assignments(args.settings)
    about = (
        f"{view.path.name}, view {view.name} {view.size[0]}x{view.size[1]}, {args.folds} folds, {args.epochs} epochs,"
        f" {args.seeds} seed{'s' * (args.seeds > 1)}"
        + (f"; {', '.join(args.settings)}" if args.settings else "")
        + ". Each person is scored by the model that held them out."
    )
    rows: list[Row] = []
    ensemble: list[str] = []
    for name in wanted:
        keys = RECIPES["joint"] | (RECIPES[args.base] if name.startswith("+") else {}) | RECIPES[name]
        if "data.background" in keys and not matted:
            print(f"{name}: left out, as view {view.name} has no mattes")
            continue
        try:
            config = FitConfig.from_keys(shared | keys)
            fitting.check(TrainSet.open(view, config), config)
            make_target(keys["target.kind"], view.schema)
        except UserError as error:
            if name == args.base:
                raise
            print(f"{name}: left out, as it does not fit these classes: {error.message}")
            continue
        folders = []
        for seed in range(args.seeds):
            plain = "".join(c if c.isalnum() else "-" for c in name.removeprefix("+ ")).replace("--", "-")
            own = plain if not name.startswith("+") else f"{args.base}-{plain}"
            folders.append(args.out / f"{own}-seed{seed}")
            config = FitConfig.from_keys(shared | keys | {"run.seed": seed})
            print(f"== {name}, seed {seed}", flush=True)
            trained(args.cache, config, folders[-1])
        rows.append(row(name, folders))
        if name == args.base and args.answers is not None:
            ensemble = together(args.cache, folders[0], args.answers)
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "recipes.md").write_text(
            table(rows, rows[0], view.schema.num_classes, about, ensemble), encoding="utf-8"
        )
    print((args.out / "recipes.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None
