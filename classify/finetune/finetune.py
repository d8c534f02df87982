"""Fine-tuning from the freeze boundary: the blocks above the cached layer, then blocks and head.

Below that layer the trunk stays frozen, so its cached maps are all that training needs. First the
blocks run once over the maps, and heads are searched for on what they give, as always. Then the
best head and the blocks train together, at a low rate.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset, check_weights
from classify.data.out_of_core import StoredRows
from classify.data.preprocessing import Transform
from classify.data.splits import TEST, Split, group_names
from classify.finetune.joint_model import Maps, join, train_together
from classify.heads.keras_head import DenseHead
from classify.heads.registry import FittedHead
from classify.search import search
from classify.search.bootstrap import Bootstrap, confidence_interval, judge
from classify.search.leaderboard import Finetuned, Result
from classify.search.metrics import measure
from classify.settings.config import FinetuneConfig, TrainConfig
from extract.core.console import log, progress
from extract.core.errors import HeadError
from extract.trunks.backend import compile_model, fetch

# Maps in one call of the blocks.
_MAPS = 32


def run(dataset: Dataset, config: TrainConfig, folder: Path | None = None) -> Result:
    """Find the best head on the pooled output of the blocks, then train both together.

    Args:
        dataset: The maps of one layer.
        config: The heads, how they are judged and how blocks and head are trained.
        folder: Where finished candidates are kept and found again; None keeps nothing.

    Returns:
        The ranked heads, and the best one together with the blocks: a head that takes maps.

    Raises:
        HeadError: The features are no maps, the weights are not those that made them, or a head
            could not be trained.
        Stopped: Ctrl-C; it carries the ranked heads, if there are any.
        TrunkError: The trunk cannot be parted at this layer.
        SplitError: The rows cannot be divided.
    """
    check_maps(dataset)
    rest = _open_rest(dataset)
    seen = np.flatnonzero(dataset.split != TEST)
    pooled = pool(rest.model, dataset.X)[seen]
    found = search.run(_part(dataset, pooled, seen), config, folder)
    own = found.splits[0]
    test = np.flatnonzero(dataset.split == TEST)
    split = Split(seen[own.train], seen[own.validation], test, own.origin)
    assert found.head is not None
    assert isinstance(found.head.head, DenseHead)
    try:
        head, outcome = _train(rest.model, found.head.head, dataset, split, config)
    except KeyboardInterrupt:
        raise search.Stopped(found, len(config.candidates)) from None
    return replace(
        found,
        splits=[split],
        head=FittedHead(Transform(), head),
        test=measure(dataset.y[test], head.predict_proba(dataset.X[test])) if len(test) else None,
        dataset=dataset,
        finetuned=outcome,
        scores=head.predict_proba(dataset.X[split.validation]),
    )


def check_maps(dataset: Dataset) -> None:
    """Raise HeadError unless a dataset holds maps, in memory, which blocks can run over."""
    if isinstance(dataset.X, StoredRows):
        raise HeadError(
            f"finetune: the maps of {dataset.layer} do not fit into memory beside their copies; "
            "expected room for all of them; see --memory, or cut the trunk higher up"
        )
    if dataset.X.ndim != 4:
        raise HeadError(
            f"finetune: found features of {dataset.layer} of shape {dataset.X.shape[1:]}; expected "
            "feature maps of one layer; extract again with --pooling none and a --layer of maps"
        )


def _open_rest(dataset: Dataset) -> Any:
    """Build the blocks above a dataset's layer, with the weights of the trunk that made it."""
    from extract.trunks.upper_blocks import build_upper_blocks

    rest = build_upper_blocks(dataset.trunk, dataset.layer)
    check_weights(dataset, rest.weights_sha256)
    return rest


def _part(dataset: Dataset, X: Maps, rows: NDArray[np.int64]) -> Dataset:
    """Return some rows of a dataset, with other features; no test rows, so none are touched."""
    return replace(
        dataset,
        X=X,
        y=dataset.y[rows],
        keys=[dataset.keys[row] for row in rows],
        groups=None if dataset.groups is None else [dataset.groups[row] for row in rows],
        split=dataset.split[rows],
        path=None,
        views=None,
        digests=None if dataset.digests is None else dataset.digests[rows],
    )


def pool(blocks: Any, X: Maps) -> NDArray[np.float32]:
    """Run the blocks over maps.

    Args:
        blocks: ``Rest.model``.
        X: (N, h, w, C) float32.

    Returns:
        (N, D) float32.
    """
    call = compile_model(blocks, "float32", _MAPS)
    parts = []
    with progress(len(X), "images", label="blocks") as bar:
        for start in range(0, len(X), _MAPS):
            maps = X[start : start + _MAPS]
            full = np.resize(maps, (_MAPS, *maps.shape[1:]))  # one shape is compiled
            parts.append(fetch(call(full)[0])[: len(maps)])
            bar.update(len(maps))
    return np.concatenate(parts)


def _train(
    blocks: Any, head: DenseHead, dataset: Dataset, split: Split, config: TrainConfig
) -> tuple[DenseHead, Finetuned]:
    """Train blocks and head together and say what it did on the validation rows."""
    tuning = config.finetune or FinetuneConfig()
    tuned = DenseHead(head.spec, join(blocks, head.model))
    tuned.history = head.history
    y, X = dataset.y[split.validation], dataset.X[split.validation]
    before = measure(y, tuned.predict_proba(X))
    best = train_together(blocks, head, dataset, split, tuning, before.loss)
    scores, names = tuned.predict_proba(X), group_names(dataset)
    units = [names[row] for row in split.validation]
    draws = Bootstrap(y, len(dataset.class_names), units, config.seed)
    values = draws.values(config.metric, judge(y, scores))
    low, high = confidence_interval(values)
    outcome = Finetuned(
        layer=dataset.layer,
        epochs=len(best.history["loss"]),
        best_epoch=best.epoch,
        before=before,
        after=measure(y, scores),
        score=float(values[0]),
        low=low,
        high=high,
        learning_rate=tuning.finetune_learning_rate,
        history=best.history,
    )
    if not best.epoch:
        log.warning(
            "finetune: no epoch had a lower validation loss than the head alone; the blocks stay "
            "as they were; try a lower --finetune-learning-rate"
        )
    return tuned, outcome
