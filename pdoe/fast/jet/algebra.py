r"""The constants of the jet form: what a group convolution is after a Fourier transform.

Notation, for a group of n rotations with or without reflections:

- :math:`Z_{pq}` are the operators of :mod:`pdoe.fast.jet.stencils`.
- :math:`\tilde f(m)` is the orthonormal Fourier transform of a field over the n rotations. Its real
  and imaginary parts are n *planes*, see :func:`transform`.
- A *block* is one output frequency. It is the product of *slots*, real parts of
  :math:`Z_{pq}\,\tilde f(m + p - q)`, with real numbers made from the weight.
- A group with reflections is its rotation group with twice the channels: the channel (c, m) holds
  the rotations (m = 0) or the reflections (m = 1) of field c.

Everything here is float64 NumPy. Derivation: ``experiments/benchmarks/jet.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...groups import PointGroup
from .stencils import HALF, OPERATOR_PAIRS, derivative_taps, pixels_in_jet


@dataclass(frozen=True)
class Slot:
    """One real input of a block: ``jet[first] + kind * jet[second]``, each a (jet, plane).

    ``weights`` has, for each part of the output (real, imaginary), the index of a number among
    those of :attr:`Algebra.weight_map` and its sign.
    """

    kind: int
    first: tuple[int, int]
    second: tuple[int, int]
    weights: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Algebra:
    """The jet form over one group and offset.

    Attributes:
        transform: orthogonal [n, n], from rotations to planes; its transpose leads back.
        blocks: the slots of each output frequency 0 ... n // 2.
        weight_map: [M, M, 13 n, 9 G], M = 2 with reflections: the numbers of the blocks, for
            output copy, input copy and number, as a linear function of a layer's weight.
        adjoint_map: the same for the transposed layer, which takes the gradient of the output to
            that of the input; output copy and input copy are those of the transposed layer.
    """

    transform: np.ndarray
    blocks: tuple[tuple[Slot, ...], ...]
    weight_map: np.ndarray
    adjoint_map: np.ndarray


@dataclass(frozen=True)
class Form:
    """All of a layer but its weight.

    Attributes:
        group, offset: see :func:`pdoe.filter_bank`.
        bank: its kind, size and width.
        kernel_size: k of the dense kernel; with ``padding`` it says where the results lie.
        stride, padding: of the convolution.
    """

    group: PointGroup
    offset: float
    bank: tuple[str, int | None, float | None]
    kernel_size: int
    stride: int
    padding: int

    @staticmethod
    @lru_cache(maxsize=64)
    def of(
        n: int, reflections: bool, offset: float, kind: str, size: int | None,
        width: float | None, *sizes: int,
    ) -> Form:  # fmt: skip
        """The form of :attr:`arguments`."""
        return Form(PointGroup(n, reflections), offset, (kind, size, width), *sizes)

    @property
    def arguments(self) -> tuple[int | float | str | None, ...]:
        """The form in numbers and words."""
        group, sizes = self.group, (self.kernel_size, self.stride, self.padding)
        return (group.n, group.reflections, self.offset, *self.bank, *sizes)

    @property
    def algebra(self) -> Algebra:
        return algebra(self.group, self.offset, self.bank)

    @property
    def taps(self) -> np.ndarray:
        """The derivatives 0 ... 4 along an axis: [5, k]."""
        return derivative_taps(*self.bank)

    @property
    def start(self) -> int:
        """Row and column of the pixel under the first result."""
        return self.kernel_size // 2 - self.padding

    def size_of(self, pixels: int) -> int:
        """H or W of the result."""
        return (pixels + 2 * self.padding - self.kernel_size) // self.stride + 1


def transform(n: int) -> np.ndarray:
    """The orthonormal real Fourier transform over n rotations: [n, n].

    Row 0 is the mean, rows 2m - 1 and 2m are the real and imaginary part of frequency m, and the
    last row of an even n is frequency n / 2.
    """
    angles = 2 * math.pi / n * np.arange(n)
    rows = [np.ones(n)]
    for m in range(1, (n + 1) // 2):
        rows += [math.sqrt(2) * np.cos(m * angles), -math.sqrt(2) * np.sin(m * angles)]
    if n % 2 == 0:
        rows.append((-1.0) ** np.arange(n))
    return np.stack(rows) / math.sqrt(n)


@lru_cache(maxsize=32)
def algebra(
    group: PointGroup, offset: float, bank: tuple[str, int | None, float | None]
) -> Algebra:
    """The constants of the jet form over a group; ``bank`` is its kind, size and width."""
    n = group.n
    blocks, numbers = _blocks(n)
    forward = _coefficients(group, pixels_in_jet(offset, derivative_taps(*bank)))
    # The transposed layer takes (c', g) to (c, h): relative rotation -d, frame of the other end,
    # stencils mirrored at their centre.
    d = np.arange(n)
    spin = np.array([p - q for p, q in OPERATOR_PAIRS])
    parity = np.array([(-1.0) ** (p + q) for p, q in OPERATOR_PAIRS])
    phase = np.exp(2j * math.pi / n * d[:, None] * spin) * parity
    adjoint = (forward * phase[:, None]).transpose(1, 0, 2, 3, 4)[:, :, -d % n]
    return Algebra(
        transform(n), blocks, _weight_map(forward, numbers, n), _weight_map(adjoint, numbers, n)
    )


def _coefficients(group: PointGroup, pixels: np.ndarray) -> np.ndarray:
    """The layer in the complex jet, as a function of its weight: [M, M, n, 9 G, 13].

    Axes: copy of the output, copy of the input, relative rotation d = h - g, weight, operator.
    The coefficient is that of the output's orientation 0; at rotation r it gains
    exp(-i (p - q) 2 pi r / n).
    """
    n, copies = group.n, 1 + group.reflections
    quotient = np.asarray(group.quotient)
    result = np.zeros((copies, copies, n, len(group), 9, len(OPERATOR_PAIRS)), complex)
    for out in range(copies):
        operators = pixels.conj() if out else pixels  # a reflection exchanges p and q
        for source in range(copies):
            for d in range(n):
                result[out, source, d, quotient[out * n, source * n + d]] = operators
    return result.reshape(copies, copies, n, 9 * len(group), -1)


@lru_cache(maxsize=32)
def _blocks(n: int) -> tuple[tuple[tuple[Slot, ...], ...], list[tuple[int, int, float, bool]]]:
    """The slots of every output frequency, and of every number its (frequency, operator, scale,
    whether it is an imaginary part)."""
    blocks, numbers = [], []
    for m in range(n // 2 + 1):
        real_output = _is_real(m, n)
        slots = []
        for index, (p, q) in enumerate(OPERATOR_PAIRS):
            spin = p - q
            if real_output and spin < 0:
                continue  # the conjugate of (q, p), which counts twice
            source, conjugate = (m + spin) % n, 1
            if source > n // 2:
                source, conjugate = n - source, -1
            scale = _norm(m, n) / _norm(source, n)
            sign = 1 if p >= q else -1
            a, b = HALF[max((p, q), (q, p))]
            real, imaginary = _planes(source, n)
            of_real = len(numbers)
            numbers.append((m, index, scale * (2 if real_output and spin else 1), False))
            if real_output and not spin:
                slots.append(Slot(0, (a, real), (a, real), ((of_real, 1),)))
                continue
            of_imaginary = len(numbers)
            numbers.append((m, index, numbers[-1][2], True))
            if imaginary is None:
                parts = [(0, (a, real), (a, real), 1), (0, (b, real), (b, real), sign)]
            elif b is None:
                parts = [
                    (0, (a, real), (a, real), 1),
                    (0, (a, imaginary), (a, imaginary), conjugate),
                ]
            else:
                parts = [
                    (-conjugate * sign, (a, real), (b, imaginary), 1),
                    (conjugate * sign, (a, imaginary), (b, real), conjugate),
                ]
            # (w_r + i w_i)(u_r + i u_i), of which a real output takes the real part
            weights = (
                [((of_real, 1),), ((of_imaginary, -1),)]
                if real_output
                else [((of_real, 1), (of_imaginary, 1)), ((of_imaginary, -1), (of_real, 1))]
            )
            for (kind, first, second, flip), weight in zip(parts, weights, strict=True):
                signed = tuple((number, flip * each) for number, each in weight)
                slots.append(Slot(kind, first, second, signed))
        blocks.append(tuple(slots))
    return tuple(blocks), numbers


def _weight_map(coefficients: np.ndarray, numbers: list, n: int) -> np.ndarray:
    """From the weight to the numbers of the blocks: [M, M, 13 n, 9 G]."""
    d = np.arange(n)
    rows = []
    for m, index, scale, is_imaginary in numbers:
        p, q = OPERATOR_PAIRS[index]
        waves = np.exp(2j * math.pi / n * ((m + p - q) * d % n))
        row = scale * np.einsum("d,osdw->osw", waves, coefficients[..., index])
        rows.append(row.imag if is_imaginary else row.real)
    return np.stack(rows, 2)


def _is_real(m: int, n: int) -> bool:
    return m == 0 or 2 * m == n


def _norm(m: int, n: int) -> float:
    """How the transform weighs a frequency."""
    return math.sqrt((1 if _is_real(m, n) else 2) / n)


def _planes(m: int, n: int) -> tuple[int, int | None]:
    """The planes of the real and the imaginary part of a frequency 0 ... n // 2."""
    if m == 0:
        return 0, None
    return (n - 1, None) if 2 * m == n else (2 * m - 1, 2 * m)
