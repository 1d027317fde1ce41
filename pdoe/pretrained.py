"""Networks that come trained: their weights, and how an image becomes their input.

A folder of weights holds ``index.json`` (name -> file, SHA-256, configuration, statistics, error),
a file of weights and a card ``<name>.md`` for each; ``scripts/pack_weights.py`` makes them of a
finished run. The package has such a folder, and others may lie anywhere.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"
INDEX = "index.json"
KEYS = {"file", "sha256", "configuration", "image", "mean", "std", "transposed", "summary"}


@dataclass(frozen=True)
class Preprocess:
    """Images uint8 [B, C, H, W] -> what a network was trained on: (value / 256 - mean) / std.

    The digits of MNIST-rot are stored transposed. Images are taken as one sees them, and transposed
    here; those of the data set itself, which are so already, come ``as_stored=True``.

    >>> image = torch.tensor([[[[0, 64], [128, 192]]]], dtype=torch.uint8)
    >>> Preprocess((1, 2, 2), 0.5, 0.25, transposed=True)(image)
    tensor([[[[-2.,  0.],
              [-1.,  1.]]]])
    """

    shape: tuple[int, int, int]
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    transposed: bool = False

    def __call__(
        self, images: Tensor, as_stored: bool = False, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        from .data.batches import to_input

        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != self.shape:
            raise ValueError(
                f"expected images uint8 [B, {', '.join(map(str, self.shape))}], "
                f"not {str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
            )
        images = images.mT.contiguous() if self.transposed and not as_stored else images
        return to_input(images, self.mean, self.std, dtype)


def load_pretrained(name: str | Path) -> nn.Module:
    """A trained network in evaluation mode, on the CPU, with a ``preprocess`` for its images.

    ``net.preprocess`` takes uint8 images as one sees them (bright strokes on black for digits) and
    normalises them by the numbers that the network was trained with, see :class:`Preprocess`. What
    it was trained on, its error and its limits are on its card, ``<name>.md`` beside its weights.

    Args:
        name: one of those that come with the package (an unknown one names them all); or the file
            of weights, or its folder, that ``scripts/pack_weights.py`` made elsewhere.

    Raises:
        ValueError: the name is unknown, or a file is missing or damaged: its SHA-256 is compared
            with the one in ``index.json`` before anything is read from it.

    >>> digit = torch.zeros(28, 28, dtype=torch.uint8)
    >>> digit[4:24, 13:15] = 255  # a one
    >>> net = load_pretrained("mnistrot_pdo_p8")
    >>> logits = net(net.preprocess(digit[None, None]))
    >>> logits.argmax(1)
    tensor([1])
    """
    folder, entry = _entry(name)
    path = folder / Path(entry["file"]).name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): fetch it again") from None
    found = hashlib.sha256(content).hexdigest()
    if found != entry["sha256"]:
        raise ValueError(
            f"{path} is damaged: {len(content):,} bytes of SHA-256 {found[:12]}..., "
            f"expected {entry['sha256'][:12]}...: fetch it again"
        )
    net = network_of(entry)
    net.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    return net.eval()


def untrained(name: str | Path) -> nn.Module:
    """The network of :func:`load_pretrained` as it is before training, in training mode."""
    return network_of(_entry(name)[1])


def entries(folder: Path = WEIGHTS) -> dict[str, dict[str, Any]]:
    """What the index of a folder of weights says: name -> entry.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        for name, entry in index.items():
            if lacking := sorted(KEYS - set(entry)):
                raise ValueError(f"{name} lacks {', '.join(lacking)}")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): weights come with their index, as "
            "scripts/pack_weights.py makes it"
        ) from None
    return index


def _entry(name: str | Path) -> tuple[Path, dict[str, Any]]:
    """The folder and the entry of a name or a path."""
    packaged = entries()
    if not isinstance(name, str | Path) or not str(name):
        raise ValueError(f"a network has a name or a path, not {name!r}: {', '.join(packaged)}")
    if isinstance(name, str) and name in packaged:
        return WEIGHTS, packaged[name]
    path = Path(name)
    if path.is_dir():
        there = entries(path)
        if len(there) != 1:
            raise ValueError(
                f"{path} holds {len(there)} networks ({', '.join(there)}): name the file of one"
            )
        return path, next(iter(there.values()))
    if path.suffix == ".pt":
        there = entries(path.parent)
        for entry in there.values():
            if entry["file"] == path.name:
                return path.parent, entry
        raise ValueError(f"{path.parent / INDEX} knows no {path.name}: {', '.join(there)}")
    raise ValueError(
        f"no network {str(name)!r}: known are {', '.join(packaged)}, "
        "and the path of a file of weights, or of its folder"
    )


def network_of(entry: dict[str, Any]) -> nn.Module:
    """The network of an entry of an index, with fresh weights, and its ``preprocess``."""
    from .run.config import build_model

    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:  # loading draws no numbers that the caller would see, and heeds no defaults of the caller
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            net = build_model(entry["configuration"])
    finally:
        torch.set_default_dtype(usual)
    mean, std = (tuple(n) if isinstance(n, list) else n for n in (entry["mean"], entry["std"]))
    net.preprocess = Preprocess(tuple(entry["image"]), mean, std, entry["transposed"])
    return net
