"""From words to candidates: which heads, which values, and what cannot be."""

from typing import Any

import pytest

from classify.settings.head_spec import USUAL_HEADS, HeadSpec
from classify.settings.sweep import choose_heads, label, label_all, make_candidates, parse_sweep
from extract.core.errors import SettingError

GOOD: list[tuple[str, str | None, str, list[Any]]] = [
    ("dropout=0,0.2,0.5", None, "dropout", [0.0, 0.2, 0.5]),
    ("dense.batch-size=8,32", "dense", "batch_size", [8, 32]),
    ("logistic.C=0.01:100:5", "logistic", "C", [0.01, 0.1, 1.0, 10.0, 100.0]),
    ("epochs=1:100:3", None, "epochs", [1, 10, 100]),
    ("units=512,512+128", None, "units", [(512,), (512, 128)]),
    ("transform=none,sqrt+pca=9", None, "transform", [(), ("sqrt", "pca=9")]),
    ("layer=mixed5,mixed5+mixed7", None, "layer", [("mixed5",), ("mixed5", "mixed7")]),
    ("class_weight=none,balanced", None, "class_weight", [None, "balanced"]),
    ("batch-normalisation=on,off", None, "batch_normalisation", [True, False]),
]
BAD = [
    ("dropout", "expected NAME=V,V"),
    ("dropout=", "expected NAME=V,V"),
    ("dropuot=1,2", "nearest: dropout"),
    ("dens.dropout=0", "nearest: dense"),
    ("dropout=0,x", "dropout cannot be '0,x'"),
    ("dropout=0,0", "each value of dropout once"),
    ("C=0:1:5", "C cannot be '0:1:5'"),
    ("C=1:1:5", "expected LOW:HIGH:COUNT"),
    ("nesterov=maybe", "nesterov cannot be"),
]


@pytest.mark.parametrize(("text", "head", "setting", "values"), GOOD)
def test_a_sweep_is_read(text: str, head: str | None, setting: str, values: list[Any]) -> None:
    assert parse_sweep(text) == ((head, setting), values)


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_is_no_sweep(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse_sweep(text)


def test_each_head_gets_the_settings_that_it_has() -> None:
    dense, logistic = make_candidates(
        ["dense", "logistic"], {"units": (16,), "C": 0.1, "dropout": None}
    )
    assert (dense.units, dense.C, dense.dropout) == ((16,), None, 0.2)
    assert (logistic.units, logistic.C) == (None, 0.1)


def test_every_combination_head_by_head() -> None:
    sweep = dict(map(parse_sweep, ["dropout=0,0.5", "logistic.C=1,10,100", "transform=none,l2"]))
    made = make_candidates(["dense", "logistic"], {}, sweep)
    assert [spec.head for spec in made] == ["dense"] * 4 + ["logistic"] * 6
    assert len(set(made)) == 10
    assert {spec.transform for spec in made} == {(), ("l2",)}


def test_a_heads_own_sweep_comes_before_the_common_one() -> None:
    sweep = dict(map(parse_sweep, ["transform=none,l2", "knn.transform=sqrt"]))
    made = make_candidates(["lda", "knn"], {}, sweep)
    assert [spec.transform for spec in made] == [(), ("l2",), ("sqrt",)]


def test_trials_are_drawn_by_the_seed() -> None:
    sweep = dict([parse_sweep("C=0.01:100:30")])
    everything = make_candidates(["logistic"], {}, sweep)
    drawn = [make_candidates(["logistic"], {}, sweep, 5, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 5
    assert set(drawn[0]) <= set(everything)


@pytest.mark.parametrize(
    ("heads", "settings", "sweep", "message"),
    [
        (["logistic"], {"dropout": 0.5}, [], "dropout: has no effect with --head logistic"),
        (["dense"], {"C": 0.5}, [], "C: has no effect with --head dense"),
        (["dense", "logistc"], {}, [], "nearest: logistic"),
        (["dense"], {}, ["C=1,2"], "C: has no effect with --head dense"),
        (["dense"], {}, ["logistic.C=1,2"], "no effect without --head logistic"),
        (["dense"], {}, ["dense.C=1,2"], "C: has no effect"),
        (["svm", "logistic"], {}, ["C=1,2"], r"say svm\.C or logistic\.C"),
        (["dense"], {}, ["dropout=0,2"], "dropout: found 2"),
        (
            ["dense"],
            {},
            ["dropout=0.1:0.9:30", "l2=0.1:1:30", "learning_rate=0.1:1:30"],
            "expected 10000 at most",
        ),
    ],
)
def test_candidates_that_cannot_be(
    heads: list[str], settings: dict[str, Any], sweep: list[str], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        make_candidates(heads, settings, dict(map(parse_sweep, sweep)))


@pytest.mark.parametrize("trials", [0, 1, 2])
def test_trials_that_draw_nothing(trials: int) -> None:
    with pytest.raises(SettingError, match=f"trials: found {trials}"):
        make_candidates(["logistic"], {}, {}, trials)


@pytest.mark.parametrize(
    ("asked", "settings", "sweep", "wanted"),
    [
        ([], {}, [], USUAL_HEADS),
        ([], {"seed": 3, "transform": ("l2",)}, [], USUAL_HEADS),
        ([], {"dropout": 0.5}, [], ("dense",)),
        ([], {"trees": 5}, [], ("forest", "boosting")),
        ([], {}, ["C=1,2"], ("logistic", "svm")),
        ([], {}, ["linear.l2=0,1"], ("linear",)),
        (["knn"], {}, ["knn.neighbours=1,2"], ("knn",)),
    ],
)
def test_which_heads_are_meant(
    asked: list[str], settings: dict[str, Any], sweep: list[str], wanted: tuple[str, ...]
) -> None:
    assert choose_heads(asked, settings, dict(map(parse_sweep, sweep))) == wanted


def test_a_label_says_what_is_unusual() -> None:
    assert label(HeadSpec("logistic")) == "logistic"
    spec = HeadSpec("dense", units=(8, 4), dropout=0.0, transform=("l2",))
    assert label(spec) == "dense units=8+4 dropout=0 transform=l2"


def test_a_name_has_every_setting_that_is_varied() -> None:
    sweep = dict(map(parse_sweep, ["dropout=0,0.2", "transform=none,l2"]))
    made = make_candidates(["dense", "ridge"], {}, sweep)
    named = label_all(made)
    assert len(set(named.values())) == len(made) == 6
    usual = next(spec for spec in made if spec.dropout == 0.2 and not spec.transform)
    assert label(usual) == "dense"
    assert named[usual] == "dense dropout=0.2 transform=none"
    assert label_all([usual]) == {usual: "dense"}
