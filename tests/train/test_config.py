"""Settings: strict, complete, and defined once."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from maskprep.base import UsageError
from masktrain.config.config import SECTIONS, FitConfig, describe, keys, named, parse
from masktrain.config.sections import OptimConfig


def test_every_setting_has_help_and_no_id_of_a_list() -> None:
    for key in keys():
        about = describe(key).metadata
        assert about["help"].endswith("."), key
        assert not re.search(r"\bS\d\.\d|issue \d|DESIGN", about["help"] + about["source"]), key


def test_round_trip() -> None:
    config = FitConfig.from_keys({"optim.lr": 0.5, "data.view": "face", "target.weights": [1, 2]})
    assert FitConfig.from_dict(config.to_dict()) == config
    assert set(config.to_dict()) == set(SECTIONS) == {f.name for f in dataclasses.fields(FitConfig)}


def test_the_hash_follows_every_value() -> None:
    assert FitConfig().hash() == FitConfig.from_dict({}).hash()
    assert FitConfig.from_keys({"optim.lr": 1}).hash() == FitConfig.from_keys({"optim.lr": 1.0}).hash()
    hashes = {FitConfig.from_keys({"run.seed": s}).hash() for s in range(3)}
    assert len(hashes) == 3


@pytest.mark.parametrize(
    "key, near",
    [("optim.lrr", "optim.lr"), ("optm.epochs", "optim.epochs"), ("model.batch_size", "optim.batch_size")],
)
def test_an_unknown_key_names_the_nearest(key: str, near: str) -> None:
    with pytest.raises(UsageError, match="Unknown setting") as error:
        FitConfig.from_keys({key: 1})
    assert f"'{near}'" in error.value.hint


def test_a_section_must_hold_settings() -> None:
    with pytest.raises(UsageError, match=r"such as optim\.epochs"):
        FitConfig.from_dict({"optim": 3})


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("optim.lr", -1, "must be at least 0"),
        ("optim.lr", float("nan"), "must be at least 0"),
        ("optim.lr", float("inf"), "finite"),
        ("optim.lr", "1e-3", "must be float, not '1e-3'"),
        ("optim.epochs", -1, "at least 0"),
        ("optim.epochs", 2.5, "must be int"),
        ("optim.epochs", True, "must be int"),
        ("schedule.warmup", 1.5, "at most 1"),
        ("model.pretrained", 1, "must be bool"),
        ("model.name", None, "must be str"),
        ("data.val_ratio", 0.6, r"at most 0\.5"),
        ("augment.recipe", "lite", "one of none, light, base"),
        ("optim.batch_size", -1, "at least 0"),
        ("target.weights", 1.0, "must be a list of float"),
        ("target.weights", [1, -1], "at least 0"),
        ("target.losses", ["ce", "cee"], "one of ce, focal"),
    ],
)
def test_ill_typed_and_ill_sized_values_are_refused(key: str, value: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        FitConfig.from_keys({key: value})


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("optim.lr", "1e-3", 1e-3),
        ("optim.epochs", "3", 3),
        ("model.pretrained", "no", False),
        ("data.view", "none", None),
        ("data.view", "face", "face"),
        ("target.weights", "0.8, 1,1.7", (0.8, 1.0, 1.7)),
        ("target.losses", "[ce,focal]", ("ce", "focal")),
        ("target.weights", "", ()),
    ],
)
def test_settings_are_read_from_text(key: str, text: str, value: Any) -> None:
    assert parse(key, text) == value and type(parse(key, text)) is type(value)


@pytest.mark.parametrize("key, text", [("optim.lr", "fast"), ("optim.epochs", "2.5"), ("model.pretrained", "maybe")])
def test_text_that_means_no_value(key: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"'{key}' must be .*, not '{text}'"):
        parse(key, text)


def test_sections_are_checked_however_they_are_made() -> None:
    with pytest.raises(UsageError, match="at least 0"):
        dataclasses.replace(OptimConfig(), epochs=-1)


@pytest.mark.parametrize(
    "name, meant",
    [
        ("loss.gamma", ["loss.gamma"]),
        ("gamma", ["loss.gamma", "schedule.gamma"]),
        ("sample", ["sample.kind", "sample.by", "sample.shares", "sample.level", "sample.photos"]),
    ],
)
def test_settings_can_be_asked_for_by_name(name: str, meant: list[str]) -> None:
    assert named(name) == meant


@pytest.mark.parametrize(
    "name, near", [("los", "loss"), ("optim.rl", "optim.lr"), ("gama", "loss.gamma"), ("loss.gama", "loss.gamma")]
)
def test_a_name_that_is_none_gets_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError) as error:
        named(name)
    assert f"'{name}'" in error.value.message and error.value.hint == f"Did you mean '{near}'?"
