"""The command predict-images: parse the arguments, call ``predict_images``, print the result."""

import argparse
import sys

from classify.settings.prediction import PredictConfig
from extract.core.config import ExtractConfig, TrunkSpec
from extract.core.console import Parser, add_common_flags, log, log_lines, run_command
from extract.core.errors import ExitCode
from extract.core.flags import add_flags
from extract.display.width import width_of

_EXAMPLES = """\
examples:
  predict-images out_head/ data/validation
  predict-images out_head/ data/validation --top 3 -o labels.csv
  predict-images out_head/ out.h5 --only unlabelled --min-score 0.6
  predict-images out.h5 --to-label 30 -o round1.csv --page round1.html
  predict-images out_head/ out.h5 --to-label 30 -o round2.csv
  predict-images out_head/ vectors.npz
  predict-images photo.jpg --trunk vgg16 --top 5
  predict-images photo.jpg --trunk vgg16 -o chart.png

DIR is a head from train-head; --trunk uses the classes of a complete model
instead. Columns: key, label, score (0 to 1), margin (the best score minus the
second) and reason (why there is no label: the image could not be read, or its
score is below --min-score). Where SOURCE has labels that the head knows,
accuracy, macro F1 and a confusion table follow on stderr. A file of features
is labelled in seconds: its images are not read.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command ``predict-images``; returns its exit code."""
    return run_command(predict_images_parser(), _predict_images, argv)


def predict_images_parser() -> argparse.ArgumentParser:
    """Build the parser of ``predict-images``."""
    description = "Label images with a trained head, or with a complete model."
    parser = Parser("predict-images", "[DIR] SOURCE", description, _EXAMPLES)
    parser.add_argument("head", metavar="DIR", nargs="?", help="a folder made by train-head")
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder of images, an image, a table, or a file of features that the head's trunk "
        "made; for a head on features of another program, a file of such features",
    )
    add_flags(parser, ExtractConfig, "columns", "root")
    group = parser.add_argument_group("complete model; with DIR only --weights")
    texts = {
        "trunk": "a name of --list-trunks, with ImageNet's 1,000 classes; or a .keras or .onnx "
        "file",
        "weights": "with --trunk: imagenet (default), none, or a file with top; with DIR: the "
        "trunk's weights, if they have moved since training",
        "image_size": "pixels that a FILE sees, if it takes any size",
    }
    add_flags(
        group, TrunkSpec, "trunk", "weights", "image_size", "preprocess", "mean", "std", **texts
    )
    group = parser.add_argument_group("file of features")
    add_flags(group, PredictConfig, "only", "labels", "to_label", "page", "images")
    group = parser.add_argument_group("output")
    add_flags(group, PredictConfig, "top", "format", "scores", "min_score", "sort", "link")
    text = "the file to write (default: stdout); for one image .png, .svg or .pdf draws a chart"
    group.add_argument("-o", "--output", metavar="FILE", help=text)
    add_flags(group, ExtractConfig, "max_bad")
    running = ("batch_size", "workers", "max_image_bytes", "max_image_pixels")
    add_flags(parser.add_argument_group("running"), ExtractConfig, *running)
    add_common_flags(parser)
    return parser


def _predict_images(arguments: argparse.Namespace) -> int:
    from classify.inference.predict import predict_images
    from classify.labelling.questions import Question, write_questions
    from classify.output.predictions import write_predictions

    predictions = predict_images(
        **{k: v for k, v in vars(arguments).items() if k not in ("verbose", "log")}
    )
    if arguments.output is None and arguments.to_label:
        write_questions((Question(*prediction[:4]) for prediction in predictions), sys.stdout)
    elif arguments.output is None:
        write_predictions(predictions, sys.stdout, arguments.format or PredictConfig.format)
    if predictions.evaluation:
        log_lines(predictions.evaluation.text(width_of(sys.stderr)))
    log.info("%s: %s", arguments.output or "stdout", predictions.summary())
    return ExitCode.TOO_MANY_BAD if predictions.unreadable > predictions.tolerated else ExitCode.OK
