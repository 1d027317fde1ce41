"""Tables in Markdown and in a terminal, and the place of a table in a README.

Explanations are files in ``texts/``. Text from records is escaped, see :mod:`.cells`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .cells import format_code
from .runs import TableError
from .table import Contrast, Line

NONE = "–"
TEXTS = Path(__file__).parent / "texts"
DIFFERENCES = (
    "rows", "difference, paired by seed", "Welch's t (degrees of freedom)", "p", "p, Holm",
)  # fmt: skip


def read_text(name: str) -> str:
    """An explanation, by the name of its file."""
    return (TEXTS / f"{name}.md").read_text("utf-8")


def grid(header: Sequence[str], rows: Iterable[Sequence[str]], ragged: bool = False) -> str:
    """A Markdown table whose source is aligned, too: it is read in terminals and in diffs.

    Args:
        ragged: leave the last column, whose cells are long, without padding.
    """
    cells = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if ragged:
        widths[-1] = len(header[-1])
    cells.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(map(str.ljust, row, widths))} |\n" for row in cells)


def format_terminal(header: Sequence[str], rows: Iterable[Sequence[str]], width: int = 120) -> str:
    """Format a table of at most ``width`` characters a line: the widest columns are cut."""
    cells = [[cell.replace("`", "").replace("\\*", "*") for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    while sum(widths) + 2 * (len(widths) - 1) > width:
        widths[widths.index(max(widths))] -= 1

    def fit(cell: str, room: int) -> str:
        return cell.ljust(room) if len(cell) <= room else f"{cell[: room - 1]}…"

    lines = ["  ".join(map(fit, row, widths)).rstrip() for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"


def insert(text: str, name: str, table: str) -> str:
    """``text`` with the table between ``<!-- table:name -->`` and the next ``<!-- /table -->``."""
    begin, end = f"<!-- table:{name} -->", "<!-- /table -->"
    before, found, rest = text.partition(begin)
    if not found or end not in rest or begin in rest or "<!-- table:" in rest.partition(end)[0]:
        raise TableError(f"expected one {begin} followed by {end}")
    return f"{before}{begin}\n{table}{end}{rest.partition(end)[2]}"


def format_row(line: Line) -> str:
    return f"`{line.paper.row}`"


def format_name(line: Line) -> str:
    """The row with everything that tells this line from the row's first one."""
    parts = [format_code(part) for part in (line.another[:8], line.overrides) if part]
    return " ".join([format_row(line), *parts])


def format_contrast(pair: Contrast) -> list[str]:
    """One line of the table of differences."""
    marks = f" {pair.marks}" if pair.marks else ""
    names = " − ".join(map(format_name, (pair.first, pair.second)))
    paired, welch = pair.paired, pair.welch
    return [
        names + marks,
        f"{paired.mean:+.3f} ± {paired.half_width:.3f} (n = {paired.n})" if paired else NONE,
        f"{welch.t:.2f} ({welch.degrees:.1f})" if welch else NONE,
        f"{welch.p:.2g}" if welch else NONE,
        f"{pair.p_holm:.2g}" if welch else NONE,
    ]
