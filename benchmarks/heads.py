"""Time many heads in one model against one ``keras.Model.fit`` after another.

Run with ``python benchmarks/heads.py``; about ten minutes.

Each round trains everything once in each way, on the same random rows, in turn; the table gives
medians over the rounds. Seconds are whole: building, compiling, training and judging after every
epoch. Seconds an epoch leave out what comes before the second epoch, so no compiling is in them.
With ``--separate N`` only N heads of each case are fitted separately and their seconds scaled up;
the table then says so. Without it all are.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from classify.heads import parallel_fit
from classify.heads.keras_head import fit_heads
from classify.settings.head_spec import HeadSpec
from classify.stored.views import FoldData
from extract.trunks.backend import load_keras


@dataclass(frozen=True)
class Case:
    """What is trained: ``count`` heads like ``spec`` on (rows, wide) features of two classes."""

    name: str
    spec: HeadSpec
    count: int
    wide: int
    wanted: float
    by: str
    rows: int = 1027

    def specs(self) -> list[HeadSpec]:
        """Return the heads: no two alike."""
        rates = np.geomspace(1e-4, 1e-2, self.count)
        return [
            replace(self.spec, seed=k, learning_rate=float(rate)) for k, rate in enumerate(rates)
        ]


CASES = (
    Case(
        "32 dense(256), 768 wide, batch 32, 20 epochs",
        HeadSpec("dense", units=(256,), batch_size=32, epochs=20),
        *(32, 768, 5.0, "whole"),
    ),
    Case(
        "64 linear, 768 wide, batch 32, 20 epochs",
        HeadSpec("linear", batch_size=32, epochs=20),
        *(64, 768, 20.0, "whole"),
    ),
    Case(
        "the course's head, 37,632 wide, batch 20, 4 epochs",
        HeadSpec("dense", batch_size=20, epochs=4),
        *(1, 37632, 1.0, "epoch"),
    ),
)


class Spent(NamedTuple):
    """Seconds in all, and of one epoch (of all heads) once everything is compiled."""

    whole: float
    epoch: float


def rows_of(case: Case) -> tuple[Any, ...]:
    """Draw training rows and a quarter as many for validation."""
    generator = np.random.default_rng(0)
    drawn = []
    for count in (case.rows, case.rows // 4):
        y = generator.integers(0, 2, count)
        X = generator.normal(size=(count, case.wide)).astype(np.float32)
        X[:, 0] += y
        drawn += [X, y]
    return tuple(drawn)


def separately(case: Case, rows: tuple[Any, ...], count: int) -> Spent:
    """Train ``count`` of the heads, each as a Keras user writes it, and scale to all."""
    keras = load_keras()
    start, epochs = time.perf_counter(), 0.0
    for spec in case.specs()[:count]:
        hidden = [
            layer
            for width in spec.units or ()
            for layer in (
                keras.layers.Dense(width, activation="relu"),
                keras.layers.Dropout(spec.dropout),
            )
        ]
        output = keras.layers.Dense(1, activation="sigmoid")
        model = keras.Sequential([keras.Input((case.wide,)), *hidden, output])
        model.compile(
            optimizer=keras.optimizers.RMSprop(learning_rate=spec.learning_rate),
            loss="binary_crossentropy",
            metrics=["accuracy"],
        )
        ends: list[float] = []
        model.fit(
            rows[0],
            rows[1],
            batch_size=spec.batch_size,
            epochs=spec.epochs,
            validation_data=rows[2:],
            callbacks=[
                keras.callbacks.LambdaCallback(
                    on_epoch_end=lambda *_, ends=ends: ends.append(time.perf_counter())
                )
            ],
            verbose=0,
        )
        epochs += statistics.median(np.diff(ends))
    scale = case.count / count
    return Spent((time.perf_counter() - start) * scale, epochs * scale)


def together(case: Case, rows: tuple[Any, ...]) -> Spent:
    """Train them with ``fit_heads``."""
    ends: list[float] = []
    take = parallel_fit.take_epoch

    def timed(*given: Any) -> None:
        take(*given)
        ends.append(time.perf_counter())

    start = time.perf_counter()
    parallel_fit.take_epoch = timed  # type: ignore[assignment]
    try:
        fit_heads(case.specs(), FoldData(*rows))
    finally:
        parallel_fit.take_epoch = take
    return Spent(time.perf_counter() - start, float(statistics.median(np.diff(ends))))


def machine() -> str:
    """Say where and with what this was measured."""
    keras = load_keras()
    backend = keras.backend.backend()
    version = __import__(backend).__version__
    return (
        f"{os.cpu_count()} cores of {platform.machine()}, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, Keras {keras.__version__}, {backend} {version}, "
        f"NumPy {np.__version__}"
    )


def measure(case: Case, rounds: int, count: int) -> str:
    """Run a case and lay out its line of the table."""
    rows = rows_of(case)
    spent = [(separately(case, rows, count), together(case, rows)) for _ in range(rounds)]
    scaled = f" ({count} fitted separately, scaled to {case.count})" if count < case.count else ""
    cells = [case.name + scaled]
    for field in Spent._fields:
        plain, stacked = (
            statistics.median(getattr(turn[way], field) for turn in spent) for way in (0, 1)
        )
        target = f" (wanted {case.wanted:g})" if field == case.by else ""
        cells += [f"{plain:.2f}", f"{stacked:.2f}", f"{plain / stacked:.1f} x{target}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="default: 1; all fits take minutes")
    parser.add_argument("--case", type=int, action="append", choices=range(len(CASES)))
    parser.add_argument("--separate", type=int, metavar="N", help="default: all")
    given = parser.parse_args()
    head = "| heads | separate, s | together, s | ratio | separate, s/epoch | together | ratio |"
    sys.stdout.write(f"{machine()}\n{given.rounds} rounds\n{head}\n|{' --- |' * 7}\n")
    for number in given.case or range(len(CASES)):
        case = CASES[number]
        count = min(given.separate or case.count, case.count)
        sys.stdout.write(measure(case, given.rounds, count) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
