"""Settings are checked when they are made, before any library loads."""

import subprocess
import sys

import pytest

from extract.core.applications import TRUNKS
from extract.core.config import ExtractConfig, TrunkSpec
from extract.core.errors import SettingError
from extract.core.views import ViewSpec


def test_defaults_are_made_concrete() -> None:
    assert TrunkSpec() == TrunkSpec(trunk="inception_v3", layer=("mixed7",), image_size=(299, 299))
    assert TrunkSpec(trunk="vgg16").layer == ("block5_pool",)
    assert TrunkSpec(trunk="vgg16", image_size=(150, 100)).image_size == (150, 100)


def test_what_only_the_model_knows_is_left_open() -> None:
    assert TrunkSpec().is_complete
    assert TrunkSpec(pooling="").pooling == "avg"
    assert not TrunkSpec(layer=("mixed5",)).is_complete
    assert TrunkSpec(layer=("mixed5",), pooling="max").is_complete
    own = TrunkSpec(trunk="own.keras")
    assert (own.layer, own.image_size, own.pooling) == ((), (0, 0), "")
    assert (own.weights, own.preprocess, own.is_complete) == ("model", "none", False)
    assert TrunkSpec.from_dict(own.to_dict()) == own


@pytest.mark.parametrize("trunk", ["vgg16", "own.keras", "own.onnx", "hub:vit"])
def test_mean_and_deviation_come_after_a_255th(trunk: str) -> None:
    spec = TrunkSpec(trunk, mean=(0.5,) * 3, std=(0.2,) * 3)
    assert (spec.preprocess, spec.normalization) == ("rescale", ((0.5,) * 3, (0.2,) * 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trunk": "vgg61"}, "trunk 'vgg61' is unknown; nearest: vgg19, vgg16; see"),
        ({"trunk": "VGG16"}, "trunk 'VGG16' is unknown; nearest: vgg16, vgg19; see"),
        ({"pooling": "mean"}, "'mean' is unknown; nearest: max; known: avg, max, cls, none"),
        ({"resize": "squash"}, "resize 'squash' is unknown"),
        ({"interpolation": "bilinaer"}, "nearest: bilinear"),
        ({"preprocess": "caffe"}, "preprocess 'caffe' is unknown"),
        ({"image_size": (150, 0)}, "image_size: found 0"),
        ({"layer": ("mixed7", "mixed7")}, "expected each layer once"),
        (
            {"trunk": "vgg16", "mean": (0, 0, 0), "std": (1, 1, 1), "preprocess": "auto"},
            "mean, std: have no effect with --preprocess auto; give --preprocess rescale",
        ),
        (
            {"trunk": "hub:vit", "mean": (0, 0, 0), "std": (1, 1, 1), "preprocess": "auto"},
            "mean, std: have no effect with --preprocess auto; give --preprocess rescale",
        ),
    ],
)
def test_a_bad_trunk_setting_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        TrunkSpec(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size: found 0"),
        ({"workers": -1}, "workers: found -1"),
        ({"dtype": "float64"}, "dtype 'float64' is unknown; nearest: float"),
        ({"cluster": "somewhere"}, "cluster: found 'somewhere'; expected local, auto or HOST:PORT"),
        ({"cluster": "ray://head:10001"}, "cluster: found 'ray://head:10001'"),
        ({"max_bad": "many"}, "max_bad: found 'many'"),
        ({"max_bad": "-1"}, "max_bad: found '-1'"),
        ({"max_bad": "101%"}, "max_bad: found '101%'"),
    ],
)
def test_a_bad_running_setting_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        ExtractConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": -1}, "views: found -1; expected a whole number of 1 or more"),
        ({"rotation": 40}, "rotation: has no effect without --views"),
        ({"seed": 0}, "seed: has no effect without --views"),
        ({"flip": False}, "flip: has no effect without --views"),
        ({"views": 2, "rotation": 181}, "rotation: found 181; expected 0 to 180"),
        ({"views": 2, "shift": -0.1}, "shift: found -0.1; expected 0 to 1"),
        ({"views": 2, "zoom": 1}, "zoom: found 1; expected 0 to 0.9"),
        ({"views": 2, "zoom": float("nan")}, "zoom: found nan; expected 0 to 0.9"),
        ({"views": 2, "seed": 2**32}, "seed: found 4294967296; expected 0 or more and below"),
        (
            {"views": 2, "rotation": 0, "shift": 0, "shear": 0, "zoom": 0, "flip": False},
            "views: have no effect without rotation, shift, shear, zoom or flip",
        ),
    ],
)
def test_a_bad_view_setting_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        ViewSpec(**settings)  # type: ignore[arg-type]


def test_the_usual_views_are_those_of_the_course() -> None:
    assert ViewSpec(4) == ViewSpec(4, 0, rotation=40, shift=0.2, shear=0.2, zoom=0.2, flip=True)
    assert ViewSpec() == ViewSpec(0, None, None, None, None, None, None)


@pytest.mark.parametrize(
    ("max_bad", "total", "tolerated"),
    [("0", 1000, 0), ("3", 1000, 3), ("1%", 1000, 10), ("1%", 99, 0), ("0.5%", 1000, 5)],
)
def test_tolerated_images(max_bad: str, total: int, tolerated: int) -> None:
    assert ExtractConfig(max_bad=max_bad).allowed("max_bad", total) == tolerated


def test_a_spec_survives_its_dictionary() -> None:
    spec = TrunkSpec(trunk="vgg16", layer=("block4_pool", "block5_pool"), image_size=(150, 100))
    assert TrunkSpec.from_dict({**spec.to_dict(), "unrelated": 1}) == spec


def test_every_name_is_the_snake_case_of_its_function() -> None:
    for name, known in TRUNKS.items():
        assert name.replace("_", "") == known.function.lower()


def test_settings_load_no_heavy_library() -> None:
    code = (
        "import sys, extract.core.config, extract.cli\n"
        "print({m.split('.')[0] for m in sys.modules})"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    for heavy in ("numpy", "keras", "tensorflow", "h5py", "PIL", "tqdm"):
        assert f"'{heavy}'" not in answer.stdout
