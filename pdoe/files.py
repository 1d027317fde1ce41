"""Files that are whole under their final name, or not there at all; tables as CSV."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

Row = Sequence[object] | Mapping[str, object]


def write_whole(
    path: Path, content: str | bytes | Callable[[BinaryIO], object], durable: bool = True
) -> None:
    """Write a file beside its place and rename it: no reader ever sees a part of it.

    Each process writes under a name of its own, so that several may make the same file.

    Args:
        path: the file; folders above it are made.
        content: text (UTF-8, line ends as they are), bytes, or a function that writes to a file.
        durable: wait until it is on the disk, so that it outlives a power cut.

    Raises:
        OSError: the folder takes no files; nothing is left behind then.
    """
    if isinstance(content, str):
        content = content.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp keeps others out; results and data may be shared
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def as_csv(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """A table as text, of rows or of mappings with the columns as keys; None is an empty cell.

    >>> as_csv(("a", "b"), [(None, 1 / 3)])
    'a,b\\n,0.333333333333\\n'
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = [row[name] for name in columns] if isinstance(row, Mapping) else row
        # Twelve digits: the last ones are those of a version of a library.
        writer.writerow([f"{x:.12g}" if isinstance(x, float) else x for x in cells])
    return out.getvalue()
