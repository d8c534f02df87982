"""A gallery of finished reports: three runs, and a page with a picture of each.

    python -m docs.gallery OUT

The sample images, twenty classes that are easily confused, and a rare class against all others.
Each page is opened in a browser, where there is one, and must have nothing to complain about.
Reports of photographs are left out where the folder ``shared`` is not beside this checkout.
"""

import argparse
import csv
import html
import os
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from extract.core.errors import count_of

ROOT = Path(__file__).resolve().parents[1]
PHOTOGRAPHS = ROOT.parent / "shared/caltech-20"
RARE = "water_lilly"
# Its weights are in a package, so that no host is needed.
TRUNK = "efficientnet_lite0"


class Exhibit(NamedTuple):
    """A report of the gallery: its folder, its title, what it shows, and how it is trained."""

    name: str
    title: str
    about: str
    photographs: bool
    settings: dict[str, Any]


EXHIBITS = (
    Exhibit(
        "sample",
        "The sample images",
        "120 drawings of three classes, in two splits; what dropout does.",
        False,
        {
            "head": ["dense", "logistic", "knn"],
            "sweep": ["dropout=0,0.2,0.5", "logistic.C=0.003,0.03,0.3,3"],
        },
    ),
    Exhibit(
        "twenty",
        "Twenty classes that are easily confused",
        "974 photographs of Caltech-101 in five folds: confusions, and labels that may be wrong.",
        True,
        {
            "head": ["dense", "logistic", "lda", "knn"],
            "sweep": ["logistic.C=0.003,0.03,0.3", "knn.neighbours=3,5,9"],
            "folds": 5,
        },
    ),
    Exhibit(
        "rare",
        "A rare class",
        "37 water lilies among 974 photographs, lotus flowers beside them: accuracy says little, "
        "and the threshold decides.",
        True,
        {
            "head": ["logistic", "lda", "knn"],
            "sweep": ["logistic.C=0.003,0.03,0.3,3"],
            "folds": 5,
            "metric": "average_precision",
        },
    ),
)


def build_gallery() -> dict[str, Path]:
    """Extract features and train the heads here; return the report of each exhibit by its name."""
    from classify import train_heads
    from extract import extract_features

    reports = {}
    for exhibit in EXHIBITS:
        source = PHOTOGRAPHS if exhibit.photographs else ROOT / "data"
        if not source.is_dir():
            print(f"{exhibit.name}: {source} is not here", file=sys.stderr)
            continue
        store = Path(f"{source.name}.h5")
        extract_features(source, store, trunk=TRUNK, quiet=True)
        settings = dict(exhibit.settings)
        if exhibit.name == "rare":
            settings["labels"] = _rare_labels(store)
        result = train_heads(store, output=exhibit.name, quiet=True, **settings)
        print(f"{exhibit.name}: {result.summary()}")
        reports[exhibit.name] = Path(exhibit.name, "report.html").resolve()
    return reports


def _rare_labels(store: Path) -> Path:
    """Write a table of labels beside a file of features: one class, and all others."""
    from classify import load_dataset

    table = store.with_name("rare.csv")
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "label"])
        for key in load_dataset(store).keys:
            rows.writerow([key, RARE if key.startswith(f"{RARE}/") else "other"])
    return table


@contextmanager
def browsing() -> Iterator[Any]:
    """Yield Chromium, or nothing where there is none."""
    from tests.browser import chromium, find_chromium

    if find_chromium() is None:
        yield None
        return
    with chromium() as browser:
        yield browser


def look(browser: Any, report: Path) -> bytes:
    """Open a report, fail on any message of the browser, and return a picture of its top."""
    from tests.browser import opened

    with opened(browser, report, viewport={"width": 1120, "height": 700}) as page:
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.evaluate("scrollTo(0, 0)")
        return bytes(page.screenshot(type="jpeg", quality=60))


def write_index(folder: Path, pictures: dict[str, bytes]) -> Path:
    """Write the page that leads to each report."""
    shown = [exhibit for exhibit in EXHIBITS if exhibit.name in pictures]
    cards = "".join(_card(exhibit, pictures[exhibit.name]) for exhibit in shown)
    index = folder / "index.html"
    index.write_text(_INDEX.replace("CARDS", cards), encoding="utf-8")
    return index


def _card(exhibit: Exhibit, picture: bytes) -> str:
    image = f"data:image/jpeg;base64,{b64encode(picture).decode()}" if picture else ""
    drawn = f'<img src="{image}" width="1120" height="700" alt="">' if image else ""
    title, about = html.escape(exhibit.title), html.escape(exhibit.about)
    link = f'<a href="{exhibit.name}/report.html">{title}</a>'
    return f"<article>{drawn}<h2>{link}</h2><p>{about}</p></article>\n"


_INDEX = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Reports of headstart</title>
<link rel="icon" href="data:,">
<style>
:root {
  color-scheme: light dark;
  --page: #fbfbf9; --ink: #1a1e24; --muted: #59636f; --accent: #1d5fbf; --line: #dfe3e8;
}
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #14171b; --ink: #e7eaee; --muted: #9ba6b3; --accent: #82b4ff; --line: #2f363f; }
}
body {
  margin: 0 auto; max-width: 1120px; padding: 40px 24px 80px;
  background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif;
}
main {
  display: grid; gap: 32px 28px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr));
}
h2 { margin: 12px 0 4px; font-size: 18px; }
p { margin: 0; color: var(--muted); }
a { color: var(--accent); }
img {
  display: block; width: 100%; height: auto; border: 1px solid var(--line); border-radius: 8px;
}
</style>
</head>
<body>
<h1>Reports</h1>
<main>
CARDS</main>
</body>
</html>
"""


def main() -> None:
    """Make the gallery."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    folder = parser.parse_args().out.resolve()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    folder.mkdir(parents=True, exist_ok=True)
    with chdir(folder):  # reports name the files of features as they are given
        reports = build_gallery()
    with browsing() as browser:
        pictures = {name: look(browser, path) if browser else b"" for name, path in reports.items()}
        index = write_index(folder, pictures)
        if browser:
            look(browser, index)
    made = count_of(len(reports), "report")
    print(f"{index}: {made}" + (", opened in a browser" if browser else ""))


if __name__ == "__main__":
    main()
