"""The documented table of engines and precisions: it has every trunk, and holds on this machine."""

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.parity import differences
from extract.core.applications import TRUNKS

PAGE = Path(__file__).resolve().parents[1] / "docs/speed.md"
# A figure has lost up to a third to its last digit, and another processor adds in another order.
ROOM = 2.0
# Those whose bfloat16 and int8 the table shows, of each family the smallest, or one as quick.
SMALLEST = (
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_lite0",
    "efficientnet_v2_b0",
    "inception_resnet_v2",
    "inception_v3",
    "mobilenet",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "nasnet_mobile",
    "resnet50",
    "resnet50_v2",
    "vgg16",
    "vgg19",
    "xception",
)
# All of them take six minutes on two cores.
ALL = bool(os.environ.get("HEADSTART_PARITY"))


def table() -> dict[str, dict[str, float]]:
    """Return the documented figures: family -> column -> figure."""
    lines = PAGE.read_text().split("### Engines and precisions")[1].split("\n### ")[0]
    header, _, *rows = [
        re.split(r" *\| *", line.strip("| ")) for line in lines.splitlines() if line[:1] == "|"
    ]
    return {
        family: dict(zip((c.lower() for c in header[1:]), map(float, figures), strict=True))
        for family, *figures in rows
    }


def test_the_table_has_every_trunk() -> None:
    counted = Counter(known.module for known in TRUNKS.values())
    assert {family: row["trunks"] for family, row in table().items()} == counted
    assert {TRUNKS[name].module for name in SMALLEST} == set(counted)


@pytest.mark.slow
@pytest.mark.parametrize("trunk", TRUNKS if ALL else SMALLEST)
def test_the_table_holds(trunk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", "")  # put back in the end
    small = ["bfloat16", "int8"] if ALL else ["bfloat16"]
    found = differences(trunk, 96, ["float32", *(small if trunk in SMALLEST else [])])
    promised = table()[TRUNKS[trunk].module]
    assert "openvino float32" in found
    assert {what: value for what, value in found.items() if value > ROOM * promised[what]} == {}
