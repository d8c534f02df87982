"""The commands of stage one: arguments -> settings -> run."""

import argparse
import re
import shlex
from collections.abc import Mapping
from typing import Any

from extract.core.applications import TRUNKS
from extract.core.config import (
    DTYPES,
    ENGINES,
    INTERPOLATIONS,
    POOLINGS,
    PRECISIONS,
    PREPROCESSES,
    RESIZES,
    ExtractConfig,
    TrunkSpec,
    ViewSpec,
)
from extract.core.console import add_common_flags, log, run_command
from extract.core.errors import (
    EXIT_OK,
    EXIT_TOO_MANY_BAD,
    SettingError,
    quoted,
)

_EXTRACT_EXAMPLES = """\
examples:
  extract-features data/ out.h5
  extract-features data/ out.h5 --trunk vgg16 --image-size 150
  extract-features data/ out.h5 --layer mixed7 --pooling none --weights FILE.h5
  extract-features data/ out.h5 --views 4
  extract-features birds.csv out.h5 --columns path=file,label=species
  extract-features --list-layers --trunk vgg16

An interrupted run is continued by the same command. Settings that are left out take the values of
the existing file.
"""
# Flags of every command that reads images; untold, ExtractConfig decides.
READING: Mapping[str, Mapping[str, Any]] = {
    "columns": {
        "metavar": "ROLE=NAME,...",
        "help": "which column of a table, or of records that hold images, is the path (or the "
        "image), label, split and group (default: those of that name)",
    },
    "batch_size": {
        "type": int,
        "metavar": "N",
        "help": "images in one call of the trunk (default: chosen from the device's memory)",
    },
    "workers": {
        "type": int,
        "metavar": "N",
        "help": "threads that read and decode (default: one for each core, at least 2)",
    },
    "max_bad": {
        "metavar": "N|P%",
        "help": "unreadable images that are tolerated; with more, the exit code is 4 "
        f"(default: {ExtractConfig.max_bad})".replace("%", "%%"),
    },
}


def extract_features(argv: list[str] | None = None) -> int:
    """Run the command ``extract-features``; returns its exit code."""
    return run_command(extract_features_parser(), _extract_features, argv)


def extract_features_parser() -> argparse.ArgumentParser:
    """Build the parser of ``extract-features``."""
    parser = argparse.ArgumentParser(
        prog="extract-features",
        description="Run a frozen, pretrained CNN trunk once over a set of images and keep its "
        "features in one HDF5 file.\n\n" + _EXTRACT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        help="class folders, split folders (train, validation, test) over class folders, a flat "
        "folder, an archive of such (.zip, .tar, .tar.gz, shards-{00..99}.tar), one image, or a "
        "table of images (.csv, .tsv, .parquet, .jsonl); or a URL that fsspec opens",
    )
    parser.add_argument("out", metavar="OUT.h5", nargs="?", help="the file to make or continue")
    add_reading_flags(parser, "columns")
    _add_trunk_flags(parser.add_argument_group("trunk"))
    defaults = ExtractConfig()
    running = parser.add_argument_group("running")
    running.add_argument(
        "--engine",
        choices=ENGINES,
        help="what runs the trunk; auto is keras on a GPU and openvino on a processor "
        f"(default: {defaults.engine})",
    )
    running.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="what the trunk computes in; below float32 is faster, and the error is measured "
        f"(default: {defaults.precision})",
    )
    add_reading_flags(running, "batch_size", "workers")
    running.add_argument(
        "--cluster",
        metavar="ADDRESS|local",
        help="run on the machines of a Ray cluster: HOST:PORT, auto for the one that this machine "
        "is part of, or local for one of this machine alone",
    )
    _add_view_flags(parser.add_argument_group("views"))
    output = parser.add_argument_group("output")
    output.add_argument(
        "--dtype", choices=DTYPES, help=f"type of the stored features (default: {defaults.dtype})"
    )
    output.add_argument(
        "--shards",
        metavar="DIR",
        help="keep the features in several files in DIR, written where the work is, and make "
        "OUT.h5 a small index of them, which every command opens like one file",
    )
    add_reading_flags(output, "max_bad")
    output.add_argument(
        "--overwrite",
        action="store_true",
        default=None,
        help="replace a file whose settings or source differ",
    )
    output.add_argument(
        "--update",
        action="store_true",
        default=None,
        help="where the source has changed, keep the rows of images that have not, and run the "
        "others",
    )
    output.add_argument(
        "--dry-run",
        action="store_true",
        default=None,
        help="say what would be done, or refuse it, and stop",
    )
    output.add_argument(
        "--repair",
        action="store_true",
        default=None,
        help="compute again the rows that show-features --verify rejects",
    )
    look = parser.add_argument_group("look")
    look.add_argument("--list-trunks", action="store_true", help="print every trunk")
    look.add_argument("--list-layers", action="store_true", help="print every layer of a trunk")
    add_common_flags(parser)
    return parser


def add_reading_flags(group: Any, *names: str) -> None:
    """Add flags of a command that reads images, by the names of their settings."""
    for name in names:
        group.add_argument(f"--{name.replace('_', '-')}", **READING[name])


def add_model_flags(group: Any, **texts: str) -> None:
    """Add the flags that name a model and say what it sees.

    Args:
        group: The parser, or a group of it.
        **texts: What ``trunk``, ``weights`` and ``image_size`` are to the command.
    """
    group.add_argument("--trunk", metavar="NAME|FILE", help=texts["trunk"])
    group.add_argument("--weights", metavar="NAME|FILE", help=texts["weights"])
    group.add_argument("--image-size", type=_image_size, metavar="N|HxW", help=texts["image_size"])
    group.add_argument(
        "--preprocess",
        choices=PREPROCESSES,
        help="the model's own, the course's 1/255, or 0..255 as it is "
        f"(default: {TrunkSpec().preprocess}; none for a FILE)",
    )


def _add_trunk_flags(group: Any) -> None:
    usual = TrunkSpec()
    add_model_flags(
        group,
        trunk=f"a model of keras.applications (default: {usual.trunk}), see --list-trunks; or a "
        "model of your own, as model.save writes it into FILE.keras",
        weights="imagenet, none (seeded random) or a file: .h5 with or without top, .weights.h5, "
        f".keras (default: {usual.weights})",
        image_size="pixels that the trunk sees (default: its native size)",
    )
    group.add_argument(
        "--layer",
        action="append",
        metavar="NAME",
        help="keep this layer's output, such as the fc1 of a complete vgg16; repeatable (default: "
        "mixed7 of inception_v3, otherwise the last feature map)",
    )
    group.add_argument(
        "--pooling",
        choices=POOLINGS,
        help=f"what becomes of a feature map (default: {usual.pooling}; none for a vector)",
    )
    group.add_argument(
        "--resize",
        choices=RESIZES,
        help=f"stretch, crop the middle, or pad with black (default: {usual.resize})",
    )
    group.add_argument(
        "--interpolation",
        choices=INTERPOLATIONS,
        help=f"resampling filter (default: {usual.interpolation})",
    )


def _add_view_flags(group: Any) -> None:
    usual = ViewSpec(views=1)
    group.add_argument(
        "--views",
        type=int,
        metavar="N",
        help="keep N augmented views of each training image beside the plain one (default: 0)",
    )
    group.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help=f"decides what is random in the views (default: {usual.seed})",
    )
    for name, unit, text in (
        ("rotation", "DEGREES", "largest turn either way, in degrees"),
        ("shift", "X", "largest shift either way, as a share of width and of height"),
        ("shear", "X", "largest slant either way, as a share"),
        ("zoom", "X", "width and height are each divided by 1 - X to 1 + X"),
    ):
        help_text = f"{text} (default: {getattr(usual, name):g})"
        group.add_argument(f"--{name}", type=float, metavar=unit, help=help_text)
    group.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="mirror one view in two, left to right (default: on)",
    )


def _image_size(text: str) -> tuple[int, int]:
    """Turn ``150`` or ``150x200`` into height and width."""
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"found {text!r}; expected N or HxW, such as 150 or 150x200"
        )
    return int(match[1]), int(match[2] or match[1])


def _extract_features(arguments: argparse.Namespace) -> int:
    if arguments.list_trunks:
        return _print_trunks()
    if arguments.list_layers:
        return _print_layers(arguments)
    if not arguments.source or not arguments.out:
        raise SettingError("SOURCE and OUT.h5 are needed; see extract-features --help")
    from extract.pipeline.run import extract_features
    from extract.pipeline.settings import FIELDS

    settings = {name: getattr(arguments, name) for name in FIELDS}
    summary = extract_features(arguments.source, arguments.out, **settings)
    if arguments.dry_run:
        return EXIT_OK
    _report(summary)
    return EXIT_TOO_MANY_BAD if len(summary.failed) > summary.tolerated else EXIT_OK


def _report(summary: Any) -> None:
    for key, reason in summary.failed:
        log.warning("%s: %s", quoted(key), reason)
    if summary.failed:
        log.warning(
            "%d of %d images could not be read (%d tolerated); their rows are NaN",
            len(summary.failed),
            summary.images,
            summary.tolerated,
        )
    shapes = ", ".join(
        f"{layer} {' x '.join(map(str, shape))}" for layer, shape in summary.shapes.items()
    )
    spent = summary.seconds
    rate = summary.computed / max(spent.wait + spent.trunk + spent.write, 1e-9)
    log.info(
        "%s: %d images, %d classes, %s; %d new in %.1f s: start %.1f s, then %.0f images/s "
        "(trunk %.1f s, write %.1f s, waiting for images %.1f s; beside it read %.1f s, decode "
        "%.1f s)",
        summary.out,
        summary.images,
        len(summary.class_names),
        shapes,
        summary.computed,
        spent.start + spent.wait + spent.trunk + spent.write,
        spent.start,
        rate,
        *(spent.trunk, spent.write, spent.wait, spent.read, spent.decode),
    )
    if summary.error:
        log.info(
            "against float32, on %d images: relative error %.2g, cosine %.5f",
            *(summary.error["images"], summary.error["relative"], summary.error["cosine"]),
        )
    out = shlex.quote(str(summary.out))
    if len(summary.class_names) < 2:
        log.info("without two classes there is no head to train; next: show-features %s", out)
    else:
        log.info("next: train-head %s", out)


def _print_trunks() -> int:
    print(f"{'trunk':<20} {'native size':>11} {'cut':<22} {'features':>8}")
    for name, known in TRUNKS.items():
        size = f"{known.image_size} px"
        print(f"{name:<20} {size:>11} {known.cut:<22} {known.features:>8}")
    return EXIT_OK


def _print_layers(arguments: argparse.Namespace) -> int:
    from extract.trunks.trunk import list_layers, list_top

    given = {"trunk": arguments.trunk, "image_size": arguments.image_size}
    spec = TrunkSpec(**{name: value for name, value in given.items() if value})
    listed = list_layers(spec)
    for index, name, shape in listed:
        print(f"{index:>4} {name:<32} {shape}")
    for index, name, shape in [] if spec.is_file else list_top(spec, listed):
        print(f"{index:>4} {name:<32} {shape}  of the complete model")
    return EXIT_OK
