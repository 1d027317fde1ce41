"""Files that are whole under their final name, or not there at all; reading what may be damaged."""

from __future__ import annotations

import csv
import errno
import io
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

Row = Sequence[object] | Mapping[str, object]
# Errors of a disk or of a file system that another attempt may not meet: nothing is wrong with the
# run, and it can be resumed once the disk takes files again.
STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)
YAML_BYTES = 256 * 1024  # the configuration of a run has about 2 kB
YAML_DEPTH = 32


def write_whole(
    path: Path, content: str | bytes | Callable[[BinaryIO], object], durable: bool = True
) -> None:
    """Write a file beside its place and rename it: no reader ever sees a part of it.

    Each process writes under a name of its own, so that several may write the same file. The
    permissions are those that the umask gives to a new file.

    Args:
        path: the file; missing folders above it are created.
        content: text (UTF-8, line ends as they are), bytes, or a function that writes to a file.
        durable: wait until the file and its name are on the disk, so that they outlive a power cut.

    Raises:
        OSError: the folder takes no files; nothing is left behind then.
    """
    if isinstance(content, str):
        content = content.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can say so."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_parts(folder: Path, names: Iterable[str]) -> None:
    """Delete what :func:`write_whole` left beside these files when its process was killed."""
    for name in names:
        for part in folder.glob(f".{name}.*.part"):
            part.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Delete a file, a link (not what it points to) or a folder with all that lies in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def open_file(path: Path) -> BinaryIO:
    """Open an ordinary file for reading.

    Raises:
        OSError: it is missing, or no ordinary file: reading from a pipe could take for ever.
    """
    nonblocking = getattr(os, "O_NONBLOCK", 0)  # opening a pipe would wait for its writer
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | nonblocking))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "a pipe or a device, no ordinary file", str(path))
    return file


def read_whole(path: Path, most: int | None = None) -> bytes:
    """The bytes of an ordinary file.

    Raises:
        OSError: it is missing, no ordinary file, or larger than ``most`` bytes.
    """
    with open_file(path) as file:
        if most is not None and os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))
        return file.read()


def read_yaml(path: Path) -> Any:
    """The plain values of a small YAML file, such as the configuration of a run.

    Raises:
        OSError: see :func:`read_whole`.
        ValueError: it is damaged, nested too deeply, or has aliases, which may expand to any size.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    text, depth = read_whole(path, YAML_BYTES).decode(), 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > YAML_DEPTH:
                raise ValueError(f"{path} is nested more than {YAML_DEPTH} levels deep")
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"{path} has an alias (*{event.anchor}): write the value out")
        return OmegaConf.to_container(OmegaConf.create(text))
    except (yaml.YAMLError, OmegaConfBaseException, TypeError, KeyError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{path} is no YAML of a configuration ({reason})") from None


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
