"""Fine-tuning of the trunk's blocks above the cached layer together with a head.

Below that layer the trunk stays frozen, so that training needs only the cached feature maps. First
the blocks run once over the maps, and the best head on their output is searched for as always. Then
that head and the blocks are trained together at a low learning rate.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from classify.data.dataset import Dataset
from classify.data.preprocessing import Transform
from classify.data.splits import TEST, Split, development_rows
from classify.heads.registry import FittedHead
from classify.scores.metrics import measure
from classify.search import search
from classify.search.leaderboard import Result
from classify.search.ranking import Finetuned
from classify.settings.config import METRICS, FinetuneConfig, TrainConfig
from classify.stored.out_of_core import Labels, Rows, StoredRows
from extract.core.console import log
from extract.core.errors import HeadError, quoted
from extract.display.progress import progress
from extract.trunks.backend import fetch

# Feature maps in one call of the blocks.
_BATCH = 32


def run(dataset: Dataset, config: TrainConfig, folder: Path | None = None) -> Result:
    """Search for the best head on the pooled output of the blocks, then train both together.

    Args:
        dataset: The feature maps of one layer.
        config: The heads, their comparison and the settings of fine-tuning.
        folder: The folder of the checkpoint of finished candidates; None for no checkpoint.

    Returns:
        The ranked heads, and the best one joined with the blocks: a head that takes feature maps.

    Raises:
        HeadError: The features are not maps, the weights are not those that made them, or a head
            could not be trained.
        Stopped: Ctrl-C; it carries the ranked heads, if there are any.
        TrunkError: The trunk cannot be divided at this layer.
        SplitError: The rows cannot be divided.
    """
    from extract.trunks.upper_blocks import build_upper_blocks

    check_maps(dataset)
    dataset = dataset.with_positive(config.positive)
    upper = build_upper_blocks(dataset.trunk, dataset.layer)
    if upper.weights_sha256 != dataset.weights_sha256:
        digests = f"SHA-256 {upper.weights_sha256[:12]}; expected {dataset.weights_sha256[:12]}"
        problem = f"{dataset.trunk.weights} has {digests}, which made the features"
        raise HeadError(f"weights: {problem}; restore it, or extract again")
    rows, test = development_rows(dataset), np.flatnonzero(dataset.split == TEST)
    result = search.run(_select(dataset, pool(upper.model, dataset.X)[rows], rows), config, folder)
    pooled = result.splits[0]
    split = Split(rows[pooled.train], rows[pooled.validation], test, pooled.origin)
    assert result.head is not None
    try:
        head, finetuned = _train(upper.model, result.head.head, dataset, split, config)
    except KeyboardInterrupt:
        raise search.Stopped(result, len(config.candidates)) from None
    test_scores = head.predict_proba(dataset.X[test]) if len(test) else None
    return replace(
        result,
        splits=[split],
        head=FittedHead(Transform(), head),
        test=None if test_scores is None else measure(dataset.y[test], test_scores),
        test_scores=test_scores,
        dataset=dataset,
        finetuned=finetuned,
        scores=head.predict_proba(dataset.X[split.validation]),
    )


def check_maps(dataset: Dataset) -> None:
    """Raise HeadError unless a dataset holds feature maps of a trunk, in memory."""
    if not dataset.trunk.trunk:
        found = "found features of another program; expected feature maps of a trunk"
        raise HeadError(f"finetune: {found}; train heads without --finetune")
    if isinstance(dataset.X, StoredRows):
        found = f"the maps of {dataset.layer} do not fit into memory with training's copies"
        raise HeadError(f"finetune: {found}; see --memory, or choose a higher layer")
    if dataset.X.ndim != 4:
        shape = " x ".join(map(str, dataset.X.shape[1:]))
        found = f"found {shape} features of {quoted(dataset.layer)}"
        remedy = "extract again with --pooling none, and --layer where that one has no maps"
        raise HeadError(f"finetune: {found}; expected feature maps of one layer; {remedy}")


def _select(dataset: Dataset, X: Rows, rows: Labels) -> Dataset:
    """Return some rows of a dataset with other features."""
    keys, groups, digests = dataset.keys, dataset.groups, dataset.digests
    selected = replace(dataset, X=X, y=dataset.y[rows], split=dataset.split[rows])
    return replace(
        selected,
        keys=[keys[row] for row in rows],
        groups=groups and [groups[row] for row in rows],
        digests=None if digests is None else digests[rows],
        path=None,
        store=None,
        views=None,
    )


def pool(blocks: Any, X: Rows) -> Rows:
    """Run the blocks over feature maps.

    Args:
        blocks: ``UpperBlocks.model``.
        X: (N, h, w, C) float32.

    Returns:
        (N, D) float32.
    """
    from extract.trunks.compiled import compile_model

    call = compile_model(blocks, "float32", _BATCH)
    parts = []
    with progress(len(X), "images", label="running the blocks") as bar:
        for start in range(0, len(X), _BATCH):
            maps = X[start : start + _BATCH]
            full = np.resize(maps, (_BATCH, *maps.shape[1:]))  # one shape is compiled
            parts.append(fetch(call(full)[0])[: len(maps)])
            bar.update(len(maps))
    return np.concatenate(parts)


def _train(
    blocks: Any, head: Any, dataset: Dataset, split: Split, config: TrainConfig
) -> tuple[Any, Finetuned]:
    """Train blocks and head together and measure them on the validation rows."""
    from classify.finetune.joint_model import join, train_together

    tuning, joined = config.finetune or FinetuneConfig(), join(blocks, head)
    y, X = dataset.y[split.validation], dataset.X[split.validation]
    before = measure(y, joined.predict_proba(X))
    fit = train_together(blocks, head, dataset, split, tuning, before.loss)
    scores = joined.predict_proba(X)
    comparison = search.compare_on(dataset, split.validation, config)
    reduced = comparison.reduce(scores)
    low, high = comparison.interval(config.metric, comparison.values(config.metric, *reduced))
    if not fit.best_epoch:
        log.warning("finetune: no epoch beat the head alone; try a lower --finetune-learning-rate")
    return joined, Finetuned(
        dataset.layer,
        epochs=len(fit.history["loss"]),
        best_epoch=fit.best_epoch,
        before=before,
        after=measure(y, scores),
        scores={m: float(comparison.values(m, *reduced).mean()) for m in METRICS},
        low=low,
        high=high,
        learning_rate=tuning.finetune_learning_rate,
        history=fit.history,
    )
