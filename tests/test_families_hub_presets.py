"""Presets of KerasHub: their files, read without Keras and without KerasHub."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from extract.api import list_layers
from extract.core.config import TrunkSpec
from extract.core.errors import SettingError, TrunkError
from extract.families.hub_presets import digest_preset, is_name, rescaling, settle
from extract.pipeline.compare import find_differences
from extract.pipeline.resume import complete_settings

# As keras_hub 0.32 writes them.
FLOAT32 = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
BACKBONE = {
    "module": "keras_hub.src.models.vit.vit_backbone",
    "class_name": "ViTBackbone",
    "config": {"name": "vi_t", "dtype": FLOAT32, "image_shape": [32, 48, 3], "num_layers": 2},
    "registered_name": "keras_hub>ViTBackbone",
}
CONVERTER = {
    "module": "keras_hub.src.models.vit.vit_image_converter",
    "class_name": "ViTImageConverter",
    "config": {"image_size": None, "scale": 0.5, "offset": [1, 2, 3], "antialias": False},
    "registered_name": "keras_hub>ViTImageConverter",
}
TEXT = {"class_name": "BertBackbone", "registered_name": "keras_hub>BertBackbone", "config": {}}

Write = Callable[..., str]


def backbone(**settings: Any) -> dict[str, Any]:
    return {**BACKBONE, "config": {**BACKBONE["config"], **settings}}  # type: ignore[dict-item]


def converter(**settings: Any) -> dict[str, Any]:
    return {**CONVERTER, "config": {**CONVERTER["config"], **settings}}  # type: ignore[dict-item]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a preset folder and return the trunk that it is."""

    def write(config: Any = BACKBONE, pixels: Any = CONVERTER, name: str = "preset") -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.weights.h5").write_bytes(b"")
        for file, value in (("config.json", config), ("image_converter.json", pixels)):
            if value is not None:
                (folder / file).write_text(json.dumps(value))
        return f"hub:{folder}"

    return write


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ({}, ((32, 48), "crop", "bilinear")),
        ({"image_size": [24, 40], "interpolation": "lanczos3"}, ((24, 40), "crop", "lanczos")),
        (
            {"crop_to_aspect_ratio": False, "interpolation": "bicubic"},
            ((32, 48), "stretch", "bicubic"),
        ),
        (
            {"crop_to_aspect_ratio": False, "pad_to_aspect_ratio": True, "height": 8, "width": 9},
            ((8, 9), "pad", "bilinear"),
        ),
    ],
)
def test_what_is_left_open_is_read_from_the_preset(
    write: Write, pixels: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    trunk = write(pixels=converter(**pixels))
    spec = settle(TrunkSpec(trunk))
    assert (spec.image_size, spec.resize, spec.interpolation) == expected
    assert (spec.preprocess, spec.weights) == ("auto", "model")
    asked = TrunkSpec(trunk, image_size=(16, 16), resize="stretch", interpolation="nearest")
    spec = settle(asked)
    assert (spec.image_size, spec.resize, spec.interpolation) == ((16, 16), "stretch", "nearest")


def test_scale_and_offset_may_be_mean_and_variance(write: Write) -> None:
    assert rescaling(TrunkSpec(write())) == {"scale": [0.5] * 3, "offset": [1, 2, 3]}
    old = {"mean": [0.5, 0.25, 0], "variance": [0.25, 4, 1], "offset": None}
    spec = TrunkSpec(write(pixels=converter(**old), name="old"))
    assert rescaling(spec) == {"scale": [1.0, 0.25, 0.5], "offset": [-1.0, -0.125, 0.0]}


def test_the_encoder_of_images_is_that_of_a_model_of_both(write: Write) -> None:
    vision = {**BACKBONE, "class_name": "CLIPVisionEncoder"}
    vision["registered_name"] = "keras_hub>CLIPVisionEncoder"
    both = {"class_name": "CLIPBackbone", "registered_name": "keras_hub>CLIPBackbone"}
    trunk = write({**both, "config": {"vision_encoder": vision, "text_encoder": TEXT}})
    assert settle(TrunkSpec(trunk)).image_size == (32, 48)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "found no config.json; expected an image backbone of KerasHub, as backbone.save"),
        ([], "config.json: found no class with a config"),
        ({"model_type": "vit"}, "config.json: found no class with a config"),
        (TEXT, "found a BertBackbone; expected an image backbone"),
        ({**BACKBONE, "registered_name": "mine>ViTBackbone"}, "the class ViTBackbone, which is no"),
        ({**BACKBONE, "class_name": "Lambda"}, "found the class Lambda, which is no backbone"),
        (backbone(inner={"class_name": "__lambda__", "config": {}}), "found the class __lambda__"),
        (
            backbone(inner=[{"class_name": "get_file", "registered_name": "keras_hub>get_file"}]),
            "found the class get_file, which is no backbone of KerasHub",
        ),
        (backbone(dtype={"class_name": "DTypePolicyMap"}), "found quantized weights"),
        (backbone(image_shape=[None, None, 1]), "found images of None x None x 1"),
        (backbone(image_shape=[10**6, 8, 3]), "at most 4096"),
        (backbone(image_shape=[None, None, 3]), "takes images of any size; give --image-size"),
        (backbone(deep=json.loads("[" * 40 + "]" * 40)), "found more than 32 levels"),
    ],
)
def test_what_is_no_image_backbone_is_refused(write: Write, config: Any, message: str) -> None:
    trunk = write(config)
    with pytest.raises(TrunkError, match="preset: .*" + message.replace("(", r"\(")):
        settle(TrunkSpec(trunk))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (None, "found no image_converter.json, so how pixels enter it is not known; give"),
        (converter(patch_limit=3), "image_converter.json: found the setting patch_limit; expected"),
        (converter(scale=[1, 2]), r"found \[1, 2\] for the three colours"),
        (converter(variance=0, mean=0), "image_converter.json: .* zero"),
        ({**CONVERTER, "registered_name": "keras_hub>Other"}, "found the class keras_hub>Other"),
    ],
)
def test_preprocessing_is_not_guessed(write: Write, pixels: Any, message: str) -> None:
    trunk = write(pixels=pixels)
    remedy = r".* --preprocess rescale \(1/255\) or none \(0..255\)"
    with pytest.raises(TrunkError, match=message + remedy):
        settle(TrunkSpec(trunk))
    assert settle(TrunkSpec(trunk, preprocess="rescale")).preprocess == "rescale"


@pytest.mark.parametrize(
    ("pixels", "given", "message"),
    [
        (
            {"interpolation": "lanczos5"},
            {"interpolation": "bicubic"},
            "the interpolation lanczos5; expected bilinear, .*, lanczos3; give --interpolation$",
        ),
        (
            {"interpolation": ["bicubic"]},
            {"interpolation": "bicubic"},
            r"the interpolation \['bicubic'\]; expected .*; give --interpolation$",
        ),
        (
            {"image_size": [0, 9]},
            {"image_size": (16, 16)},
            r"the size \[0, 9\]; expected a height and width of 1 to 4096; give --image-size$",
        ),
        (
            {"image_size": 224},
            {"image_size": (16, 16)},
            "the size 224; expected a height and width of 1 to 4096; give --image-size$",
        ),
    ],
)
def test_each_setting_of_a_converter_has_its_own_remedy(
    write: Write, pixels: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    trunk = write(pixels=converter(**pixels))
    with pytest.raises(TrunkError, match=f"image_converter.json: found {message}"):
        settle(TrunkSpec(trunk))
    spec = settle(TrunkSpec(trunk, **given))
    assert given.items() <= {**spec.to_dict(), "image_size": spec.image_size}.items()


def test_no_file_outside_a_folder_is_read(write: Write, tmp_path: Path) -> None:
    trunk = write(pixels=None)
    (tmp_path / "outside.json").write_text(json.dumps(CONVERTER))
    (tmp_path / "preset" / "image_converter.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(TrunkError, match=r"is a link to .*outside.json, out of the folder"):
        settle(TrunkSpec(trunk))


def test_the_place_of_a_preset_decides_no_number(write: Write) -> None:
    digests = [
        digest_preset(settle(TrunkSpec(trunk, preprocess=preprocess)), "0")
        for trunk, preprocess in (
            (write(), "auto"),
            (write(backbone(name="other"), name="moved"), "auto"),
            (write(pixels=converter(scale=0.25), name="scaled"), "auto"),
            (write(backbone(num_layers=3), name="deeper"), "auto"),
            (write(name="plain"), "none"),
        )
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        ("hub:no/such/folder", "hub:no/such/folder: no such folder; expected an image backbone"),
        ("hub:hf://keras/vit", "a URL; expected a path on this machine; fetch the file first"),
        (f"hub:{__file__}", "is a file; expected an image backbone"),
    ],
)
def test_a_wrong_folder_is_said(trunk: str, message: str) -> None:
    assert not is_name(trunk)
    with pytest.raises(TrunkError, match=message):
        settle(TrunkSpec(trunk))


@pytest.mark.parametrize("ending", [".keras", ".onnx"])
def test_a_folder_with_the_ending_of_a_file_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, name = f"hub:presets/vit{ending}", f"hub:vit{ending}"
    completed = [complete_settings(Path("a.h5"), {"trunk": t}).spec.trunk for t in (folder, name)]
    assert completed == [f"hub:{tmp_path}/presets/vit{ending}", name]
    assert not find_differences({"trunk": folder}, {"trunk": name})
    assert find_differences({"trunk": f"vit{ending}"}, {"trunk": folder})


@pytest.mark.parametrize("trunk", ["hub:no/folder", "no.keras", "no.onnx"])
def test_a_trunk_without_a_top_is_not_built_to_list_it(trunk: str) -> None:
    assert list_layers(trunk, top=True) == []


def test_a_setting_without_effect_is_refused() -> None:
    with pytest.raises(SettingError, match="weights: found imagenet with the trunk hub:vit, which"):
        TrunkSpec("hub:vit", weights="imagenet")


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    message = "hub:vit_base: no such folder, and presets of KerasHub need the package keras-hub"
    with pytest.raises(TrunkError, match=message + r'.*; pip install "headstart\[hub\]"'):
        settle(TrunkSpec("hub:vit_base"))
