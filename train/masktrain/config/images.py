"""Settings of a fit about what is learnt from: which images, how often, and what they go through.

Light imports only, as in :mod:`masktrain.config.sections`.
"""

from __future__ import annotations

from dataclasses import dataclass

from maskprep.base import BACKGROUNDS, UsageError, parse_colour
from masktrain.config.settings import Section, setting

RECIPES = ["none", "light", "base", "strong", "batched"]
SAMPLES = ["all", "balanced", "sqrt", "weighted", "person", "oversample", "undersample"]


@dataclass(frozen=True)
class DataConfig(Section):
    """Which crops, before which background, and who is held out."""

    view: str | None = setting(None, "View of the cache to train on (default: the only one, or 'face').")
    task: str = setting(
        "",
        "Attributes to learn, such as age or mask,gender; by default all. The "
        "split of the people does not depend on it.",
    )
    where: str = setting(
        "", "Train only on images of some classes, such as mask=wear or mask=incorrect|normal; all held out are scored."
    )
    val_ratio: float = setting(0.2, "Share of the people held out for validation.", low=0, high=0.5, open_low=True)
    split_seed: int = setting(
        0,
        "Number of the random split of the people; independent of --seed, so that seeds can be compared.",
        low=0,
        high=2**32 - 1,
    )
    train_bins: str | None = setting(
        None, "Other class limits for a number in training, such as age=30,58; scores use those of the schema."
    )
    drop_intervals: str | None = setting(None, "Numbers not to train on, both ends too, such as age=28-29,57-59.")
    label_margin: str | None = setting(
        None, "Do not train on numbers nearer than this to a limit, such as age=2 (58, 59, 60, 61)."
    )
    soft_labels: str | None = setting(
        None,
        "In training, share labels near a limit between both classes, as if a number were off by so much, such as"
        " age=2.",
    )
    extra: tuple[str, ...] = setting(
        (),
        "More caches to train on, never to validate on: PATH, or PATH=2 to see each of its images twice in an epoch.",
    )
    extra_where: str = setting(
        "", "Of the further caches, only images of some classes, such as age=>=60 or mask=incorrect|normal."
    )
    teacher: str = setting(
        "",
        "Learn from the out-of-fold answers of a run of all folds or an ensemble (distillation). They were made with"
        " the people that are held out here, so compare on the eval split.",
        "arXiv 1503.02531",
    )
    teacher_share: float = setting(
        0.7,
        "Share of the teacher's answers in the targets; the rest are the labels.",
        "arXiv 1503.02531",
        low=0,
        high=1,
    )
    fold: str = setting("", "Hold out the k-th of K folds, written k/K, instead of val_ratio.")
    folds_file: str | None = setting(None, "CSV with the columns person and fold, instead of folds made here.")
    background: str = setting(
        "original",
        "Behind the subject: original, or (with mattes) mean (the data set's colour), colour, blur, or random (only in"
        " training).",
        choices=BACKGROUNDS,
    )
    colour: str = setting("grey", "The colour of --background colour: #rrggbb, r,g,b or a name.")
    statistics: str = setting(
        "whole",
        "Normalise by the mean and std of the data set's crops (whole), of their foregrounds (foreground, with"
        " mattes), or by those that the weights of the model were trained with (model).",
        choices=("whole", "foreground", "model"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_colour(self.colour)


@dataclass(frozen=True)
class SampleConfig(Section):
    """Which training images an epoch holds."""

    kind: str = setting(
        "all",
        "all (each once), balanced (classes alike), sqrt (by the root of their size), weighted (sample.shares), person"
        " (people alike), oversample or undersample (to sample.level).",
        choices=SAMPLES,
    )
    by: str = setting("joint", "Classes that are balanced: joint, or an attribute such as age.")
    shares: tuple[float, ...] = setting(
        (), "Share of each class, for weighted; the shares of classes without images go to the others.", low=0
    )
    level: float = setting(
        1.0,
        "Oversample classes up to this share of the largest; undersample down to the smallest divided by it.",
        low=0,
        high=1,
        open_low=True,
    )
    photos: int = setting(
        0,
        "Photos of each person and class per epoch, different ones each time; 0 for all (1: one of five worn masks).",
        low=0,
    )


@dataclass(frozen=True)
class AugmentConfig(Section):
    """What training images go through; validation never does."""

    recipe: str = setting(
        "light",
        "Augmentation: none, light, base, strong, or albumentations:FILE.yaml (a list of albumentations, on the CPU).",
        choices=RECIPES,
        prefix="albumentations:",
    )
    classes: tuple[str, ...] = setting(
        (),
        "Another recipe for some classes, written ATTRIBUTE=CLASS:RECIPE, such as age=>=60:strong (or joint=CLASS); of"
        " several that fit an image the first one counts.",
    )
    mixup: float = setting(0.0, "Share of images blended with another.", "mixup, arXiv 1710.09412", low=0, high=1)
    cutmix: float = setting(
        0.0, "Share of images with a rectangle of another.", "CutMix, arXiv 1905.04899", low=0, high=1
    )
    halves: float = setting(0.0, "Share of images whose left or right half is another's.", low=0, high=1)
    within: float = setting(0.0, "Share of the halves that come from the same class.", low=0, high=1)
    alpha: float = setting(
        1.0,
        "Mixing ratios of mixup and cutmix are drawn from Beta(alpha, alpha).",
        "arXiv 1905.04899",
        low=0,
        open_low=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixup + self.cutmix + self.halves > 1 + 1e-9:
            raise UsageError("'mixup', 'cutmix' and 'halves' are shares of the images; they add up to more than 1.")
