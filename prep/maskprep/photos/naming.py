"""Names: which photo a user means, and how the files are called that are made of photos."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from maskprep.base import UsageError, some


def result_names(images: Sequence[str], suffix: str = ".png") -> dict[str, str]:
    """The result's name for every photo: the tree is kept, and no two photos share one, nor has one the name of a
    folder, whatever the file system thinks of capital letters.

    Returns:
        image -> name; the photo's suffix is replaced, or kept in front of the new one where that would collide; a
        number comes before the new one where that would collide too.
    """
    folders = {str(folder).casefold() for image in images for folder in PurePosixPath(image).parents}
    names = {image: str(PurePosixPath(image).with_suffix(suffix)) for image in images}

    def clashing() -> list[str]:
        counts = Counter(name.casefold() for name in names.values())
        return [i for i in images if counts[names[i].casefold()] > 1 or names[i].casefold() in folders]

    while clashes := [image for image in clashing() if names[image] != image + suffix]:
        names.update((image, image + suffix) for image in clashes)
    clashes = sorted(clashing())
    taken = folders | {names[image].casefold() for image in images if image not in set(clashes)}
    for image in clashes:
        tried = (f"{image}{f'-{n}' if n else ''}{suffix}" for n in itertools.count())
        names[image] = next(name for name in tried if name.casefold() not in taken)
        taken.add(names[image].casefold())
    return names


def find_image(images: Sequence[str], name: str, root: Path) -> str:
    """The one of a cache's images that a user means: the key itself, a path to the file, or an unambiguous end of it.

    Raises:
        UsageError: none or several fit.
    """
    known = set(images)
    if name in known:
        return name
    path = Path(name).resolve()
    if path.is_relative_to(root) and (key := path.relative_to(root).as_posix()) in known:
        return key
    tail = PurePosixPath(name).parts
    ends = [image for image in images if PurePosixPath(image).parts[-len(tail) :] == tail]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UsageError(f"'{name}' may mean {len(ends)} images: {some(ends, 4)}", "Give more of the path.")
    raise UsageError(
        f"The cache has no image '{name}'.",
        f"Names are paths in the photo folder, such as '{images[0]}'." if images else "",
    )
