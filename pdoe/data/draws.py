"""The draw of a regenerated MNIST-rot: which digits of MNIST it holds, and at which angles."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .facts import SETS

if TYPE_CHECKING:
    import numpy as np

_PROVENANCE = re.compile(r"regenerated(?:(?P<replacement> with replacement)?, draw (?P<seed>\d+))?")


@dataclass(frozen=True)
class Draw:
    """The digits and angles of a regenerated set, as a function of two keys of the data.

    >>> Draw().provenance, Draw(3).provenance, Draw(0, replacement=True).provenance
    ('regenerated', 'regenerated, draw 3', 'regenerated with replacement, draw 0')

    Attributes:
        seed: of the random numbers, from 0 to 2^32 - 1 (``data.draw``).
        replacement: whether a digit may come more than once, in training and in the test
            (``data.replacement``), as the authors of the set describe it (Larochelle et al. 2007).

    Raises:
        ValueError: a seed or a replacement of another type or range.
    """

    seed: int = 0
    replacement: bool = False

    def __post_init__(self) -> None:
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise ValueError(f"data.draw is an integer from 0 to 2^32 - 1, not {self.seed!r}")
        if type(self.replacement) is not bool:
            raise ValueError(f"data.replacement is true or false, not {self.replacement!r}")

    @property
    def provenance(self) -> str:
        """The name of this draw in records, tables and caches."""
        if self == Draw():
            return "regenerated"
        return f"regenerated{' with replacement' * self.replacement}, draw {self.seed}"

    def pick_digits(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Pick 12,000 + 50,000 of ``count`` digits: their numbers, and angles in radians.

        ``RandomState`` is frozen: NumPy's later versions give the same numbers.
        """
        import numpy as np  # kept out of the tables, which ask this module for names alone

        images = sum(SETS["mnist_rot"].images)
        random = np.random.RandomState(self.seed)
        if self.replacement:
            order = random.randint(0, count, images, dtype=np.int64)
        else:
            order = random.permutation(count)[:images]
        return order, random.uniform(0, 2 * np.pi, images)


# SHA-256 of the contents (``dataset.digest``) of draws 0 to 5.
_WITHOUT_REPLACEMENT = (
    "e0cef81b435fe747a60b503725f0fb83890565f036565818f0f6b89e0882ffff",
    "8dadfcb43b3f74455798ad42a628f5956f0f484eca0232499556d4944e2ac33b",
    "072ee0774e8c5a3d65b4b5b12e7beb6ae64d48ac2144e1a2478827da31731783",
    "616314af6817ad3c47a0f2b9eed53cd8db5516d8df55cf0189962e43147bca91",
    "811a573844fd755dfadb840d644e4baa0fcb3e1d47bf09c5004c7ecceb2e73ed",
    "2ec5daad9618d50275009e53f50d6381cbdd0f61ec5ca6e7c9c2613f4e026160",
)
_WITH_REPLACEMENT = (
    "639c87b6098bc4412359d2be7706b3a7f154d19af004a37a87672fc9f4dfe698",
    "58a269c90148b888eefc994d42c2621ac4fe30739ee9d2dec03ad6270d6b65b3",
    "31dbfb93446b93a095f331c8bf7baa077867d0c2ebc176418577c8cc6dae7dd6",
    "b76b0bfdc0d473ea9ce789501a738d23471adc24890bb23484e6212e9240f035",
    "0030417e7214c832f0c6d83c50308cde84fa58b079ea5c7b48eca7e73a602e67",
    "f0adda9b94f5ffda7026a7df401aacb79bbed952007d9ee06d760cbde552efa0",
)
DRAWN = {
    Draw(seed, replacement).provenance: sha256
    for replacement, sums in ((False, _WITHOUT_REPLACEMENT), (True, _WITH_REPLACEMENT))
    for seed, sha256 in enumerate(sums)
}


def is_regenerated(provenance: str) -> bool:
    """Whether a provenance is that of a :class:`Draw`, whichever its keys are."""
    return _PROVENANCE.fullmatch(provenance) is not None


def read_draw(provenance: str) -> Draw | None:
    """The draw that a provenance names; None for other data.

    >>> read_draw("regenerated with replacement, draw 3"), read_draw("original")
    (Draw(seed=3, replacement=True), None)
    """
    found = _PROVENANCE.fullmatch(provenance)
    if found is None or int(found["seed"] or 0) >= 2**32:
        return None
    return Draw(int(found["seed"] or 0), found["replacement"] is not None)


def check_source(source: str, draw: Draw) -> None:
    """Refuse a draw of its own for data that are not regenerated.

    Raises:
        ValueError: names the source, and the sources that have draws.
    """
    if draw != Draw() and source not in ("auto", "regenerated"):
        raise ValueError(
            f"data.source={source} has one draw: data.draw and data.replacement choose among "
            "regenerated data; set data.source=regenerated or leave it out"
        )
