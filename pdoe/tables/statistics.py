"""Statistics of a few seeds: mean, spread, intervals, and the difference of two rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

from .runs import TableError

NORMAL = NormalDist().inv_cdf(0.975)  # half width of a 95 % interval, in standard deviations


def student(name: str, *numbers: float) -> float:
    """A function of Student's law in scipy.special, which is loaded where it is needed."""
    try:
        from scipy import special
    except ImportError:
        raise TableError("several seeds of a row need scipy: pip install '.[report]'") from None
    return float(getattr(special, name)(*numbers))


def t_quantile(degrees: float, coverage: float = 0.95) -> float:
    """The t with P(-t < T < t) = coverage, T of Student's law with the given degrees of freedom."""
    return student("stdtrit", degrees, (1 + coverage) / 2)


def sampling_variance(error: float, images: int) -> float:
    """Variance of an error measured on ``images`` independent images (binomial)."""
    return error * (100 - error) / images


@dataclass(frozen=True)
class Summary:
    """Statistics of the errors of one or more seeds.

    ``std`` and ``half_width``, that of the 95 % t-interval of the mean, are None for one seed.
    """

    n: int
    mean: float
    std: float | None
    half_width: float | None
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Summary:
        n, std = len(figures), stdev(figures) if len(figures) > 1 else None
        half_width = None if std is None else t_quantile(n - 1) * std / math.sqrt(n)
        return cls(n, fmean(figures), std, half_width, min(figures), max(figures))

    def __str__(self) -> str:
        if self.std is None:
            return f"{self.mean:.3f} (n = 1)"
        span = f"{self.low:.3f} to {self.high:.3f}"
        return f"{self.mean:.3f} ± {self.std:.3f} (n = {self.n}; {span})"


@dataclass(frozen=True)
class Welch:
    """Welch's test of equal means, variances unknown and different (Biometrika 34, 1947)."""

    t: float
    degrees: float
    p: float

    @classmethod
    def of(cls, first: Summary, second: Summary) -> Welch | None:
        """Two-sided; None without a spread of both, or where neither has any."""
        if not first.std and not second.std or None in (first.std, second.std):
            return None
        a, b = (one.std**2 / one.n for one in (first, second))
        degrees = (a + b) ** 2 / (a**2 / (first.n - 1) + b**2 / (second.n - 1))
        t = (first.mean - second.mean) / math.sqrt(a + b)
        return cls(t, degrees, 2 * student("stdtr", degrees, -abs(t)))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's p-values (Scand. J. Statist. 6, 1979): of all below 0.05, none false with 95 %."""
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        adjusted[place] = largest
    return adjusted
