"""The public Python API: what it exports, shows in ``help()`` and says of mistakes."""

import argparse
import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import classify
import extract
from classify.cli import train_head_parser
from classify.predict_cli import predict_images_parser
from classify.settings.head_spec import HeadSettings, HeadSpec
from extract.cli import extract_features_parser
from extract.core.config import ExtractConfig, TrunkSpec
from extract.core.errors import SettingError
from extract.core.views import ViewSpec
from tests.conftest import QUICK, MakeStore

# Flags that only a command has.
_OF_COMMANDS = {"help", "version", "quiet", "verbose", "log", "list_trunks", "list_layers"}


def keywords(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters) - {"quiet", "on_result"}


def flags(parser: argparse.ArgumentParser) -> set[str]:
    names = {action.dest for action in parser._actions}
    return names - _OF_COMMANDS


@pytest.mark.parametrize("package", [extract, classify])
def test_dir_lists_the_public_names_and_each_of_them_is_there(package: Any) -> None:
    assert len(dir(package)) >= 10
    for name in dir(package):
        assert getattr(package, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize("package", ["extract", "classify"])
def test_a_package_loads_nothing_heavy(package: str) -> None:
    code = (
        f"import sys, {package}; dir({package}); print(*{{m.split('.')[0] for m in sys.modules}})"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(child.stdout.split())
    assert not loaded & {"numpy", "keras", "tensorflow", "h5py", "PIL", "sklearn"}


def test_whatever_a_command_can_do_a_function_can() -> None:
    assert keywords(extract.extract_features) == flags(extract_features_parser())
    assert keywords(classify.train_heads) == flags(train_head_parser())
    assert keywords(classify.predict_images) == flags(predict_images_parser())


def test_keywords_are_the_fields_of_the_settings() -> None:
    names = {f.name for kind in (TrunkSpec, ViewSpec, ExtractConfig) for f in fields(kind)}
    assert keywords(extract.extract_features) == names | {"source", "out"}
    heads = {f.name for f in fields(HeadSpec)} - {"head", "seed"}
    assert set(get_type_hints(HeadSettings)) == heads
    assert heads < keywords(classify.sweep) < keywords(classify.train_heads) | {"dataset", "sweeps"}


def test_help_explains_every_setting() -> None:
    for function in (extract.extract_features, classify.train_heads, classify.sweep):
        text = inspect.getdoc(function) or ""
        for name in keywords(function) - {"sweeps"}:
            assert f"    {name}: " in text, name
        assert "Example:" in text


@pytest.mark.parametrize(
    ("function", "words", "settings", "message"),
    [
        (extract.extract_features, ("a", "b"), {"pooing": "avg"}, "'pooing' is .*: pooling"),
        (extract.list_layers, (), {"imagesize": 64}, "'imagesize' is unknown; nearest: image_size"),
        (classify.sweep, (None,), {"drop_out": 0.5}, "'drop_out' is unknown; nearest: dropout"),
        (classify.sweep, (None,), {"haed": "knn"}, "'haed' is unknown; nearest: head"),
        (classify.train_heads, ("a.h5",), {"fold": 5}, "'fold' is unknown; nearest: folds"),
        (classify.train_heads, ("a.h5",), {"epochs": 0}, "epochs: found 0; expected a whole"),
        (classify.train_heads, ("a.h5",), {"epochs": "3"}, "epochs: found '3'; expected a whole"),
        (classify.train_heads, ("a.h5",), {"finetune_epochs": 3}, "no effect without --finetune"),
        (classify.train_heads, ("a.h5",), {"sweep": "C=1,2", "C": 1.0}, "and another C"),
    ],
)
def test_a_mistake_is_named(
    function: Callable[..., Any], words: tuple[Any, ...], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        function(*words, **settings)


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_may_be_texts_or_paths(
    images: Path, tmp_path: Path, kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = kind(tmp_path / "out.h5"), kind(tmp_path / "head")
    summary = extract.extract_features(kind(images), out, quiet=True, **QUICK)  # type: ignore[arg-type]
    assert summary.images == 8
    result = classify.train_heads(out, output=folder, head="knn", neighbours=1, quiet=True)
    assert result.folder == Path(folder)
    predictions = classify.predict_images(kind(images), folder, quiet=True)
    assert len(predictions) == 8
    exported = kind(tmp_path / "model.keras")
    classify.train_heads(out, output=folder, head="ridge", export=exported, quiet=True)
    classify.export_head(folder, kind(tmp_path / "again.keras"), quiet=True)
    assert Path(exported).exists()
    assert (tmp_path / "again.keras").exists()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert all(line.startswith("warning: ") for line in shown.err.splitlines())


def test_settings_may_be_single_values_or_several(make_store: MakeStore) -> None:
    X = np.random.default_rng(0).normal(size=(40, 4)).astype("f4")
    dataset = classify.load_dataset(make_store(X, [0, 1] * 20))
    one = classify.sweep(dataset, head="logistic", transform="sqrt+l2", folds=3)
    several = classify.sweep(dataset, head=["logistic"], transform=["sqrt", "l2"], folds=3)
    assert one.best.spec == several.best.spec
    assert one.best.spec.transform == ("sqrt", "l2")


def test_trunks_and_layers_are_returned() -> None:
    assert ("vgg16", "vgg16", "VGG16", 224, "block5_pool", 512) in extract.list_trunks()
    names = [layer.name for layer in extract.list_layers("vgg16", image_size=64)]
    assert names[-1] == "block5_pool"
    assert "fc1" in [layer.name for layer in extract.list_layers("vgg16", image_size=64, top=True)]


def test_one_layer_and_one_size_are_the_same_settings_as_a_list(
    images: Path, tmp_path: Path
) -> None:
    settings = {**QUICK, "layer": "conv1_relu", "image_size": 32, "dtype": "float16"}
    out = tmp_path / "out.h5"
    assert extract.extract_features(images, out, **settings).computed == 8  # type: ignore[arg-type]
    settings["layer"], settings["image_size"] = ["conv1_relu"], (32, 32)
    for more in ({}, {"overwrite": True}, {"layer": "conv1_relu", "overwrite": True}):
        again = extract.extract_features(images, out, **settings | more)  # type: ignore[arg-type]
        assert again.computed == 0
    with extract.open_store(out) as store:
        assert store.dtype == "float16"


@pytest.mark.parametrize(
    "settings",
    [
        *({"dtype": ""}, {"engine": ""}, {"precision": ""}),
        *({"image_size": (-5, -5)}, {"image_size": (1.5, 2)}, {"image_size": (True, True)}),
    ],
    ids=str,
)
def test_a_setting_out_of_range_makes_no_file(
    settings: dict[str, Any], images: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        extract.extract_features(images, tmp_path / "out.h5", **QUICK | settings)
    assert not (tmp_path / "out.h5").exists()
