"""Bringing stages up to date: missing rows are cut into tasks, and each photo of a task is opened once for all stages
that want it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from maskprep.base import RowError, UserError, counted, some, write_with
from maskprep.store import shards
from maskprep.store.pool import Pool
from maskprep.store.stage import KEYED, Compute, Input, MapStage, Report, Stage, Tables, TableStage
from maskprep.store.tables import write_table

Made = list[tuple[int, int, list[tuple[str, str]]]]
"""By shard: number of its stage, rows made, and (image, why) for those that failed."""


def refresh(
    stages: Sequence[Stage],
    tables: Tables,
    pool: Pool,
    photo: Callable[[str], Any],
    report: Report,
    *,
    frozen: Collection[str] = (),
) -> None:
    """Bring stages up to date. Those that read the photos and need no other of them share one decode of each photo.

    Args:
        stages: in the order in which data flows.
        tables: of their cache.
        pool: the workers.
        photo: image -> the photo that is handed to :meth:`MapStage.open`'s function; it is pickled to the workers.
        report: filled.
        frozen: names of stages that make no rows now; what they have made is kept in order.

    Raises:
        UserError: anything that the user can mend.
        KeyboardInterrupt: stopped; all committed shards stay and the next run goes on from them.
    """
    waiting: list[MapStage[Any]] = []

    def flush(rest: Sequence[Stage]) -> None:
        followers = [s for s in rest if isinstance(s, MapStage) and s.follows in {w.name for w in waiting}]
        for stage in followers:
            report.notes += stage.purge(tables)
        _fill([s for s in waiting if s.name not in frozen], followers, tables, pool, photo, report)
        for stage in waiting:
            stage.close(tables, report)
            tables.forget(stage.name)
            report.notes += stage.notes(tables)
        waiting.clear()

    for number, stage in enumerate(stages):
        needed = {s.name for s in waiting} & {*stage.needs}
        if needed or (waiting and isinstance(stage, MapStage) and not stage.reads_photos):
            flush(stages[number:])
        if isinstance(stage, TableStage):
            stage.refresh(tables, report)
        elif isinstance(stage, MapStage):
            if stage.name not in frozen:
                stage.prepare()
            if tables.is_current(stage.name):
                report.notes += stage.notes(tables)
                continue
            report.notes += stage.purge(tables)
            tables.forget(stage.name)
            waiting.append(stage)
    if waiting:
        flush(())


@dataclass(frozen=True)
class _Part:
    """A shard to be made. A task is a list of these; one that follows another comes after it.

    Args:
        stage: its number in the work.
        path: of the shard's table.
        inputs: image -> what its row is made from.
        leader: number of the stage that this one follows, -1 without one.
        following: the photos that come through it.
        known: keys of those that have a row already.
    """

    stage: int
    path: Path
    inputs: Mapping[str, Input[Any]]
    leader: int = -1
    following: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()


def _fill(
    stages: Sequence[MapStage[Any]],
    followers: Sequence[MapStage[Any]],
    tables: Tables,
    pool: Pool,
    photo: Callable[[str], Any],
    report: Report,
) -> None:
    """Make the missing rows of stages that share a decode."""
    everybody = (*stages, *followers)
    titles = [stage.name for stage in everybody]
    step = min((stage.rows_per_shard for stage in everybody), default=1)
    tasks: list[list[_Part]] = []
    of_image: dict[str, list[_Part]] = {}
    for number, stage in enumerate(stages):
        inputs = {i.image: i for i in tables.inputs(stage.name)}
        folder, have = stage.folder(tables.cache), stage.committed(tables)
        for chunk in shards.plan(folder, [(i.image, i.key) for i in inputs.values()], step, have):
            own = {image: inputs[image] for image, _ in chunk.pairs}
            if (task := of_image.get(chunk.pairs[0][0])) is None:
                tasks.append(task := [])
                of_image |= dict.fromkeys(own, task)
            task.append(_Part(number, shards.shard_path(folder, chunk.shard), own))
    for number, stage in enumerate(followers, len(stages)):
        _follow(tasks, number, stage, titles.index(stage.follows), tables)
    if not tasks:
        return
    report.progress.start(" + ".join(titles), sum(len(_images(task)) for task in tasks))
    work = _Work(tuple(stage.worker() for stage in everybody), photo)
    failed: dict[str, dict[str, str]] = {}
    for made in pool.run(work, tasks, report.progress.advance):
        for number, rows, failures in made:
            if rows:
                report.computed[titles[number]] += rows
            failed.setdefault(titles[number], {}).update(failures)
    for title, lost in failed.items():
        report.failed |= dict(sorted(lost.items()))
        if lost:
            examples = some([f"{image}: {why}" for image, why in sorted(lost.items())])
            report.notes.append(
                f"{counted(len(lost), 'photo')} failed in '{title}' ({examples}); the next run tries again."
            )
    for title in titles:
        tables.forget(title)


def _follow(tasks: list[list[_Part]], number: int, stage: MapStage[Any], leader: int, tables: Tables) -> None:
    """Add to every shard of a stage the one of the stage that follows it, under the same number.

    So a run that was killed makes the same ones. Where that number is taken, the photos wait for their own pass.
    """
    folder, have = stage.folder(tables.cache), stage.committed(tables)
    keys = dict(zip(have["image"].astype(str), have["key"].astype(str), strict=True))
    for task in tasks:
        for part in [part for part in task if part.stage == leader]:
            path, images = folder / part.path.name, frozenset(filter(stage.may_follow, part.inputs))
            if images and not path.exists():
                known = frozenset(keys[image] for image in images if image in keys)
                task.append(_Part(number, path, {}, leader, images, known))


def _images(task: Sequence[_Part]) -> list[str]:
    return list(dict.fromkeys(image for part in task for image in part.inputs))


@dataclass(frozen=True)
class _Work:
    """What a worker does with a task: every photo once, through all stages that want it."""

    stages: tuple[MapStage[Any], ...]
    photo: Callable[[str], Any]

    @contextmanager
    def open(self) -> Iterator[Callable[[Sequence[_Part], Callable[[int], None], Mapping[int, str]], Made]]:
        with ExitStack() as stack:
            computes = [stack.enter_context(stage.open()) for stage in self.stages]

            def make(task: Sequence[_Part], at: Callable[[int], None], dead: Mapping[int, str]) -> Made:
                made = [_Shard(part, self.stages[part.stage], computes[part.stage]) for part in task]
                for number, image in enumerate(_images(task)):
                    if number in dead:
                        for shard in made:
                            if image in shard.part.inputs:
                                shard.failed.append((image, dead[number]))
                        continue
                    at(number)
                    photo, rows = self.photo(image), dict[int, dict[str, Any]]()
                    for shard in made:
                        shard.add(image, photo, rows)
                for shard in reversed(made):  # a shard is committed before the one it follows
                    shard.commit()
                return [(shard.part.stage, len(shard.rows), shard.failed) for shard in made]

            yield make


class _Shard:
    """One shard while it is made."""

    def __init__(self, part: _Part, stage: MapStage[Any], compute: Compute) -> None:
        self.part, self.stage, self.compute = part, stage, compute
        self.rows: list[dict[str, Any]] = []
        self.failed: list[tuple[str, str]] = []
        shape = stage.array_shape
        self._arrays = None if shape is None else np.empty((len(part.inputs) + len(part.following), *shape), np.uint8)

    def add(self, image: str, photo: Any, rows: dict[int, dict[str, Any]]) -> None:
        """Make the row of one photo, if it is to have one. ``rows``: those made of it before, by stage.

        A stage that fails on a photo, in whatever way, costs that row and no more.
        """
        source = self.part.inputs.get(image)
        try:
            if image in self.part.following and self.part.leader in rows:
                source = self.stage.follow(image, rows[self.part.leader])
            if source is None or source.key in self.part.known:
                return
            output = self.compute(photo, source.row)
        except UserError:
            raise
        except Exception as error:
            self.failed.append((image, _why(error)))
            return
        if output is None:
            self.failed.append((image, "it can no longer be read"))
            return
        rows[self.part.stage] = output[0]
        if self._arrays is not None and output[1] is not None:
            self._arrays[len(self.rows)] = output[1]
        self.rows.append({"image": image, "key": source.key, "row": len(self.rows), **output[0]})

    def commit(self) -> None:
        """Write the pixels, then the table: without it there is no shard."""
        if not self.rows and self.part.following:
            return
        if (arrays := self._arrays) is not None:
            write_with(self.part.path.with_suffix(".npy"), lambda part: np.save(part, arrays[: len(self.rows)]))
        schema = pa.schema([*KEYED, *self.stage.columns])
        write_table(self.part.path, pa.Table.from_pylist(self.rows, schema=schema))


def _why(error: Exception) -> str:
    """In words, why a row could not be made."""
    if isinstance(error, MemoryError):
        return "out of memory"
    return str(error) if isinstance(error, RowError) else f"{type(error).__name__}: {error}"
