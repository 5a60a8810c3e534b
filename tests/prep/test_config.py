"""maskprep.yaml: strict keys and types, and how it, a cache's memory and options come together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maskprep.errors import UsageError
from maskprep.labels.schema import MASK_SCHEMA
from maskprep.mattes.matte import MatteSettings
from maskprep.pipeline.config import Config, check_view_name, differences, load, parse


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "maskprep.yaml"
    for text in ("", "# nothing\n", "detect:\n"):
        path.write_text(text)
        assert load(path) == Config()


@pytest.mark.parametrize(
    ("data", "nearest"),
    [
        ({"detekt": {}}, "detect"),
        ({"view": {}}, "views"),
        ({"source": {"layuot": "csv"}}, "layout"),
        ({"index": {"max_megapixel": 3}}, "max_megapixels"),
        ({"detect": {"detector": []}}, "detectors"),
        ({"detect": {"thresholds": {"yunt": 0.5}}}, "yunet"),
        ({"choose": {"noface": "drop"}}, "no_face"),
        ({"views": {"a": {"sise": 3}}}, "size"),
        ({"schema": {"attributs": {}}}, "attributes"),
        ({"schema": {"attributes": {"mask": {"clases": ["a"]}}}}, "classes"),
    ],
)
def test_unknown_keys_suggest_the_nearest(data: dict[str, Any], nearest: str) -> None:
    with pytest.raises(UsageError, match=f"Did you mean '{nearest}'") as caught:
        parse(data)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"detect": 3}, "'detect' must be a group"),
        ({"detect": {"detectors": "yunet"}}, "'detect.detectors' must be a list"),
        ({"detect": {"detectors": [1]}}, "must be a text"),
        ({"detect": {"detectors": ["x"]}}, "Unknown detector 'x'"),
        ({"detect": {"detectors": []}}, "at least one"),
        ({"detect": {"detectors": ["yunet", "yunet"]}}, "once"),
        ({"detect": {"thresholds": {"yunet": "high"}}}, "must be a number"),
        ({"detect": {"thresholds": {"yunet": 1.5}}}, "must be from 0 to 1"),
        ({"detect": {"thresholds": {"yunet": float("nan")}}}, "must be from 0 to 1"),
        ({"index": {"max_megapixels": True}}, "must be a number"),
        ({"index": {"max_megapixels": 0}}, "above 0"),
        ({"index": {"max_megapixels": float("nan")}}, "above 0"),
        ({"index": {"max_megapixels": 1e6}}, "above 0"),
        ({"choose": {"close": None}}, "must be a number"),
        ({"choose": {"close": -0.1}}, "must be from 0 to 1"),
        ({"choose": {"no_face": "cry"}}, "rescue, drop"),
        ({"source": {"layout": 5}}, "must be a text"),
        ({"source": {"columns": ["a"]}}, "must be a group"),
        ({"source": {"columns": {"path": 1}}}, "must be a text"),
        ({"views": []}, "must be a group"),
        ({"views": {"a": 5}}, "must be a group"),
        ({"views": {"a/b": {}}}, "no name for a view"),
        ({"views": {"a": {"size": "large"}}}, "HxW"),
        ({"views": {"a": {"size": [224]}}}, "two numbers"),
        ({"views": {"a": {"size": [224.5, 3]}}}, "whole number"),
        ({"views": {"a": {"size": True}}}, "'views.a.size'"),
        ({"views": {"a": {"size": 4}}}, "8 to 2048"),
        ({"views": {"a": {"margin": 9}}}, "margin"),
        ({"views": {"a": {"margin": float("nan")}}}, "margin"),
        ({"views": {"a": {"align": "left"}}}, "Unknown align"),
        ({"schema": {}}, "must name the attributes"),
        ({"schema": {"attributes": {"a": ["x"]}}}, "classes or bins"),
        ({"schema": {"attributes": {"a": {"classes": "x"}}}}, "list of names"),
        ({"schema": {"attributes": {"a": {"bins": ["x"]}}}}, "list of numbers"),
        ({"schema": {"attributes": {"a": {"classes": [True, False]}}}}, "true or false"),
        ({"schema": {"attributes": {"a": {"classes": ["x"]}}, "joint": "a"}}, "list of attributes"),
        ({"schema": {"attributes": {"a": {"classes": ["x"]}}, "joint": ["b"]}}, "unknown attributes: b"),
    ],
)
def test_wrong_values(data: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse(data)


def test_every_section(tmp_path: Path) -> None:
    path = tmp_path / "maskprep.yaml"
    path.write_text(
        """
source: {layout: csv, csv: a.csv, columns: {path: f}, person: '(\\d+)'}
schema:
  attributes: {mask: {classes: [wear, 2]}, age: {bins: [30, 60]}}
  joint: [age, mask]
index: {max_megapixels: 20}
detect: {detectors: [yunet], thresholds: {yunet: 0.7}}
choose: {no_face: drop, close: 0, weak: 1}
views:
  small: {size: 64}
  wide: {size: 100x200, margin: 0, align: eyes, border: constant}
  list: {size: [10, 20], crop: centre}
  plain:
"""
    )
    config = load(path)
    assert config.source.columns == {"path": "f"}
    assert config.schema is not None
    assert config.schema.sizes == (3, 2)
    assert config.schema["mask"].classes == ("wear", "2")
    assert config.index.max_megapixels == 20.0
    assert config.detect.threshold("yunet") == 0.7
    assert (config.choose.no_face, config.choose.close, config.choose.weak) == ("drop", 0.0, 1.0)
    assert {name: view.size for name, view in config.views.items()} == {
        "small": (64, 64),
        "wide": (100, 200),
        "list": (10, 20),
        "plain": (224, 224),
    }


def test_mattes_of_a_view_that_there_is_not(tmp_path: Path) -> None:
    path = tmp_path / "maskprep.yaml"
    path.write_text("views: {face: {}, wide: {}}\nmatte: {views: [face, wyde]}\n")
    with pytest.raises(UsageError, match=r"maskprep\.yaml.*unknown view 'wyde'\. Did you mean 'wide'\?"):
        load(path)
    path.write_text("matte: {views: [wide]}\n")  # a view of the cache
    assert load(path, parse({"views": {"wide": {}}})).matte == MatteSettings(views=("wide",))


def test_settings_round_trip() -> None:
    config = parse({"detect": {"detectors": ["yunet"]}, "views": {"a": {"size": "8x9"}}, "choose": {"weak": 0.5}})
    assert parse(config.settings()) == config


def test_a_section_replaces_and_silence_keeps() -> None:
    recorded = parse({"detect": {"detectors": ["yunet"], "thresholds": {"yunet": 0.9}}, "choose": {"no_face": "drop"}})
    config = parse({"detect": {"detectors": ["yunet", "blazeface_full"]}}, recorded)
    assert config.detect.thresholds == {}
    assert config.choose.no_face == "drop"


def test_views_made_by_options_stay_beside_those_of_the_file() -> None:
    recorded = parse({"views": {"by_option": {"size": 16}}})
    config = parse({"views": {"by_file": {"size": 32}}}, recorded)
    assert {name: view.size[0] for name, view in config.views.items()} == {"by_option": 16, "by_file": 32}
    assert parse({"views": {"by_option": {"size": 64}}}, recorded).views["by_option"].size == (64, 64)
    assert list(parse({"views": {"mine": {}}}).views) == ["mine"]


def test_a_schema_in_the_file_replaces() -> None:
    base = parse({"schema": MASK_SCHEMA.to_dict()})
    assert base.schema == MASK_SCHEMA
    changed = parse({"schema": {"attributes": {"pet": {"classes": ["cat", "dog"]}}}}, base)
    assert changed.schema is not None
    assert changed.schema.names == ("pet",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [", "not valid YAML"),
        (b"\xff\xfe", "Cannot read"),
        (b"- a\n", "named sections"),
        (b"just text", "named sections"),
        (b"? [a]\n: 1\n", "maskprep.yaml"),
        (b"detect: {detectors: [x]}", "maskprep.yaml: Unknown detector"),
        (b"!!python/object:os.system {}", "not valid YAML"),
        (b"choose:\n  close: 2024-13-45\n", r"maskprep\.yaml: 'choose\.close' must be a number, not '2024-13-45'"),
        (b"choose:\n  close: !!int big\n", r"YAML: a value cannot be read \(.*'big'"),
        (b"choose:\n  close: 0x_\n", "YAML: a value cannot be read"),
        (b"source: {}\nchoose: {}\nsource: {}\n", 'line 3: found duplicate key "source"'),
        (b"a: 1\nb: \x07\n", "YAML, line 2"),
        (b"a: 1\nb: caf\xe9\n", "line 2 is not UTF-8"),
        (b"[" * 5000, "nested too deeply"),
    ],
)
def test_errors_name_the_file(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "maskprep.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=says):
        load(path)
    with pytest.raises(UsageError, match="Cannot read"):
        load(tmp_path / "gone.yaml")


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "a\n", "../x", "a*"])
def test_view_names_are_folder_names(name: str) -> None:
    with pytest.raises(UsageError):
        check_view_name(name)


def test_good_view_names() -> None:
    for name in ("face", "v1.2", "얼굴", "a-b_c"):
        check_view_name(name)


def test_what_a_file_takes_back_is_told(tmp_path: Path) -> None:
    base = parse({"views": {"face": {"margin": 0.5}}, "choose": {"close": 0.1}})
    (tmp_path / "c.yaml").write_text("views: {face: {margin: 0.2}}\n")
    assert differences(base, load(tmp_path / "c.yaml", base)) == ["views.face.margin 0.5 → 0.2"]
    assert differences(base, base) == []


def test_on_and_no_are_words(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("matte: {on: photo}\nchoose: {no_face: drop}\nsource: {layout: auto}\n")
    assert load(tmp_path / "c.yaml").matte == MatteSettings(on="photo")
