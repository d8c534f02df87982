"""The settings of stage one, as frozen dataclasses that are checked when they are made.

A field here, the long flag on the command line and the attribute in the store have one name.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from extract.core.applications import TRUNKS
from extract.core.errors import SettingError, unknown_name

MODEL_ENDING = ".keras"
IN_MODEL = "model"
# The name of a complete model's output as a layer.
OUTPUT = "output"
POOLINGS = ("avg", "max", "none")
RESIZES = ("stretch", "crop", "pad")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
PREPROCESSES = ("auto", "rescale", "none")
DTYPES = ("float32", "float16")
ENGINES = ("auto", "keras", "openvino")
PRECISIONS = ("float32", "bfloat16", "float16", "int8")


def check_choice(field: str, value: str, known: tuple[str, ...]) -> None:
    """Raise SettingError unless ``value`` is one of ``known``."""
    if value not in known:
        raise SettingError(unknown_name(field, value, known))


def check_positive(field: str, value: int | None) -> None:
    """Raise SettingError unless ``value`` is a positive whole number or None (chosen later)."""
    if value is not None and (isinstance(value, bool) or value < 1):
        raise SettingError(f"{field}: found {value}; expected a whole number of 1 or more")


# What a column of a manifest can be; each is looked for under its own name unless told otherwise.
ROLES = ("path", "label", "split", "group")


def parse_columns(text: str) -> dict[str, str]:
    """Return the column that was named for each role in ``path=file,label=species``.

    Raises:
        SettingError: The text is of another form, or a role is unknown or named twice.
    """
    named: dict[str, str] = {}
    for part in text.split(",") if text else ():
        role, equals, column = part.strip().partition("=")
        if not equals or not column:
            raise SettingError(
                f"columns: found {part!r}; expected ROLE=COLUMN, such as path=file,label=species"
            )
        check_choice("columns: role", role, ROLES)
        if role in named:
            raise SettingError(f"columns: found {role} twice; expected one column for it")
        named[role] = column
    return named


@dataclass(frozen=True)
class TrunkSpec:
    """The trunk and how an image enters it: all that decides the features, but their type.

    What is left empty takes its usual value: at once where the trunk is a ``keras.applications``
    model and its layer known; otherwise once the model is built, see ``settled``.

    Attributes:
        trunk: A name in ``TRUNKS``, or the path of a model of one's own, which ends in ``.keras``.
        weights: ``imagenet``, ``none`` (seeded random) or the path of a weights file; ``model``
            where the trunk is a file, which holds them.
        layer: Names of the layers whose output is kept, in one pass; ``output`` is the complete
            model's own.
        pooling: What becomes of a feature map: ``avg`` or ``max`` over its positions, or ``none``.
            Left empty, ``avg``, and ``none`` where no layer gives a map.
        image_size: Height and width in pixels.
        resize: ``stretch`` to that size, ``crop`` the middle, or ``pad`` with black.
        interpolation: The resampling filter, as Pillow names them.
        preprocess: ``auto`` is the model's own, ``rescale`` is 1/255, ``none`` leaves 0..255. Left
            empty, ``auto``, and ``none`` where the trunk is a file.

    Raises:
        SettingError: A value is unknown, out of range or without effect.
    """

    trunk: str = "inception_v3"
    weights: str = ""
    layer: tuple[str, ...] = ()
    pooling: str = ""
    image_size: tuple[int, int] = (0, 0)
    resize: str = "stretch"
    interpolation: str = "bilinear"
    preprocess: str = ""

    def __post_init__(self) -> None:
        for name in ("layer", "image_size"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.is_file:
            self._complete_file()
        else:
            self._complete_application()
        if self.pooling:
            check_choice("pooling", self.pooling, POOLINGS)
        check_choice("resize", self.resize, RESIZES)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        check_choice("preprocess", self.preprocess, PREPROCESSES)
        if self.image_size != (0, 0):
            for side in self.image_size:
                check_positive("image_size", side)
        if len(set(self.layer)) != len(self.layer):
            raise SettingError(f"layer: found {', '.join(self.layer)}; expected each layer once")

    @property
    def is_file(self) -> bool:
        """Whether the trunk is a model of one's own."""
        return self.trunk.endswith(MODEL_ENDING)

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be read from the model itself."""
        return bool(self.layer and self.pooling and all(self.image_size))

    def _complete_application(self) -> None:
        if self.trunk not in TRUNKS:
            raise SettingError(
                f"{unknown_name('trunk', self.trunk, TRUNKS)}; see extract-features --list-trunks"
            )
        known = TRUNKS[self.trunk]
        usual = {
            "weights": "imagenet",
            "layer": (known.cut,),
            # That cut is a feature map; of another layer it is not known yet.
            "pooling": "avg" if self.layer in ((), (known.cut,)) else "",
            "preprocess": "auto",
        }
        for name, value in usual.items():
            object.__setattr__(self, name, getattr(self, name) or value)
        if self.image_size == (0, 0):
            object.__setattr__(self, "image_size", (known.image_size, known.image_size))

    def _complete_file(self) -> None:
        if self.weights not in ("", IN_MODEL):
            raise SettingError(
                f"weights: found {self.weights} beside the trunk {self.trunk}, which holds its "
                "own; leave --weights out"
            )
        if self.preprocess == "auto":
            raise SettingError(
                f"preprocess auto: not known of {self.trunk}; expected none (0..255, for a model "
                "that rescales by itself) or rescale (1/255)"
            )
        object.__setattr__(self, "weights", IN_MODEL)
        object.__setattr__(self, "preprocess", self.preprocess or "none")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrunkSpec":
        """Make a spec from ``to_dict``'s mapping, passing over keys that are not its fields."""
        names = {field.name for field in fields(cls)}
        known: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in names
        }
        return cls(**known)


@dataclass(frozen=True)
class ExtractConfig:
    """How stage one runs; ``precision``, ``dtype`` and ``columns`` change what the store holds.

    Attributes:
        engine: ``keras``, ``openvino``, or ``auto``, which takes the faster one for this machine.
        precision: What the trunk computes in.
        batch_size: Images in one call of the trunk; None lets the engine choose.
        workers: Threads that read and decode; on a cluster the processors of a task, for both.
        cluster: Where Ray runs: ``local`` starts it here, ``auto`` or HOST:PORT joins one; empty,
            no cluster.
        dtype: Type the features are stored in.
        columns: Which column of a table or of records is what, such as ``path=file,label=species``.
        shards: Folder for the features, in files of some thousand rows each, beside an index of
            them in the place of the one file; empty, one file.
        max_bad: Unreadable images that are tolerated: a number, or a share such as ``1%``.
        overwrite: Replace a store whose settings or source differ.
        update: Bring a store up to date with a source that has changed.
        dry_run: Say what would be done, and stop.
        repair: Read the whole store first and compute again what is not sound in it.

    Raises:
        SettingError: A value is unknown, out of range or without effect.
    """

    engine: str = "auto"
    precision: str = "float32"
    batch_size: int | None = None
    workers: int = max(2, os.cpu_count() or 1)
    cluster: str = ""
    dtype: str = "float32"
    columns: str = ""
    shards: str = ""
    max_bad: str = "1%"
    overwrite: bool = False
    update: bool = False
    dry_run: bool = False
    repair: bool = False

    def __post_init__(self) -> None:
        check_positive("batch_size", self.batch_size)
        check_positive("workers", self.workers)
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("engine", self.engine, ENGINES)
        check_choice("precision", self.precision, PRECISIONS)
        if self.engine == "keras" and self.precision == "int8":
            raise SettingError("precision int8: has no effect with --engine keras; use openvino")
        if self.repair and (self.overwrite or self.dry_run):
            raise SettingError("repair: has no effect beside --overwrite or --dry-run")
        if not re.fullmatch(r"(local|auto|[^/\s]+:\d+)?", self.cluster):
            raise SettingError(
                f"cluster: found {self.cluster!r}; expected local, auto or HOST:PORT of a running "
                "Ray"
            )
        parse_columns(self.columns)
        if self.update and self.overwrite:
            raise SettingError("update: has no effect beside overwrite; leave the one or the other")
        if self.update and self.shards:
            raise SettingError(
                "update: cannot be had with shards, whose rows are fixed; give --overwrite"
            )
        self.tolerated(0)

    def tolerated(self, total: int) -> int:
        """Return how many of ``total`` images may be unreadable."""
        text = self.max_bad.strip()
        try:
            value = float(text.removesuffix("%")) if text.endswith("%") else int(text)
        except ValueError:
            value = -1
        if value < 0 or (text.endswith("%") and value > 100):
            raise SettingError(f"max_bad: found {text!r}; expected a number or a share such as 1%")
        return int(total * value / 100) if text.endswith("%") else int(value)


_VIEW_DEFAULTS: Mapping[str, Any] = {
    "seed": 0,
    "rotation": 40.0,
    "shift": 0.2,
    "shear": 0.2,
    "zoom": 0.2,
    "flip": True,
}

# Setting -> the largest value.
_VIEW_RANGES: Mapping[str, float] = {"rotation": 180, "shift": 1, "shear": 1, "zoom": 0.9}


@dataclass(frozen=True)
class ViewSpec:
    """Augmented views of the training images; the defaults are the recipe of Keras' course notes.

    After it is made, every setting has its value where there are views, and is None without.

    Attributes:
        views: How many are kept of each training image, beside the plain one.
        seed: Decides, with key and number of a view, all that is random in it; below 2**32.
        rotation: Largest turn either way, in degrees, 0 to 180.
        shift: Largest shift either way, as a share of width and of height, 0 to 1.
        shear: Largest slant either way, as a share: a column moves down by so much of its distance
            from the middle, 0 to 1.
        zoom: Width and height are each divided by between ``1 - zoom`` and ``1 + zoom``, 0 to 0.9.
        flip: Whether one view in two is mirrored, left to right.

    Raises:
        SettingError: A value is out of range or can have no effect.
    """

    views: int = 0
    seed: int | None = None
    rotation: float | None = None
    shift: float | None = None
    shear: float | None = None
    zoom: float | None = None
    flip: bool | None = None

    def __post_init__(self) -> None:
        if self.views != 0:
            check_positive("views", self.views)
        for name, usual in _VIEW_DEFAULTS.items():
            if not self.views and getattr(self, name) is not None:
                raise SettingError(f"{name}: has no effect without --views")
            if self.views and getattr(self, name) is None:
                object.__setattr__(self, name, usual)
        for name, most in _VIEW_RANGES.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                raise SettingError(f"{name}: found {value}; expected 0 to {most:g}")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise SettingError(f"seed: found {self.seed}; expected 0 or more and below 2**32")
        if self.views and not (self.flip or any(getattr(self, name) for name in _VIEW_RANGES)):
            raise SettingError(
                "views: have no effect without rotation, shift, shear, zoom or flip; leave --views "
                "out, or give one of them"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ViewSpec":
        """Make a spec from a mapping, passing over keys that are not its fields."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})
