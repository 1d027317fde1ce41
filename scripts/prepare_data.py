"""Find, download or make a data set, and print what there is."""

from __future__ import annotations

import argparse
import sys

from pdoe.data import SETS, DataError, load_data
from pdoe.data.dataset import STATISTICS, format_statistic
from pdoe.data.files import data_root, name_cache


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 with the data set at hand, 1 without it, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(SETS), help="data set")
    parser.add_argument("--root", help="folder with data (default: $PDOE_DATA, else data/)")
    parser.add_argument("--source", default="auto", help="where to take it from (default: auto)")
    parser.add_argument(
        "--statistics", choices=STATISTICS, default="train", help="the images behind mean and std"
    )
    parser.add_argument("--draw", type=int, help="seed of a regenerated MNIST-rot (default: 0)")
    parser.add_argument(
        "--replacement", action="store_true", help="let a digit come more than once in it"
    )
    options = parser.parse_args(arguments)
    own = {"draw": options.draw, "replacement": options.replacement or None}
    own = {key: value for key, value in own.items() if value is not None}
    try:
        data = load_data(options.name, options.root, options.source, options.statistics, **own)
    except ValueError as error:
        parser.error(str(error))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    cache = name_cache(data_root(options.root), data.name, data.provenance)
    print(f"name        {data.name}")
    print(f"provenance  {data.provenance}")
    print(f"training    {len(data.train_images)} images {list(data.train_images.shape[1:])}")
    print(f"test        {len(data.test_images)} images {list(data.test_images.shape[1:])}")
    print(f"classes     {data.classes}")
    print(f"mean        {format_statistic(data.mean)}")
    print(f"std         {format_statistic(data.std)}")
    print(f"sha256      {data.sha256}")
    if cache.exists():
        print(f"cache       {cache.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
