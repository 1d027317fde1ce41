"""Which image files a folder has: their classes, and whether they train or test."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from .dataset import DataError

EXTENSIONS = (*IMG_EXTENSIONS, ".gif")
PARTS = ("train", "test")
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Listing:
    """The image files of a folder.

    Attributes:
        root: the folder.
        class_names: sorted; a label is a place in it.
        paths, labels: of all files, those of ``train/`` first.
        test: number of the last files that are those of ``test/``; None: there is no such folder.
    """

    root: Path
    class_names: tuple[str, ...]
    paths: list[Path]
    labels: list[int]
    test: int | None

    def digest(self, sums: list[str]) -> str:
        """SHA-256 (hex) of the names of the files below the root, and of their contents.

        Args:
            sums: SHA-256 (hex) of each file.
        """
        names = (path.relative_to(self.root).as_posix() for path in self.paths)
        lines = sorted(f"{sum_} {name}\n" for sum_, name in zip(sums, names, strict=True))
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def list_images(root: Path) -> Listing:
    """List the images ``root/<class>/*``, or ``root/train/<class>/*`` and ``root/test/<class>/*``.

    Hidden files and folders do not count. Prints which files are left out.

    Raises:
        DataError: there are no two classes with images, or ``train/`` and ``test/`` do not fit.
    """
    try:
        parts = _find_parts(root)
        folders = {part: _list_folders(root / part) for part in parts}
        names = folders[parts[0]]
        for part in parts:
            _check_classes(root / part, folders[part])
        if len(parts) > 1 and (odd := sorted(set(names) ^ set(folders["test"]))):
            where = "train" if odd[0] in names else "test"
            raise DataError(
                f"{root}: the class {odd[0]} is in {where}/ alone, and train/ and test/ need the "
                "same classes."
            )
        found = {part: _list_files(root / part, names) for part in parts}
        _report_left_out(root, {path for files in found.values() for path, _ in files})
    except OSError as error:
        raise DataError(f"{root} cannot be listed: {error}.") from None
    files = [file for part in parts for file in found[part]]
    paths, labels = [path for path, _ in files], [label for _, label in files]
    return Listing(root, tuple(names), paths, labels, len(found["test"]) if parts[1:] else None)


def _find_parts(root: Path) -> tuple[str, ...]:
    """Return ("train", "test") where these folders have classes, else ("",)."""
    has = {part: (root / part).is_dir() and bool(_list_folders(root / part)) for part in PARTS}
    if all(has.values()):
        return PARTS
    for part, other in (PARTS, PARTS[::-1]):
        if has[part]:
            remedy = "" if part == "test" else f", or take all images from data.root={root / part}"
            raise DataError(
                f"{root} has classes in {part}/ and none in {other}/: add {other}/<class>/{remedy}."
            )
    return ("",)


def _list_folders(folder: Path) -> list[str]:
    entries = (entry for entry in os.scandir(folder) if entry.is_dir())
    return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def _check_classes(folder: Path, names: list[str]) -> None:
    if not names:
        raise DataError(
            f"{folder} has no folders: put the images of each class into {folder}/<class>/."
        )
    for name in names:
        if not _list_files(folder, [name]):
            there = sorted(path.name for path in (folder / name).iterdir())
            held = f"holds {_shorten(there)}" if there else "is empty"
            raise DataError(
                f"{folder / name} has no images, it {held}: add some (names end in "
                f"{', '.join(EXTENSIONS)}), or remove the folder."
            )
    if len(names) == 1:
        raise DataError(
            f"{folder} has one class, {names[0]}: a classifier needs images of two or more, each "
            f"class in a folder {folder}/<class>/."
        )


def _list_files(folder: Path, names: list[str]) -> list[tuple[Path, int]]:
    """The images of classes, with their labels, sorted; also in folders within those."""
    labels = {name: label for label, name in enumerate(names)}
    found = make_dataset(str(folder), labels, extensions=EXTENSIONS, allow_empty=True)
    files = ((Path(path), label) for path, label in found)
    return [(path, label) for path, label in files if not _is_hidden(path.relative_to(folder))]


def _report_left_out(root: Path, listed: set[Path]) -> None:
    """Print the files that are no images by their names, or lie in no class."""
    files = (path for path in root.rglob("*") if path not in listed and path.is_file())
    names = sorted(str(path) for path in files if not _is_hidden(path.relative_to(root)))
    if names:
        print(
            f"folder: left out (in no class, or no images by their names): {len(names):,}, "
            f"{_shorten(names)}",
            flush=True,
        )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
