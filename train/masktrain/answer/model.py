"""Whatever was trained, with one interface: what it needs to see, and its probabilities for crops of a cache.

torch is imported only for runs: an exported ONNX file needs NumPy and onnxruntime.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, counted, missing_extra
from maskprep.dataset import View, open_view
from maskprep.labels import Schema
from maskprep.store import Cache
from masktrain.answer.spec import CropSpec, ModelSpec, check_made_alike
from masktrain.data import tasks
from masktrain.score import calibration as calibrations
from masktrain.score.calibration import Calibration

if TYPE_CHECKING:
    from masktrain.answer.graph import Graph

SPEC_KEY, CALIBRATION_KEY = "masktrain.manual", "masktrain.calibration"
"""Metadata of exported files."""

Rows = NDArray[np.int64]
Pixels = NDArray[np.uint8]
Table = NDArray[np.float32]
Read = tuple[Table, dict[str, NDArray[np.float64]]]
"""Probabilities [n, C], and the numbers [n] of the attributes that are answered with one."""


@dataclass(frozen=True)
class Program:
    """An exported file: ``answer`` gives probabilities [n, C] of a batch, uint8 [n, H, W, 3] for each input, and its
    numbers [n, 0]: there are none."""

    answer: Callable[[Sequence[Pixels]], tuple[Table, Table]]
    numbers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Model:
    """Something trained, with what must be known to use it; ``name`` is where it lies, for people."""

    spec: ModelSpec
    source: Graph | Program
    calibration: Calibration = field(default_factory=Calibration)
    name: str = "The model"

    @property
    def schema(self) -> Schema:
        """What it classifies."""
        return self.spec.labels()

    @property
    def graph(self) -> Graph:
        """Its networks.

        Raises:
            UsageError: it is an exported file.
        """
        if isinstance(self.source, Program):
            raise UsageError(f"{self.name} has no networks of torch; give the run that it was exported from.")
        return self.source

    def __call__(self, view: View, rows: Rows, batch_size: int = 64) -> Table:
        """Probabilities float32 [n, C] of some rows of a view's table, in their order; see :meth:`read`."""
        return self.read(view, rows, batch_size)[0]

    def read(self, view: View, rows: Rows, batch_size: int = 64) -> Read:
        """Probabilities and numbers of some rows of a view's table, in their order.

        What sees several kinds of crops finds the others in the same cache.

        Raises:
            UserError: the cache lacks crops that it needs, or a probability is no finite number.
        """
        first, *others = self.spec.inputs
        first.check_size(view)
        sights = [(first.of(view), rows)]
        for wanted in others if len(rows) else ():
            other = find_view(view.path, wanted, self.spec.settings)
            sights.append((wanted.of(other), same_images(view, rows, other)))
        parts = np.array_split(np.arange(len(rows)), max(1, -(-len(rows) // batch_size)))

        def gather(part: Rows) -> list[Pixels]:
            return [seen.gather(own[part]) for seen, own in sights]

        return self._answer(_ahead(gather, parts) if len(rows) else ())

    def of_crops(self, crops: Mapping[str, Pixels], batch_size: int = 64) -> Read:
        """Probabilities and numbers of crops in memory: for each input by name uint8 [n, H, W, 3] RGB, with the
        background that the input has.

        Raises:
            UserError: a probability is no finite number.
        """
        given = [crops[i.view] for i in self.spec.inputs]
        return self._answer([c[k : k + batch_size] for c in given] for k in range(0, len(given[0]), batch_size))

    def _answer(self, batches: Any) -> Read:
        names = self.source.numbers
        tables, numbers = [np.zeros((0, n), dtype=np.float32) for n in (len(self.spec.classes), len(names))]
        found = [(tables, numbers), *(self.source.answer(batch) for batch in batches)]
        tables, numbers = (np.concatenate(parts) for parts in zip(*found, strict=True))
        probabilities = self.calibration.temper(tables.astype(np.float32))
        if wrong := int((~np.isfinite(probabilities).all(1)).sum()):
            raise UserError(
                f"{self.name} gives no finite probabilities for {wrong} of {len(probabilities)} crops: its weights or"
                " normalisation are damaged.",
                "Restore it from a copy, or train anew.",
            )
        return probabilities, dict(zip(names, numbers.T.astype(np.float64), strict=True))

    @property
    def numbers(self) -> list[str]:
        """The attributes that are answered with a number."""
        return list(self.source.numbers)

    def answers(
        self, probabilities: Table, numbers: Mapping[str, NDArray[np.float64]]
    ) -> Iterator[tuple[int, Table, dict[str, float]]]:
        """Row by row of what :meth:`read` gives: the class decided on, probabilities [C], and numbers by attribute."""
        decided = self.decide(probabilities).tolist()
        for k, (answer, row) in enumerate(zip(decided, probabilities, strict=True)):
            yield answer, row, {name: float(values[k]) for name, values in numbers.items()}

    def decide(self, probabilities: Table) -> Rows:
        """The class of each row [n]."""
        return self.calibration.decide(probabilities)


def _ahead(gather: Callable[[Rows], list[Pixels]], parts: Sequence[Rows]) -> Iterator[list[Pixels]]:
    """Each part gathered, the next one while the caller works on this one."""
    with ThreadPoolExecutor(1, thread_name_prefix="crops") as pool:
        waiting = pool.submit(gather, parts[0])
        for part in parts[1:]:
            done, waiting = waiting, pool.submit(gather, part)
            yield done.result()
        yield waiting.result()


def load(run: Path, device: str = "auto", tta: str | None = None, mean: str = "probability") -> Model:
    """A run, a run of all folds, an ensemble, a composition, or a file that ``masktrain export`` wrote (.onnx, .pt2).

    Args:
        tta: ``none``, ``mirror``, ``shifts`` (moved to four sides) or ``mirror+shifts``; by default as validated.
        mean: over these looks, of the ``probability`` or of its ``logit``.

    Raises:
        UsageError: it is none of these, not all folds are finished, or the device is not here.
    """
    if run.suffix in EXPORTED:
        if tta is not None or mean != "probability":
            raise UsageError("--tta does not apply to an exported file, which averages as its run did.")
        if not run.is_file():
            raise UsageError(f"{run} does not exist.")
        return _exported(run)
    from masktrain.answer import members
    from masktrain.answer.graph import check_looks

    check_looks(tta, mean)
    spec, graph = members.load(run, device, tta, mean)
    return Model(spec, graph, calibrations.load(run, len(spec.classes)), str(run))


def _open_onnx(file: Path) -> tuple[Program, Mapping[str, str]]:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra("onnxruntime", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [place.name for place in session.get_inputs()]

    def answer(crops: Sequence[Pixels]) -> tuple[Table, Table]:
        table = np.asarray(session.run(None, dict(zip(names, crops, strict=True)))[0])
        return table, table[:, :0]

    return Program(answer), session.get_modelmeta().custom_metadata_map


def _open_pt2(file: Path) -> tuple[Program, Mapping[str, str]]:
    import torch

    about = dict.fromkeys(("manual", "calibration"), "")
    module = torch.export.load(file, extra_files=about).module()

    def answer(crops: Sequence[Pixels]) -> tuple[Table, Table]:
        with torch.inference_mode():
            table = np.asarray(module(*(torch.from_numpy(np.ascontiguousarray(c)) for c in crops)).numpy())
        return table, table[:, :0]

    return Program(answer), {SPEC_KEY: about["manual"], CALIBRATION_KEY: about["calibration"]}


EXPORTED: dict[str, Callable[[Path], tuple[Program, Mapping[str, str]]]] = {".onnx": _open_onnx, ".pt2": _open_pt2}


def _exported(file: Path) -> Model:
    """An exported file; the graph tempers by itself, thresholds are left to whoever decides."""
    try:
        source, about = EXPORTED[file.suffix](file)
    except UserError:
        raise
    except Exception as error:  # the libraries have errors of their own, without a common base
        what = "ONNX" if file.suffix == ".onnx" else "exported .pt2"
        raise UserError(f"{file} is no {what} file: {str(error).strip().splitlines()[0]}") from error
    spec = ModelSpec.from_json(about.get(SPEC_KEY, ""), str(file))
    try:
        kept = json.loads(about.get(CALIBRATION_KEY, ""))
    except (ValueError, RecursionError):
        kept = {}
    thresholds = Calibration.from_dict(kept, len(spec.classes), str(file)).thresholds
    return Model(spec, source, Calibration(1.0, thresholds), str(file))


def open_for(model: Model, cache: Path, view: str | None = None) -> View:
    """The view of a cache that a model sees first: the one named, or the one with its kind of crops.

    Raises:
        UsageError: there is none; or one is named to something that sees several kinds of crops.
        UserError: its crops were made by other detectors or settings than those the model was trained on.
    """
    first = model.spec.inputs[0]
    if view is None:
        return tasks.like(find_view(cache, first, model.spec.settings), model.schema)
    if len(model.spec.inputs) > 1:
        names = ", ".join(i.view for i in model.spec.inputs)
        raise UsageError(f"--view does not apply here, as the model takes several kinds of crops ({names}).")
    named = open_view(cache, view)
    check_made_alike(first, named, model.spec.settings, geometry=False)  # a view that is named is meant as it is
    return tasks.like(named, model.schema)


def find_view(cache: Path, wanted: CropSpec, settings: Mapping[str, Any]) -> View:
    """The view of a cache with a model's kind of crops: by its name, otherwise by what it looks like.

    Args:
        settings: the preprocessing that made the crops it was trained on.

    Raises:
        UsageError: the cache has no such view.
        UserError: its crops were made by other detectors or settings.
    """
    names = Cache(cache).views() if (cache / "dataset.json").is_file() else []
    views = (open_view(cache, name) for name in sorted(names, key=lambda n: n != wanted.view))
    found = next((view for view in views if wanted.fits(view.info)), None) or open_view(cache, wanted.view)
    check_made_alike(wanted, found, settings)
    return found


def rows_of(view: View, images: Sequence[str] | pd.Series[str] | NDArray[np.object_]) -> Rows:
    """Row of each image in a view's table [n], -1 for one without a crop."""
    return np.asarray(pd.Index(view.table["image"]).get_indexer(pd.Index(images)), dtype=np.int64)


def same_images(view: View, rows: Rows, other: View) -> Rows:
    """The rows of another view of the same cache that show the same images.

    Raises:
        UserError: it lacks some.
    """
    images = view.table["image"].iloc[rows]
    found = rows_of(other, images)
    if (found < 0).any():
        lost = images.to_numpy()[found < 0]
        raise UserError(
            f"View '{other.name}' of {view.path} lacks {counted(len(lost), 'image')} "
            f"that view '{view.name}' has: {lost[0]}, ...",
            f"Bring it up to date with: maskprep run {view.path}",
        )
    return found
