"""The models that make mattes: where they come from, what they are fed, in which order and on what they run."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskprep.errors import UsageError, UserError
from maskprep.mattes import models as matte_models
from maskprep.mattes import runtime as matting
from maskprep.mattes import sessions
from maskprep.mattes.cutouts import CutoutSettings, cut_folder
from maskprep.mattes.matte import MatteSettings, best
from maskprep.mattes.models import MODELS, LocalModel
from maskprep.mattes.rules import Matte
from maskprep.mattes.runtime import execution_providers, open_looks, open_model
from maskprep.weights.registry import REGISTRY


@pytest.fixture
def brightness(tmp_path: Path) -> Path:
    """A network with the interface of those that make mattes: [1, 3, H, W] -> [1, 1, H, W], mean / 2 + 0.5."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    h = onnx.helper
    put = [h.make_tensor_value_info(n, 1, [1, c, "H", "W"]) for n, c in (("input", 3), ("output", 1))]
    half = h.make_tensor("half", 1, [1], [0.5])
    nodes = [
        h.make_node("ReduceMean", ["input"], ["mean"], axes=[1], keepdims=1),
        h.make_node("Mul", ["mean", "half"], ["scaled"]),
        h.make_node("Add", ["scaled", "half"], ["output"]),
    ]
    graph = h.make_graph(nodes, "brightness", [put[0]], [put[1]], [half])
    path = tmp_path / "brightness.onnx"
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights anywhere, and no network."""
    for name in ("MASKPREP_WEIGHTS", "U2NET_HOME", "REMBG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("MASKPREP_OFFLINE", "1")
    return tmp_path / "home"


def picture(height: int, width: int) -> np.ndarray:
    """A ramp from black to a grey of 51, a fifth of white."""
    ramp = np.linspace(0, 51, width).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(ramp[None, :, None], (height, width, 3)))


# ---------------------------------------------------------------- what they are fed


@pytest.mark.parametrize(
    ("shape", "size"), [((100, 150), (512, 768)), ((700, 600), (608, 512)), ((40, 900), (512, 2048))]
)
def test_modnet_keeps_the_pictures_shape_in_multiples_of_32(
    brightness: Path, shape: tuple[int, int], size: tuple[int, int]
) -> None:
    """And takes (x / 255 - 0.5) / 0.5 whatever the largest value of the picture is."""
    with open_model(LocalModel(MODELS["modnet"], brightness, "")) as predict:
        plane = predict(picture(*shape))
    assert plane.shape == size
    assert plane[:, 0].max() == pytest.approx(0, abs=0.01) and plane[:, -1].max() == pytest.approx(0.2, abs=0.01)


def test_modnet_is_known_by_its_bytes(homes: Path, brightness: Path) -> None:
    homes.mkdir()
    (homes / "modnet.onnx").write_bytes(brightness.read_bytes())
    with pytest.raises(UserError, match="not 07c308cf"):
        matte_models.locate("modnet")
    (homes / "modnet.onnx").unlink()
    with pytest.raises(UserError, match="HivisionIDPhotos/releases") as caught:
        matte_models.locate("modnet")
    assert str(homes) in str(caught.value)


# ---------------------------------------------------------------- in which order they are asked


def matte(seen: float | None, status: str = "ok") -> Matte:
    return Matte(np.zeros((2, 2), np.uint8), status, 0.5, seen, 1, 0)


@pytest.mark.parametrize(
    ("seen", "asked", "taken"),
    [
        ([0.95], 1, 0),
        ([0.7, 0.6], 2, 0),
        ([0.7, 0.99], 2, 1),
        ([0.4, 0.3, 0.6], 3, 2),
        ([0.4, 0.3, 0.2], 3, 0),
        ([None], 1, 0),
    ],
)
def test_the_look_that_saw_most_of_the_face(seen: list[float | None], asked: int, taken: int) -> None:
    made = [matte(share) for share in seen]
    looks = iter([*made, matte(1.0), matte(1.0)][:3])
    assert best(looks) is made[taken]
    assert len(list(looks)) == 3 - asked


def test_a_look_that_found_nobody_is_the_last_choice() -> None:
    nobody, somebody = matte(0.9, "low_contrast"), matte(0.1)
    assert best([nobody, somebody]) is somebody
    assert best([matte(None, "empty"), somebody, matte(None)]).face_coverage is None


def test_a_face_that_fills_the_frame_is_seen_in_its_mirror_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three looks; the other model is loaded when it is asked."""
    opened: list[str] = []

    @contextlib.contextmanager
    def model(local: LocalModel, *_: Any) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
        opened.append(local.label)
        yield lambda pixels: pixels[..., 0].astype(np.float32) / 255

    monkeypatch.setattr(matting, "open_model", model)
    other = LocalModel(MODELS["u2netp"], Path("u2netp.onnx"), "")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    with open_looks(LocalModel(MODELS["person"], Path("selfie.tflite"), "", other)) as looks:
        assert len(looks) == 3
        for look in looks[:2]:  # what the second one adds is taken away again
            np.testing.assert_array_equal(look(pixels)[0], pixels[..., 0])
        assert opened == ["person"]
        looks[2](pixels)
        looks[2](pixels)
        assert opened == ["person", "u2netp"]
    with open_looks(other) as looks:
        assert len(looks) == 1  # a model that is named stays just that


# ---------------------------------------------------------------- on what they run


@pytest.mark.filterwarnings("ignore:Specified provider")  # onnxruntime's own; ours is an error
def test_execution_providers(brightness: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    with pytest.raises(UsageError, match="no execution provider 'npu'") as caught:
        execution_providers(["npu"])
    assert "cpu" in caught.value.hint
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert execution_providers(["cuda"]) == execution_providers(["CUDAExecutionProvider", "cpu"]) == wanted
    assert execution_providers([]) == ["CPUExecutionProvider"]
    local = LocalModel(MODELS["u2netp"], brightness, "")
    with pytest.raises(UserError, match="could not start CUDA"), open_model(local, 1, "onnxruntime", ["cuda"]):
        pass


@pytest.mark.parametrize(
    ("model", "providers", "recorded"),
    [
        ("u2netp", (), False),
        ("u2netp", ("cpu",), False),
        ("u2netp", ("CUDAExecutionProvider", "cpu"), True),
        ("selfie", ("cuda",), False),
        ("person", ("cuda",), True),
    ],
)
def test_providers_are_part_of_the_recipe_where_they_change_the_result(
    model: str, providers: Sequence[str], recorded: bool
) -> None:
    known = MODELS[model]
    then = LocalModel(MODELS[known.then], Path(known.then), "0") if known.then else None
    found = (
        MatteSettings(model, providers=tuple(providers))
        .recipe(LocalModel(known, Path(known.file), "0", then))
        .to_dict()
    )
    assert found["settings"] == {
        "model": model,
        "on": "crop",
        "refine": "none",
        "runtime": "onnxruntime",
        **({"providers": ["cuda"]} if recorded else {}),
    }


# ---------------------------------------------------------------- where they come from


def test_local_sessions_of_rembg_are_models(homes: Path, brightness: Path, tmp_path: Path) -> None:
    """A stand-in under the name of a session that is not run directly, here and by rembg itself."""
    rembg = pytest.importorskip("rembg", reason="rembg is not installed", exc_type=ImportError)
    names = sessions.names()
    assert {"isnet-anime", "birefnet-portrait", "isnet-general-use", "u2netp", "bria-rmbg"} <= set(names)
    assert not {"withoutbg", "u2net_custom"} & set(names)
    place = homes / "models/isnet-anime/isnet-anime.onnx"
    with pytest.raises(UserError, match="isnet-anime is not here") as caught:
        matte_models.locate("isnet-anime")
    assert "rembg d isnet-anime" in caught.value.hint and str(place.parent) in caught.value.hint
    place.parent.mkdir(parents=True)
    place.write_bytes(brightness.read_bytes())
    local = matte_models.locate("isnet-anime")
    assert (local.label, local.path) == ("isnet-anime", place)
    pixels = picture(60, 80)
    with open_looks(local) as looks:
        found, clear = looks[0](pixels)
    session = rembg.new_session("isnet-anime", providers=["CPUExecutionProvider"])
    theirs = np.asarray(rembg.remove(Image.fromarray(pixels), session=session, only_mask=True))
    assert clear and found.shape == (60, 80)
    np.testing.assert_array_equal(found, theirs)
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos/a.png")
    made = cut_folder(
        tmp_path / "photos", tmp_path / "out", CutoutSettings("isnet-anime", kind="mask"), engine="serial"
    )
    assert made.statuses == {"ok": 1}
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), theirs)
    with pytest.raises(UsageError, match="openvino"), open_model(local, runtime="openvino"):
        pass


def test_without_rembg_the_extra_is_named(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "installed", lambda: False)
    with pytest.raises(UsageError, match="no model named 'isnet-anime'") as caught:
        matte_models.find("isnet-anime")
    assert "maskprep[rembg]" in caught.value.hint


def test_unknown_models_name_the_nearest_and_missing_ones_say_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="Did you mean u2net"):
        matte_models.find("u2nett")
    for name in ("MASKPREP_WEIGHTS", "U2NET_HOME", "REMBG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("MASKPREP_OFFLINE", "1")
    with pytest.raises(
        UserError, match=r"silueta.*\n.*releases/download.*/silueta.onnx: not tried, as downloads are forbidden"
    ) as caught:
        matte_models.locate("silueta")
    assert "md5 55e59e0d8062d2f5d013f4725ee84782" in caught.value.hint and str(tmp_path) in caught.value.hint
    with pytest.raises(UserError, match=r"no model file 'nowhere\.onnx'"):
        matte_models.find("nowhere.onnx")


@pytest.mark.parametrize("place", ["silueta.onnx", "models/silueta/silueta.onnx"])
def test_a_model_whose_md5_is_known(place: str, homes: Path, brightness: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where maskprep or rembg has put it; its mattes are known by its sha256, as all are."""
    assert matte_models.known_weights(MODELS["silueta"]) == {"silueta": None}
    bytes_ = brightness.read_bytes()
    pinned = dataclasses.replace(REGISTRY["silueta"], md5=hashlib.md5(bytes_).hexdigest())
    monkeypatch.setitem(REGISTRY, "silueta", pinned)
    (homes / place).parent.mkdir(parents=True)
    (homes / place).write_bytes(bytes_)
    local, sha256 = matte_models.locate("silueta"), hashlib.sha256(bytes_).hexdigest()
    assert (local.label, local.path, local.weights) == ("silueta", homes / place, {"silueta": sha256})
    assert matte_models.known_weights(MODELS["silueta"]) == {"silueta": sha256}
    with open_model(local) as predict:
        assert predict(picture(100, 150)).shape == (320, 320)


def test_a_file_with_other_bytes_is_refused(homes: Path) -> None:
    homes.mkdir()
    (homes / "silueta.onnx").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"silueta\.onnx cannot be used as silueta: its md5 is .{32}, not 55e59e"):
        matte_models.locate("silueta")
