"""The settings of stage one, as frozen dataclasses that check their values.

A field here, the long flag on the command line and the attribute in the store have one name.
"""

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from extract.core.applications import NORMALIZATIONS, TRUNKS
from extract.core.errors import SettingError, unknown_name
from extract.core.flags import (
    Settings,
    check_fields,
    check_rgb,
    documented,
    flag,
    parse_columns,
    parse_image_size,
    parse_rgb,
    share_of,
)

ONNX_ENDING = ".onnx"
MODEL_ENDINGS = (".keras", ONNX_ENDING)
HUB = "hub:"  # the start of the name of a preset of KerasHub
IN_MODEL = "model"
OUTPUT = "output"  # the layer that is the output of the complete model
DTYPES = ("float32", "float16")
# How an image becomes the pixels of the trunk's input; values in files from before a setting.
PIXEL_SETTINGS = ("resize", "interpolation", "decoding")
BEFORE: dict[str, Any] = {"decoding": "full", "mean": [], "std": []}
_FITS, _FILTERS = ("stretch", "crop", "pad"), ("nearest", "bilinear", "bicubic", "lanczos")
HAS_SIMD = find_spec("cykooz_resizer") is not None
PRECISIONS = ("float32", "bfloat16", "float16", "int8")


@documented
@dataclass(frozen=True)
class TrunkSpec(Settings):
    """The trunk and how an image enters it: everything that decides the features but their type.

    Empty values take their defaults: at once where they are known, otherwise when the model is
    built, see ``is_complete``. The layer ``output`` is the output of the complete model.

    Raises:
        SettingError: A value is unknown, out of range or has no effect.
    """

    trunk: str = flag(
        "inception_v3",
        "a model of keras.applications, or efficientnet_lite0, see --list-trunks; your own model: "
        "FILE.keras as model.save writes it, or FILE.onnx; or hub:PRESET or hub:FOLDER, a backbone "
        "of KerasHub",
        metavar="NAME|FILE",
    )
    weights: str = flag(
        "",
        "imagenet, none (seeded random) or a file: .h5 with or without top, .weights.h5, .keras",
        metavar="NAME|FILE",
        shown="imagenet",
    )
    layer: tuple[str, ...] = flag(
        (),
        "keep the output of this layer, such as fc1 of a complete vgg16; repeatable",
        repeat=True,
        shown="mixed7 of inception_v3, otherwise the last feature map",
    )
    pooling: str = flag(
        "",
        "pooling of a feature map, or of tokens, of which cls is the class token",
        choices=("avg", "max", "cls", "none"),
        shown="avg; none for a vector",
    )
    image_size: tuple[int, int] = flag(
        (0, 0),
        "size of the trunk's input in pixels",
        metavar="N|HxW",
        low=1,
        parse=parse_image_size,
        shown="its native size",
    )
    resize: str = flag(
        "", "stretch, crop the middle, or pad with black", choices=_FITS, shown="stretch; hub: own"
    )
    interpolation: str = flag(
        "", "resampling filter", choices=_FILTERS, shown="bilinear; hub: that of the preset"
    )
    decoding: str = flag(
        "fast" if HAS_SIMD else "scaled",
        "fast: read large JPEGs reduced, resize with SIMD; scaled: without SIMD; full: neither",
        choices=("fast", "scaled", "full"),
        shown="fast where cykooz.resizer is installed, otherwise scaled",
    )
    preprocess: str = flag(
        "",
        "what the trunk sees; auto: the preprocessing of the model; rescale: pixels / 255; "
        "imagenet, clip, siglip: that, then the mean and standard deviation of torchvision's "
        "models, CLIP or SigLIP; none: 0 to 255 unchanged",
        choices=("auto", "rescale", *NORMALIZATIONS, "none"),
        shown="auto; none for FILE.keras; FILE.onnx needs one",
    )
    mean: tuple[float, ...] = flag(
        (), "is subtracted after / 255", parse=parse_rgb, metavar="R,G,B"
    )
    std: tuple[float, ...] = flag(
        (), "standard deviation to divide by then", parse=parse_rgb, metavar="R,G,B"
    )

    def __post_init__(self) -> None:
        layer = (self.layer,) if isinstance(self.layer, str) else tuple(self.layer)
        side = self.image_size
        self._set(layer=layer, image_size=(side, side) if isinstance(side, int) else tuple(side))
        self._set(mean=check_rgb("mean", self.mean, 0.0), std=check_rgb("std", self.std, 1e-6))
        if self.is_file or self.is_hub:
            self._complete_file()
        else:
            self._complete_application()
        if not self.is_hub:  # whose preset says what is left open
            self._set(resize=self.resize or "stretch")
            self._set(interpolation=self.interpolation or "bilinear")
        check_fields(self)
        self._check_normalization()
        if self.pooling == "cls" and not (self.is_onnx or self.is_hub):
            raise SettingError(f"pooling cls: has no effect on {self.trunk}; use avg, max or none")
        if len(set(self.layer)) != len(self.layer):
            raise SettingError(f"layer: found {', '.join(self.layer)}; expected each layer once")

    @property
    def is_hub(self) -> bool:
        """Whether the trunk is a preset of KerasHub."""
        return self.trunk.startswith(HUB)

    @property
    def is_file(self) -> bool:
        """Whether the trunk is the user's own model."""
        return self.trunk.endswith(MODEL_ENDINGS) and not self.is_hub

    @property
    def is_onnx(self) -> bool:
        """Whether the trunk is a model in ONNX, which OpenVINO runs without Keras."""
        return self.trunk.endswith(ONNX_ENDING) and not self.is_hub

    @property
    def normalization(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation of R, G and B as shares of 255; None without them."""
        return (self.mean, self.std) if self.mean else NORMALIZATIONS.get(self.preprocess)

    @property
    def is_complete(self) -> bool:
        """Whether no value must be read from the model."""
        return bool(self.layer and self.pooling and all(self.image_size))

    def _complete_application(self) -> None:
        if self.trunk not in TRUNKS:
            unknown = unknown_name("trunk", self.trunk, TRUNKS)
            raise SettingError(f"{unknown}; see extract-features --list-trunks")
        known = TRUNKS[self.trunk]
        # The default cut is a feature map; whether another layer gives one is not known yet.
        pooling = "avg" if self.layer in ((), (known.cut,)) else ""
        self._set(
            weights=self.weights or "imagenet",
            layer=self.layer or (known.cut,),
            pooling=self.pooling or pooling,
            preprocess=self.preprocess or ("rescale" if self.mean else "auto"),
        )
        if self.image_size == (0, 0):
            self._set(image_size=(known.image_size, known.image_size))

    def _complete_file(self) -> None:
        if self.weights not in ("", IN_MODEL):
            found = f"found {self.weights} with the trunk {self.trunk}"
            raise SettingError(f"weights: {found}, which holds its own; drop --weights")
        if self.preprocess == "auto" and self.is_file:
            expected = "none (0..255, for a model with its own rescaling) or rescale (1/255)"
            raise SettingError(f"preprocess auto: not known for {self.trunk}; expected {expected}")
        usual = "rescale" if self.mean else "" if self.is_onnx or self.is_hub else "none"
        self._set(weights=IN_MODEL, preprocess=self.preprocess or usual)
        if self.is_onnx and not self.preprocess:
            known = (
                f"{', '.join(NORMALIZATIONS)}, rescale (1/255), none (0..255), or --mean and --std"
            )
            problem = f"an ONNX file does not say how its pixels are prepared; give one of {known}"
            raise SettingError(f"preprocess: not given for {self.trunk}: {problem}")

    def _check_normalization(self) -> None:
        if bool(self.mean) != bool(self.std):
            raise SettingError("mean, std: found one of them; expected both, or none")
        if self.mean and self.preprocess != "rescale":
            problem = f"have no effect with --preprocess {self.preprocess}"
            raise SettingError(f"mean, std: {problem}; give --preprocess rescale")


@documented
@dataclass(frozen=True)
class ExtractConfig(Settings):
    """How stage one runs; ``precision``, ``dtype``, ``columns`` and ``root`` decide what is stored.

    Raises:
        SettingError: A value is unknown, out of range or has no effect.
    """

    columns: str = flag(
        "",
        "column of a table, or of records that hold images, for the path (or the image), label, "
        "split and group; of folders, the level, as in label=2,group=1; of features that another "
        "program made, those for features, key, label, split and group",
        metavar="ROLE=NAME,...",
        shown="the column of that name",
    )
    root: str = flag(
        "",
        "the folder that the paths of a table are in",
        metavar="DIR",
        shown="the folder of the table",
    )
    engine: str = flag(
        "auto",
        "what runs the trunk; auto is keras on a GPU and openvino on a processor",
        choices=("auto", "keras", "openvino"),
    )
    precision: str = flag(
        "float32",
        "type that the trunk computes in; below float32 is faster, and the error is measured",
        choices=PRECISIONS,
    )
    batch_size: int | None = flag(
        None, "images in one call of the trunk", low=1, shown="chosen from the device's memory"
    )
    workers: int = flag(
        max(2, os.cpu_count() or 1),
        "threads that read and decode",
        low=1,
        shown="one for each core, at least 2",
    )
    cluster: str = flag(
        "",
        "run on the machines of a Ray cluster: HOST:PORT, auto for the one that this machine is "
        "part of, or local for one of this machine alone",
        metavar="ADDRESS|local",
    )
    dtype: str = flag("float32", "type of the stored features", choices=DTYPES)
    shards: str = flag(
        "",
        "keep the features in several files in DIR and make OUT.h5 a small index of them, which "
        "every command opens like one file",
        metavar="DIR",
    )
    max_bad: str = flag(
        "1%", "unreadable images that are tolerated; with more, the exit code is 4", metavar="N|P%"
    )
    max_image_bytes: int = flag(
        2**30, "bytes of an image file, and of all read at one time", low=1, metavar="N"
    )
    max_image_pixels: int = flag(
        2**27, "pixels of an image, and of all decoded at one time", low=1, metavar="N"
    )
    overwrite: bool = flag(False, "replace a file whose settings or source differ")
    update: bool = flag(
        False, "where the source has changed, keep the rows of unchanged images and run the others"
    )
    check: str = flag(
        "modified", "how to find changed images: content opens all", choices=("modified", "content")
    )
    max_removed: str = flag(
        "10%",
        "rows that --update may drop because their images are gone; with more it is refused",
        metavar="N|P%",
    )
    dry_run: bool = flag(False, "say what the run would do, or refuse it, and stop")
    repair: bool = flag(False, "compute again the rows that show-features --verify rejects")

    def __post_init__(self) -> None:
        check_fields(self)
        parse_columns(self.columns)
        self.allowed("max_bad", 0)
        self.allowed("max_removed", 0)
        if self.max_removed != type(self).max_removed and not self.update:
            raise SettingError("max_removed: has no effect without --update")
        if self.workers > 1024:  # the system refuses to start ten thousand threads
            raise SettingError(f"workers: found {self.workers}; expected at most 1024")
        if self.engine == "keras" and self.precision == "int8":
            raise SettingError("precision int8: has no effect with --engine keras; use openvino")
        if self.repair and (self.overwrite or self.dry_run):
            raise SettingError("repair: has no effect with --overwrite or --dry-run")
        if self.update and self.overwrite:
            raise SettingError("--update and --overwrite cannot be combined; choose one")
        if self.update and self.shards:
            raise SettingError("--update cannot change shards: rows are fixed; --overwrite can")
        if not re.fullmatch(r"(local|auto|[^/\s]+:\d+)?", self.cluster):
            raise SettingError(
                f"cluster: found {self.cluster!r}; expected local, auto or HOST:PORT"
            )

    def allowed(self, name: str, total: int) -> int:
        """Return how many of ``total`` images or rows ``max_bad`` or ``max_removed`` allows."""
        return share_of(name, getattr(self, name), total)
