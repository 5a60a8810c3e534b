"""What a decision of decisions.csv does to the choice of a photo's face."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from maskprep.faces.choice import Choice
from maskprep.faces.face import Face, iou
from maskprep.store import Decision, holders, images_by_content, parse_box

SAME_BOX_IOU = 0.5
"""An expected box and one found now are the same when they overlap this much."""


def by_image(decisions: Iterable[Decision], contents: dict[str, str]) -> tuple[dict[str, Decision], list[str]]:
    """The last decision on the face of each image, and sentences about decisions on photos that are not there.

    Args:
        decisions: in order; a later one on the same photo replaces an earlier one.
        contents: image -> content of every photo.
    """
    images = images_by_content(contents)
    last: dict[str, Decision] = {}
    lost = []
    for decision in decisions:
        held = holders(decision, images)
        last |= dict.fromkeys(held, decision)
        if not held:
            what = "has changed" if decision.image in contents else "is not there"
            lost.append(f"decisions.csv, line {decision.line}: stale, the photo '{decision.image}' {what}.")
    return last, lost


def decision_reason(decision: Decision) -> str:
    """Why it was decided so: the person's words, or the verdict and who gave it."""
    return decision.reason or f"decided: {decision.verdict}" + (f" by {decision.by}" if decision.by else "")


def rule(decision: Decision, choice: Choice, faces: Sequence[Face]) -> tuple[Choice, str]:
    """Apply a decision to the automatic choice.

    Returns:
        The choice that holds (status ``decided`` or ``dropped``), or the automatic one when the decision is stale,
        and in that case why.
    """
    expected = parse_box(decision.expected)
    reason = decision_reason(decision)
    if choice.status == "unreadable":
        return choice, "" if decision.verdict == "drop" else "the photo cannot be read"
    if decision.verdict == "face":
        wanted = next((face for face in faces if int(decision.value) in face.faces), None)
        if expected is not None and (wanted is None or iou(wanted.box, expected) < SAME_BOX_IOU):
            alike = [face for face in faces if iou(face.box, expected) >= SAME_BOX_IOU]
            wanted = max(alike, key=lambda face: iou(face.box, expected)) if alike else None
        if wanted is None:
            return choice, f"there is no such face {decision.value} any more"
        return Choice("decided", wanted.faces[0], wanted.box, reason, wanted.keypoints), ""
    if expected is not None and (choice.box is None or iou(choice.box, expected) < SAME_BOX_IOU):
        return choice, "the choice is another one now"
    if decision.verdict == "drop":
        return Choice("dropped", reason=reason), ""
    if decision.verdict == "box":
        return Choice("decided", None, parse_box(decision.value), reason), ""
    if choice.box is None:
        return choice, "there is no choice to keep"
    return Choice("decided", choice.face, choice.box, reason, choice.keypoints), ""
