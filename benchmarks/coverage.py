"""How often the 95 % intervals hold the truth, by simulation; no data is needed, and the seeds are fixed.

    python benchmarks/coverage.py [--draws 1000]

People have a gender and an age group, and photos with one of three mask states (18 classes) or of one (6 classes).
Some groups are rare: a small sample often lacks a class. Whether a model is right depends on the person, on the group
and on the photo, so that a person's photos are right or wrong together. A second model, 0.05 less accurate, shares
part of what it depends on. The truth is the score of 60,000 people; each sample of 6 to 191 people gets an interval of
macro-F1, of the difference of both models, of each class and of the accuracy.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from masktrain.score import metrics, paired

Ints = NDArray[np.int64]

GROUPS = np.array([0.25, 0.2, 0.07, 0.22, 0.2, 0.06])
"""Shares of gender and age group among people: 3 + 3."""
HARDER = np.array([-0.7, -0.4, -0.1, 0.1, 0.4, 0.7])
MASKS = {18: np.array([5, 1, 1]) / 7, 6: np.ones(1)}
"""Shares of the mask states among photos, by the number of classes."""
PHOTOS, BETWEEN, OWN = 7, 2.0, 1.5
"""Photos of a person; deviation of what people have for both models, and for each; the photo's is logistic."""


@dataclass
class Population:
    """Two models' answers to a world of people.

    Args:
        classes: 18 or 6.
        accuracy: of the first model; the second has 0.05 less.
    """

    classes: int
    accuracy: float
    ease: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for model, wanted in enumerate((self.accuracy, self.accuracy - 0.05)):
            low, high = -8.0, 8.0
            for _ in range(30):
                self.ease = [*self.ease[:model], (low + high) / 2]
                truth, answers, _ = self.draw(4000, np.random.default_rng(1))
                low, high = (
                    (self.ease[model], high) if (truth == answers[model]).mean() < wanted else (low, self.ease[model])
                )
        truth, answers, _ = self.draw(60_000, np.random.default_rng(2))
        matrices = [metrics.confusion(truth, a, self.classes) for a in answers]
        self.f1 = [metrics.macro_f1(m) for m in matrices]
        m = matrices[0]
        self.class_f1, _ = metrics.f1_per_class(np.diag(m), m.sum(1), m.sum(0))
        self.share = metrics.accuracy(m)

    def draw(self, people: int, rng: np.random.Generator) -> tuple[Ints, list[Ints], list[str]]:
        """True classes [n], answers [n] of each model, and who is in the photos [n]."""
        group, who = rng.choice(len(GROUPS), people, p=GROUPS), np.repeat(np.arange(people), PHOTOS)
        mask = rng.choice(len(MASKS[self.classes]), len(who), p=MASKS[self.classes])
        mistaken = (group + rng.choice([1, 5], people)) % len(GROUPS)
        common = BETWEEN * rng.normal(size=people) + HARDER[group]
        answers = []
        for ease in self.ease:
            own = common + OWN * rng.normal(size=people)
            right = ease + own[who] + rng.logistic(size=len(who)) > 0
            slips = rng.random(len(who)) < 0.25 * (1 - self.accuracy)
            state = np.where(slips, mask + 1, mask) % len(MASKS[self.classes])
            answers.append(state * len(GROUPS) + np.where(right, group[who], mistaken[who]))
        return mask * len(GROUPS) + group[who], answers, who.astype(str).tolist()

    def samples(self, people: int, draws: int) -> Iterator[tuple[Ints, list[Ints], list[str]]]:
        """Samples of so many people."""
        rng = np.random.default_rng([self.classes, people])
        return (self.draw(people, rng) for _ in range(draws))


def coverage(world: Population, people: int, draws: int) -> dict[str, tuple[float, float]]:
    """Of each kind of interval the share of samples in which it holds the truth, and its mean length."""
    found: dict[str, list[tuple[bool, float]]] = {}

    def note(what: str, low: float, high: float, truth: float) -> None:
        found.setdefault(what, []).append((low <= truth <= high, high - low))

    for truth, answers, who in world.samples(people, draws):
        made = metrics.interval(truth, answers[0], who, world.classes)
        note("macro-F1", made.low, made.high, world.f1[0])
        both = paired.compare(truth, *answers, who, world.classes)
        note("difference", both.low, both.high, world.f1[0] - world.f1[1])
        for own, f1 in zip(metrics.class_intervals(truth, answers[0], who, world.classes), world.class_f1, strict=True):
            if own.people >= metrics.FEW:
                note("classes", own.low, own.high, f1)
        share = metrics.share_interval(truth == answers[0], who)
        note("accuracy", share.low, share.high, world.share)
    return {
        k: (float(np.mean([hit for hit, _ in v])), float(np.mean([length for _, length in v])))
        for k, v in found.items()
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    metrics.FEW = 2  # also where the product says that there are too few
    kinds = ("macro-F1", "difference", "classes", "accuracy")
    print(f"| classes | accuracy | macro-F1 | people | {' | '.join(f'{k} (mean length)' for k in kinds)} |")
    print("|" + " --- |" * (4 + len(kinds)))
    for classes in MASKS:
        for accuracy in (0.5, 0.75, 0.9):
            world = Population(classes, accuracy)
            for people in (6, 8, 15, 38, 191):
                made = coverage(world, people, draws)
                cells = [f"{made[k][0]:.1%} ({made[k][1]:.2f})" if k in made else "" for k in kinds]
                print(f"| {classes} | {accuracy} | {world.f1[0]:.3f} | {people} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
