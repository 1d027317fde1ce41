"""The folder of a run's checkpoints: how they are written, checked, read and tidied up.

``<run>/checkpoint/epoch=0003,step=000120/`` (completed epochs, steps of the next one) holds one
file for each part, and ``sha256.json``, their digests. A checkpoint is written beside its place and
renamed, and the one before it is kept, so that there is always a whole one. All files load with
``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..files import open_file, read_whole, sync_folder, write_whole

SCHEMA = 1  # of a checkpoint; raise it when an older version would misread the files
KEPT = 2  # the newest and the one before
SUMS = "sha256.json"
NAME = re.compile(r"epoch=(\d{4,}),step=(\d{6,})")


class CheckpointMismatch(Exception):
    """A checkpoint is damaged, or was made under conditions under which it cannot be resumed."""


def write_checkpoint(path: Path, parts: Mapping[str, Any]) -> None:
    """Write beside the place, then rename; checkpoints older than the one before are deleted.

    Args:
        path: the folder of the checkpoint.
        parts: name -> content of each file.
    """
    folder = path.parent
    _remove_parts(folder)
    beside = folder / f".{path.name}.part"
    try:
        beside.mkdir(parents=True)
        for name, content in parts.items():
            # Into memory first: writing to a full disk torch.save raises what is no OSError.
            buffer = io.BytesIO()
            torch.save(content, buffer)
            write_whole(beside / f"{name}.pt", lambda file, b=buffer: file.write(b.getbuffer()))
        sums = {f"{name}.pt": _sha256(beside / f"{name}.pt") for name in parts}
        write_whole(beside / SUMS, json.dumps(sums, indent=2) + "\n")
        # Newer checkpoints are damaged: the run was resumed from an older one. A checkpoint of the
        # same name is damaged, or holds the same state.
        for other in newest_first(folder):
            if _place(other) > _place(path) or (other == path and not _is_whole(path)):
                shutil.rmtree(other)
        if not path.exists():
            os.rename(beside, path)
            sync_folder(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    for old in newest_first(folder)[KEPT:]:
        shutil.rmtree(old)


def _remove_parts(folder: Path) -> None:
    """Delete what a killed process left half written, or half deleted."""
    for left in folder.glob(".epoch=*"):
        shutil.rmtree(left, ignore_errors=True)


def _is_whole(path: Path) -> bool:
    try:
        return bool(read(path))
    except CheckpointMismatch:
        return False


def tidy(folder: Path, chosen: Path) -> None:
    """Delete what a killed process left: parts, and checkpoints older than the one before."""
    _remove_parts(folder)
    found = newest_first(folder)
    for old in found[found.index(chosen) + KEPT :]:
        shutil.rmtree(old)


def newest_whole(folder: Path, older: bool = True) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is whole, and its parts on the CPU; None where there is none.

    Args:
        older: whether an older checkpoint may take the place of a damaged newest one; a line says
            so.

    Raises:
        CheckpointMismatch: there are checkpoints, and each is damaged, or the newest is; or a newer
            version of this package wrote the newest.
    """
    damaged = []
    for path in newest_first(folder):
        try:
            parts = read(path)
        except CheckpointMismatch as error:
            damaged.append(str(error))
            continue
        check_schema(path, parts["state"])
        if damaged and not older:
            raise CheckpointMismatch(f"{damaged[0]}; the one before it, {path}, is whole")
        if damaged:
            print(f"{damaged[0]}; going on from the one before, {path}", flush=True)
        return path, parts
    if damaged:
        raise CheckpointMismatch(f"{'; '.join(damaged)}; begin anew with restart=true")
    return None


def read(path: Path) -> dict[str, Any]:
    """The parts of one checkpoint, checked against its digests.

    Raises:
        CheckpointMismatch: a file is missing or damaged.
    """
    sums = _read_sums(path)
    return {Path(name).stem: _read_part(path, name, sums) for name in sums}


def read_first_part(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Read the first of these parts that a checkpoint has; its other files may be damaged.

    Raises:
        CheckpointMismatch: the part is missing or damaged, or it is not known which there are.
    """
    sums = _read_sums(path)
    name = next(name for name in names if f"{name}.pt" in sums)
    return {name: _read_part(path, f"{name}.pt", sums)}


def _read_sums(path: Path) -> dict[str, str]:
    """Read the digests of a checkpoint's files, by file name."""
    try:
        sums = json.loads(read_whole(path / SUMS).decode())
        if not isinstance(sums, dict) or not {"model.pt", "optimizer.pt", "state.pt"} <= set(sums):
            raise ValueError("it does not name the files of a checkpoint")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointMismatch(f"{path / SUMS} cannot be read ({error})") from None
    return sums


def _read_part(path: Path, name: str, sums: Mapping[str, str]) -> Any:
    """Read one file of a checkpoint, if it has its digest."""
    file, expected = path / Path(name).name, sums[name]
    try:
        found = _sha256(file)
        if found != expected:
            raise ValueError(f"SHA-256 {found[:12]}..., expected {str(expected)[:12]}...")
        return load_tensors(file)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointMismatch(
            f"{file} cannot be read ({type(error).__name__}: {reason})"
        ) from None


def load_tensors(path: Path) -> Any:
    """What a file of PyTorch holds, on the CPU; nothing but tensors and plain values is read."""
    with open_file(path) as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a folder, whole or not.

    Raises:
        CheckpointMismatch: a link or a file has the name of a checkpoint, or of the folder.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise CheckpointMismatch(f"{folder} is no folder: move it away, or use restart=true")
    found = [path for path in folder.glob("epoch=*") if NAME.fullmatch(path.name)]
    for path in found:
        if path.is_symlink() or not path.is_dir():
            raise CheckpointMismatch(
                f"{path} is a link or a file, and a checkpoint is a folder: replace a link by what "
                "it points to, or use restart=true"
            )
    return sorted(found, key=_place, reverse=True)


def check_schema(path: Path, state: Any) -> None:
    """Check that this version of the package reads a checkpoint with such a state.

    Raises:
        CheckpointMismatch: it does not.
    """
    schema = state.get("schema", 1) if isinstance(state, Mapping) else None
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise CheckpointMismatch(
            f"{path} has schema {schema!r}, and this version of the package reads up to {SCHEMA}: "
            "update the package, or begin anew with restart=true"
        )


def _place(path: Path) -> tuple[int, int]:
    """The epoch and the step in a checkpoint's name; as text, epoch 10000 would precede 9999."""
    epoch, step = NAME.fullmatch(path.name).groups()
    return int(epoch), int(step)


def _sha256(path: Path) -> str:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
