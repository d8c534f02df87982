"""What a head costs: a formula counts its work, a test of the machine says how fast it is done.

The constants of the formulas are fitted to measured times: ``benchmarks/growth.py costs`` prints
measured against estimated seconds.
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from classify.search.evaluate import training_sample
from classify.settings.head_spec import HeadSpec
from extract.engines.memory import available_cores

# The size of the test of the machine: 0.03 GFLOP, and 32 MB. The best of several runs of half a
# millisecond is that of a machine that does nothing else.
_TEST_WIDTH, _TEST_BYTES, _TEST_RUNS = 256, 1 << 25, 10


class Work(NamedTuple):
    """The work of training and scoring a head once.

    Attributes:
        flops: Operations of matrix products in float32, or as many others as take that long.
        streamed: Bytes that pass through memory.
        seconds: Time that no fast machine saves: imports, compilation, calls.
    """

    flops: float
    streamed: float
    seconds: float


class Machine(NamedTuple):
    """How fast a machine works.

    Attributes:
        flops: Operations per second of a matrix product in float32.
        streamed: Bytes per second that are copied.
    """

    flops: float
    streamed: float

    def seconds(self, work: Work) -> float:
        """Return how long some work takes here."""
        return work.flops / self.flops + work.streamed / self.streamed + work.seconds


# Two cores of an AMD EPYC. The number of images in the report's curve is decided with it.
USUAL_MACHINE = Machine(205e9, 14e9)


class Shape(NamedTuple):
    """The size of one fit.

    Attributes:
        train: Training rows, with the views that are rows of their own.
        validation: Validation rows.
        features: D.
        classes: K.
        stored: Whether the rows are read from the file.
    """

    train: int
    validation: int
    features: int
    classes: int
    stored: bool = False

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The training rows n, the features D and the classes K."""
        return self.train, self.features, self.classes

    @property
    def scored(self) -> int:
        """The rows that a trained head is scored on."""
        return self.validation + training_sample(self.train)


@lru_cache(maxsize=1)
def measure_machine() -> Machine:
    """Measure the best of some matrix products, and of some copies of memory; once a process.

    Products are measured in one thread: with several, a busy machine is a tenth as fast.
    """
    from threadpoolctl import ThreadpoolController

    pools = ThreadpoolController().select(user_api="blas")
    threads = max((pool["num_threads"] for pool in pools.info()), default=1)
    threads = min(threads, available_cores())  # a quota does not reduce the threads
    square = np.ones((_TEST_WIDTH, _TEST_WIDTH), np.float32)
    source = np.ones(_TEST_BYTES, np.uint8)
    target = source.copy()
    with pools.limit(limits=1):
        product = _best_time(lambda: np.matmul(square, square))
    copied = _best_time(lambda: np.copyto(target, source))
    return Machine(threads * 2 * _TEST_WIDTH**3 / product, _TEST_BYTES / copied)


def _best_time(run: Callable[[], object]) -> float:
    times = []
    for _ in range(_TEST_RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def work_of(spec: HeadSpec, shape: Shape) -> Work:
    """Return the work of one fit of a head, with its transform and its scores."""
    n, D, K = shape.sizes
    work = _WORK[spec.head](spec, shape)
    # Copies of the rows, and the transform of them.
    streamed = work.streamed + 60.0 * n * D * bool(spec.transform) + 30.0 * n * D
    # Reading a byte from the file takes as long as 30 bytes of memory.
    passes = (spec.epochs or 2) + 1 if shape.stored else 0
    return work._replace(
        flops=work.flops + 2.0 * shape.scored * D * K, streamed=streamed + 120.0 * passes * n * D
    )


def _keras_work(spec: HeadSpec, shape: Shape) -> Work:
    """Each step reads and writes the weights, gradients and moments, and calls the backend."""
    widths = [shape.features, *(spec.units or ()), shape.classes]
    weights = float(sum(a * b for a, b in pairwise(widths)))
    epochs = spec.epochs or 1
    steps = epochs * math.ceil(shape.train / (spec.batch_size or 1))
    flops = 8 * weights * epochs * (shape.train + shape.validation / 3)
    return Work(flops, 36 * weights * steps, 5 + 6e-4 * steps)


def _logistic_work(spec: HeadSpec, shape: Shape) -> Work:
    """150 steps, more for a weak penalty; each has two products in float64."""
    n, D, K = shape.sizes
    steps = 150 * (1 + max(0.0, math.log10((spec.C or 1) / 0.03)))
    width = min(n, D)
    return Work(steps * 8.0 * n * width * K + _space_work(n, D), steps * 24.0 * n * K, 0.1)


def _space_work(n: int, D: int) -> float:
    """The row space of fewer rows than features, from their Gram matrix."""
    return 4.0 * n * n * D + 40.0 * n**3 if n <= D else 0.0


def _ridge_work(spec: HeadSpec, shape: Shape) -> Work:
    """Products of the features in float64; of rows in the file as for lda."""
    if shape.stored:
        return _lda_work(spec, shape)
    n, D, K = shape.sizes
    small = min(n, D)
    return Work(22.0 * n * D * small + 40.0 * small**3, 40.0 * n * (K + D), 0.02)


def _lda_work(spec: HeadSpec, shape: Shape) -> Work:
    """Products of the rows, twice, and four solutions."""
    n, D, K = shape.sizes
    small = min(n, D)
    return Work(11.0 * n * D * small + 40.0 * small**3, 40.0 * n * K + 60.0 * n * D, 0.02)


def _svm_work(spec: HeadSpec, shape: Shape) -> Work:
    n, D, K = shape.sizes
    if M := spec.landmarks:
        # The kernel, its coordinates and their products in float64.
        flops = float(n + shape.scored) * M * (2 * D + 4 * M)
        return Work(flops, 60.0 * n * M, 2)
    kernel = float(n) * (n + shape.scored)
    return Work(2 * kernel * D, 2800 * float(n) * n + 8.0 * shape.scored * K * K, 0.1)


def _knn_work(spec: HeadSpec, shape: Shape) -> Work:
    pairs = float(shape.train) * shape.scored
    return Work(2.7 * pairs * shape.features, 36 * pairs, 0.1)


def _bayes_work(spec: HeadSpec, shape: Shape) -> Work:
    """Each class looks at each feature of each row in float64, also for the scale of the scores."""
    values = float(shape.train + shape.scored) * shape.features
    return Work(0, values * (44 * shape.classes + 70), 0.05)


def _forest_work(spec: HeadSpec, shape: Shape) -> Work:
    n, D, K = shape.sizes
    return Work(0, 60.0 * (spec.trees or 1) * n * math.log2(n + 2) * (math.sqrt(D) + K / 8), 0.5)


def _boosting_work(spec: HeadSpec, shape: Shape) -> Work:
    n, D, K = shape.sizes
    trees = (spec.trees or 1) * (1 if K == 2 else K)
    return Work(0, trees * (8.0 * n * D + 2e5 * D), 0.5)


_WORK: Mapping[str, Callable[[HeadSpec, Shape], Work]] = {
    "dense": _keras_work,
    "linear": _keras_work,
    "logistic": _logistic_work,
    "ridge": _ridge_work,
    "lda": _lda_work,
    "svm": _svm_work,
    "knn": _knn_work,
    "naive_bayes": _bayes_work,
    "forest": _forest_work,
    "boosting": _boosting_work,
}
