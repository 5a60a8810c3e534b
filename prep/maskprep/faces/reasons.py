"""Why one face and not another, in words."""

from __future__ import annotations

from collections.abc import Sequence

from maskprep.faces.choice import WEIGHTS, Candidate, holds_another
from maskprep.faces.face import CREDIBLE, Face

MORE = {
    "size": "larger",
    "person": "more where the person's other photos have the face",
    "centre": "nearer to the middle",
    "dataset": "more where most photos have the face",
    "sharpness": "in better focus",
    "matte": "more of it in the matte",
}
"""Each signal's comparative."""

LITTLE = 0.01
"""A difference of marks that is not worth a word."""


def compare(chosen: Candidate, other: Candidate) -> str:
    """Why ``chosen`` stands before ``other``: what speaks for it, the weightiest first, then what speaks against it."""
    shared = [name for name in WEIGHTS if name in chosen.signals and name in other.signals]
    total = sum(WEIGHTS[name] for name in shared)
    gain = {name: WEIGHTS[name] / total * (chosen.signals[name] - other.signals[name]) for name in shared}
    ordered = sorted((name for name in shared if abs(gain[name]) >= LITTLE), key=lambda name: -abs(gain[name]))

    def say(name: str) -> str:
        return f"{MORE[name]} ({chosen.signals[name]:.2f} against {other.signals[name]:.2f})"

    pros = [say(name) for name in ordered if gain[name] > 0]
    if other.face.evidence < min(CREDIBLE, chosen.face.evidence):
        pros.insert(0, f"the other is probably no face (evidence {other.face.evidence:.2f})")
    cons = [f"not {say(name)}" for name in ordered if gain[name] < 0]
    against = f"; although {', '.join(cons)}" if cons else ""
    return (", ".join(pros) or "nothing sets them apart") + against


def not_faces(faces: Sequence[Face], width: int, height: int) -> list[str]:
    """A sentence for each detection that counts as no face because somebody's face lies within it."""
    return [
        f"face {face.faces[0]} is none: another face, much surer, lies within its box"
        for face in faces
        if holds_another(face, faces, width, height)
    ]
