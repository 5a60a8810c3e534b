"""Write what was trained in forms that need neither this program nor, for ONNX, torch; checked before it counts."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, fsync_replace, keep_whole, missing_extra, temporary_name, write_atomic
from masktrain.answer import card
from masktrain.answer.graph import Graph
from masktrain.answer.model import CALIBRATION_KEY, EXPORTED, SPEC_KEY, Model, find_view, load, rows_of
from masktrain.config.settings import nearest
from masktrain.runs import folder as runs

FORMATS = ("onnx", "pt2", "safetensors")
FILES = {"onnx": "model.onnx", "pt2": "model.pt2", "safetensors": "model.safetensors"}
ABOUT, CARD = "model.json", "MODEL_CARD.md"
LIMIT = 1e-4
"""The largest difference between a probability of the exported model and the run's own that is accepted."""

PARITY_CROPS = 64


@dataclass(frozen=True)
class Exported:
    """What was written: the files, the largest probability difference of each checked format, and over what crops."""

    files: list[Path]
    differences: dict[str, float]
    crops: int
    source: str


def export(
    run: Path,
    out: Path | None = None,
    *,
    formats: tuple[str, ...] = FORMATS,
    cache: Path | None = None,
    force: bool = False,
) -> Exported:
    """Export a run or an ensemble, with a model card.

    The graphs take crops as a cache holds them, uint8 [n, H, W, 3] RGB, one input for each kind of crops (named
    ``crops_<view>``), and give ``probabilities`` float32 [n, C]; normalisation, combination and temperature are inside.
    The ONNX file carries classes, schema, view geometry, mean and standard deviation as metadata; the .pt2 file
    (:mod:`torch.export`) and the safetensors file have them beside as JSON. Every file is compared with the run on
    real crops before it gets its name.

    Args:
        out: folder to write to, by default ``export`` in the run folder.
        formats: any of :data:`FORMATS`.
        cache: where the crops for the comparison are; by default the cache the run was trained on.
        force: write over files in ``out`` that no export has written.

    Raises:
        UserError: not a run, no cache to compare on, onnx not installed, a difference above :data:`LIMIT`, or ``out``
            holds files of another origin or lies among the photos.
    """
    for name in formats:
        if name not in FORMATS:
            near = nearest(name, FORMATS)
            raise UsageError(f"There is no format '{name}'.", f"Use {', '.join(near or FORMATS)}.")
    if run.suffix in EXPORTED:
        raise UsageError(f"{run} is exported already.")
    if out is not None:
        _check_folder(run, out, [*(FILES[name] for name in formats), ABOUT, CARD], force)
    model = load(run, "cpu")
    crops, images = real_crops(model, run, cache)
    expected, _ = model.of_crops(crops)
    graph = model.graph
    graph.temperature = model.calibration.temperature
    folder = out or run / "export"
    folder.mkdir(parents=True, exist_ok=True)
    examples = tuple(torch.from_numpy(crops[i.view][:2]) for i in model.spec.inputs)
    program = None
    if {"onnx", "pt2"} & set(formats):
        with _quietly():
            count = torch.export.Dim("n", min=1)
            program = torch.export.export(graph, examples, dynamic_shapes=(tuple({0: count} for _ in examples),))
    files, differences = [], {}
    for name in formats:
        final = folder / FILES[name]
        part = temporary_name(final)
        part = part.with_name(f"{part.stem}-part{final.suffix}")
        try:
            got = _write(name, part, program, graph, examples, model, crops)
            differences[name] = float(np.abs(got - expected).max())
            if not differences[name] <= LIMIT:
                raise UserError(
                    f"The {name} file of {run} differs from the run by {differences[name]:.2g} in a probability"
                    f" (limit {LIMIT:g}); it was not kept."
                )
            fsync_replace(part, final)
        finally:
            part.unlink(missing_ok=True)
        files.append(final)
    about = folder / ABOUT
    write_atomic(about, (json.dumps(described(model), indent=2, ensure_ascii=False) + "\n").encode())
    page = folder / CARD
    write_atomic(page, card.write(run, model).encode())
    return Exported([*files, about, page], differences, len(expected), images)


def _check_folder(run: Path, out: Path, names: Sequence[str], force: bool) -> None:
    """Refuse to write among the photos, and over files of a folder that holds no earlier export.

    Raises:
        UsageError: saying so.
    """
    runs.clear_of_photos([run], out)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if {"manual", "calibration"} <= json.loads((out / ABOUT).read_bytes()).keys():
            return
    for name in names:
        keep_whole(out / name, force)


def described(model: Model) -> dict[str, Any]:
    """The specification and the calibration as plain values, for model.json."""
    return {"manual": json.loads(model.spec.to_json()), "calibration": json.loads(model.calibration.to_json())}


def real_crops(model: Model, run: Path, cache: Path | None) -> tuple[dict[str, NDArray[np.uint8]], str]:
    """Crops to compare on, spread over a cache: for each input uint8 [n, H, W, 3]; and where they are from.

    Raises:
        UsageError: the run's cache is gone and no other is given.
    """
    where = cache or Path(runs.read_data(run)["cache"])
    if not (where / "dataset.json").is_file():
        raise UsageError(
            f"The cache of {run} is no longer at {where}; exports are compared on real crops.",
            "Name a cache with such crops: --cache CACHE",
        )
    views = [find_view(where, i, model.spec.settings) for i in model.spec.inputs]
    shared = sorted(set.intersection(*(set(v.table["image"]) for v in views)))
    if not shared:
        raise UserError(f"{where} has no crops to compare on.")
    chosen = [shared[i] for i in np.linspace(0, len(shared) - 1, min(PARITY_CROPS, len(shared))).round().astype(int)]
    seen = {i.view: v.gather(rows_of(v, chosen)) for i, v in zip(model.spec.inputs, views, strict=True)}
    return seen, str(where)


def _write(
    name: str,
    file: Path,
    program: Any,
    graph: Graph,
    examples: tuple[torch.Tensor, ...],
    model: Model,
    crops: Mapping[str, NDArray[np.uint8]],
) -> NDArray[np.float32]:
    """Write one format and compute the crops' probabilities from what was written."""
    if name == "onnx":
        _write_onnx(file, program, examples, model)
    elif name == "pt2":
        torch.export.save(program, file, extra_files={k: json.dumps(v) for k, v in described(model).items()})
    else:
        from safetensors.torch import load_file, save_file

        state = {k: v.contiguous().clone() for k, v in graph.state_dict().items()}
        save_file(state, file, metadata={k: json.dumps(v) for k, v in described(model).items()})
        graph.load_state_dict(load_file(file))
        return graph.answer([crops[i.view] for i in model.spec.inputs])[0]
    with _quietly():
        return load(file).of_crops(crops)[0]


def _write_onnx(file: Path, program: Any, examples: tuple[torch.Tensor, ...], model: Model) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401  (the exporter needs it)
    except ImportError as error:
        raise missing_extra(error.name or "onnx", "onnx") from error
    names = [f"crops_{i.view}" for i in model.spec.inputs]
    with _quietly():
        written = torch.onnx.export(
            program, examples, dynamo=True, input_names=names, output_names=["probabilities"], verbose=False
        )
    assert written is not None
    made = written.model_proto
    about = {
        SPEC_KEY: model.spec.to_json(),
        CALIBRATION_KEY: model.calibration.to_json(),
        "classes": json.dumps(model.spec.classes, ensure_ascii=False),
        "mean": json.dumps([m.mean for m in model.spec.members]),
        "std": json.dumps([m.std for m in model.spec.members]),
    }
    onnx.helper.set_model_props(made, about)
    for place in [*made.graph.input, *made.graph.output]:
        place.type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.checker.check_model(made)
    onnx.save(made, str(file))


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporters talk to developers of exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
