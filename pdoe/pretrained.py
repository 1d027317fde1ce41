"""Trained networks: their weights, and the images that they take.

A folder of weights holds ``index.json`` (name -> file, SHA-256, configuration, statistics, error),
and for each network a file of weights and a card ``<name>.md``. ``scripts/pack_weights.py`` writes
them from a finished run. The package contains one such folder; others may lie anywhere.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"
INDEX = "index.json"
KEYS = {"file", "sha256", "configuration", "image", "mean", "std", "transposed", "summary"}


@dataclass(frozen=True)
class Preprocess:
    """Images uint8 [B, C, H, W] -> the input of a network, (value / 256 - mean) / std.

    MNIST-rot stores its digits transposed. So upright images are transposed here; give the images
    of the data set itself with ``as_stored=True``.

    Raises:
        ValueError: for images of another shape or dtype.

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
    """A trained network in evaluation mode on the CPU, with ``preprocess`` for its images.

    ``net.preprocess`` takes upright uint8 images (for digits bright strokes on black) and
    normalises them by the statistics of the training data, see :class:`Preprocess`. The card
    ``<name>.md`` beside the weights says what the network was trained on, its error and its limits.

    Args:
        name: a network of the package, or the path of a file of weights, or of its folder, that
            ``scripts/pack_weights.py`` wrote.

    Raises:
        ValueError: in one line, for an unknown name and for a file that is missing, damaged or does
            not fit its entry. Its SHA-256 is compared with ``index.json`` before it is unpacked.

    >>> digit = torch.zeros(28, 28, dtype=torch.uint8)
    >>> digit[4:24, 13:15] = 255  # a one
    >>> net = load_pretrained("mnistrot_pdo_p8")
    >>> logits = net(net.preprocess(digit[None, None]))
    >>> logits.argmax(1)
    tensor([1])
    """
    folder, entry = _find_entry(name)
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
    net = build_network(entry)
    try:
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        net.load_state_dict(weights)
    except Exception as error:  # torch raises many kinds, some of them over several lines
        raise ValueError(
            f"{path} does not hold the weights of its entry in {folder / INDEX} "
            f"({str(error).splitlines()[0]}): fetch both again"
        ) from None
    return net.eval()


def load_untrained(name: str | Path) -> nn.Module:
    """The network of :func:`load_pretrained` before training, in training mode."""
    return build_network(_find_entry(name)[1])


def read_index(folder: Path = WEIGHTS) -> dict[str, dict[str, Any]]:
    """The index of a folder of weights: name -> entry.

    Raises:
        ValueError: the folder has no index, or a damaged one.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        for name, entry in index.items():
            if lacking := sorted(KEYS - set(entry)):
                raise ValueError(f"{name} lacks {', '.join(lacking)}")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({str(error).splitlines()[0]}): weights need the index that "
            "scripts/pack_weights.py writes beside them"
        ) from None
    return index


def _find_entry(name: str | Path) -> tuple[Path, dict[str, Any]]:
    """The folder and the entry of a name or a path."""
    packaged = read_index()
    if not isinstance(name, str | Path) or not str(name):
        raise ValueError(
            f"name is the name or the path of a network, not {name!r}: names are "
            f"{', '.join(packaged)}"
        )
    if isinstance(name, str) and name in packaged:
        return WEIGHTS, packaged[name]
    path = Path(name)
    if path.is_dir():
        there = read_index(path)
        if len(there) != 1:
            raise ValueError(
                f"{path} holds {len(there)} networks ({', '.join(there)}): give the file of one"
            )
        return path, next(iter(there.values()))
    if path.suffix == ".pt":
        there = read_index(path.parent)
        for entry in there.values():
            if entry["file"] == path.name:
                return path.parent, entry
        raise ValueError(
            f"{path.parent / INDEX} has no entry for {path.name}, only for {', '.join(there)}"
        )
    near = get_close_matches(str(name), packaged, 1)
    raise ValueError(
        f"no network {str(name)!r}{f', did you mean {near[0]!r}?' if near else ':'} give one of "
        f"{', '.join(packaged)}, or the path of a file of weights or of its folder"
    )


def build_network(entry: dict[str, Any]) -> nn.Module:
    """The untrained network of an entry of an index, with its ``preprocess``.

    Raises:
        ValueError: a function of somebody's own builds it.

    The caller's random numbers, default dtype and default device neither change nor matter.
    """
    from .models import Images
    from .models.sources import is_own
    from .run.config import build_model

    source = entry["configuration"]["model"].get("source")
    if is_own(source):
        raise ValueError(
            f"this network is built by {source}, a function that is not called on behalf of a "
            "file: call pdoe.convert yourself, and load the weights into its result"
        )
    channels, size = entry["image"][0], entry["image"][-1]
    images = Images(channels, entry["classes"], size) if "classes" in entry else None
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            net = build_model(entry["configuration"], images)
    finally:
        torch.set_default_dtype(default)
    mean, std = (tuple(n) if isinstance(n, list) else n for n in (entry["mean"], entry["std"]))
    net.preprocess = Preprocess(tuple(entry["image"]), mean, std, entry["transposed"])
    return net
