"""Remedies at equal information: the best distortion that each arm reaches at a rate, with intervals over seeds.

Shape suffixes: C configurations, L levels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sweeps.analysis.front import measured
from sweeps.analysis.statistics import CONFIDENCE
from sweeps.search.dominance import Sample, Spread
from sweeps.storage.row_table import RowTable

__all__ = ["DISTORTIONS", "RATES", "ArmCurve", "Estimate", "Level", "Price", "rate_distortion"]

RATES = ("mi", "kl")
"""Columns that measure the rate: what z tells about x, and what z costs."""

DISTORTIONS: Mapping[str, Literal["at least", "at most"]] = {
    "nll_iw": "at least",
    "nll_elbo": "at least",
    "rec": "at most",
}
"""Columns on the other axis. The best NLL is sought among configurations whose rate is at least the level, because
information may cost likelihood; the best rec among those whose rate is at most the level, because rate buys rec."""

LEAST_SPAN = 0.5
"""Least range of the rate over which a price is reported [nats]."""

TOLERANCE = 0.01
"""Difference of rates that does not count, because the rates of unused latent variables scatter around 0 [nats]."""

RESAMPLES = 1_000
"""Number of bootstrap samples."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its interval of 95 %, which is None if no configuration of the sweep has two seeds."""

    value: float
    low: float | None
    high: float | None

    def text(self) -> str:
        """Return the estimate as text, such as `1.50 [1.25, 1.75]`."""
        bounds = "" if self.low is None else f" [{self.low:z.2f}, {self.high:z.2f}]"
        return f"{self.value:z.2f}{bounds}"


@dataclass(frozen=True)
class Level:
    """The best configuration of an arm at one rate.

    Args:
        rate: The rate [nats].
        config_id: The configuration.
        distortion: Its mean distortion [nats], with the interval of the best distortion at this rate.
    """

    rate: float
    config_id: str
    distortion: Estimate


@dataclass(frozen=True)
class Price:
    """What information costs an arm.

    Args:
        rate: The highest level that the arm reaches [nats].
        distortion: Distortion per nat of the rate: that of the arm at this level minus the least of any arm at the
            lowest level, divided by the difference of the levels.
    """

    rate: float
    distortion: Estimate


@dataclass(frozen=True)
class ArmCurve:
    """The configurations of one arm in the plane of rate and distortion.

    Args:
        arm: Name of the arm.
        rate_C: Mean rate of each configuration [nats].
        distortion_C: Mean distortion of each configuration [nats].
        levels: The best configuration at each level that the arm reaches.
        price: What information costs the arm; None for `rec`, or if its rates span less than `LEAST_SPAN`.
    """

    arm: str
    rate_C: Floats
    distortion_C: Floats
    levels: tuple[Level, ...]
    price: Price | None


def rate_distortion(
    rows: Sequence[Mapping[str, Any]],
    *,
    rate: str = "mi",
    distortion: str = "nll_iw",
    levels: Sequence[float] | None = None,
    seed: int = 0,
) -> list[ArmCurve]:
    """Return for each arm the best distortion at each level of the rate, by means over seeds.

    The curve of an arm is the attainment curve of its configurations (Fonseca & Fleming 1996), so it is monotone by
    construction. Arms with more configurations have more chances; compare arms that were searched equally. The
    intervals come from a parametric bootstrap: each mean is drawn from Student's distribution, with the standard
    deviation between seeds pooled over the configurations of the arm, because three seeds say little about their own
    spread. Rate and distortion are drawn independently. Since the best of noisy means is sought, curves are slightly
    optimistic.

    Args:
        rows: Rows of runs; only finished ones with both values count.
        rate: Column of the rate.
        distortion: Column of the distortion, a key of `DISTORTIONS`.
        levels: Rates at which arms are compared [nats]; None for 0 and whole or half nats up to the highest rate.
        seed: Seed of the bootstrap.

    Returns:
        One curve per arm with a usable run, in order of first appearance.
    """
    table = RowTable.of(rows, ["arm", "config_id", "status", rate, distortion])
    usable, values_N2 = measured(table, [rate, distortion])
    if not len(usable):
        return []
    if levels is None:
        highest = float(values_N2[:, 0].max())
        step = 0.5 if highest < 3 else max(1.0, round(highest / 6))
        levels = [number * step for number in range(int(max(highest, 0.0) / step) + 1)]
    seeds = _values_by_configuration(usable, values_N2)
    side = DISTORTIONS[distortion]
    means = {arm: np.array([sample.values_ND.mean(0) for sample in of_arm]) for arm, of_arm in seeds.items()}
    best = {arm: _best(mean_C2, levels, side) for arm, mean_C2 in means.items()}
    samples = _bootstrap(seeds, levels, side, seed)
    values = {arm: _distortions(means[arm], best[arm]) for arm in seeds}
    return [
        ArmCurve(
            arm,
            means[arm][:, 0],
            means[arm][:, 1],
            tuple(
                Level(levels[number], of_arm[index].config_id, _estimate(values[arm][number], samples[arm][:, number]))
                for number, index in enumerate(best[arm])
                if index is not None
            ),
            _price(arm, levels, values, samples) if side == "at least" else None,
        )
        for arm, of_arm in seeds.items()
    ]


def _values_by_configuration(rows: RowTable, values_N2: Floats) -> dict[str, list[Sample]]:
    """Return rate and distortion of each seed, one sample per configuration, by arm."""
    groups = rows.groups("arm", "config_id")
    first = rows.take(groups.first_G)
    found: dict[str, list[Sample]] = {}
    names = zip(first.values("arm"), first.values("config_id"), groups, strict=True)
    for arm, config_id, positions in names:
        found.setdefault(arm, []).append(Sample(config_id, values_N2[positions]))
    return found


def _bootstrap(
    seeds: Mapping[str, Sequence[Sample]], levels: Sequence[float], side: Literal["at least", "at most"], seed: int
) -> dict[str, Floats]:
    """Return the best distortion of each arm in each bootstrap sample at each level, [B, L]; NaN where it has none.

    B is 0 if no configuration has two seeds.
    """
    spread_of_all = Spread.of(chain.from_iterable(seeds.values()))
    if spread_of_all is None:
        return dict.fromkeys(seeds, np.empty((0, len(levels))))
    draw = np.random.default_rng(seed)
    found = {}
    for arm, of_arm in seeds.items():
        spread = Spread.of(of_arm) or spread_of_all
        mean_C2 = np.array([sample.values_ND.mean(0) for sample in of_arm])
        se_C2 = spread.std_D / np.sqrt([[sample.n] for sample in of_arm])
        rows = []
        for _ in range(RESAMPLES):
            drawn_C2 = mean_C2 + se_C2 * draw.standard_t(spread.degrees, mean_C2.shape)
            rows.append(_distortions(drawn_C2, _best(drawn_C2, levels, side)))
        found[arm] = np.array(rows)
    return found


def _price(
    arm: str, levels: Sequence[float], values: Mapping[str, Sequence[float]], samples: Mapping[str, Floats]
) -> Price | None:
    reached = [number for number, value in enumerate(values[arm]) if not math.isnan(value)]
    if not reached or levels[reached[-1]] - levels[0] < LEAST_SPAN:
        return None
    last = reached[-1]
    span = levels[last] - levels[0]
    cheapest = min(of_arm[0] for of_arm in values.values() if not math.isnan(of_arm[0]))
    drawn = np.empty(0)
    if len(samples[arm]):
        of_all = np.nanmin(np.array([sample[:, 0] for sample in samples.values()]), axis=0)
        drawn = (samples[arm][:, last] - of_all) / span
    return Price(levels[last], _estimate((values[arm][last] - cheapest) / span, drawn))


def _best(mean_C2: Floats, levels: Sequence[float], side: Literal["at least", "at most"]) -> list[int | None]:
    """Return the index of the best configuration at each level; None if the arm does not reach it."""
    order = np.argsort(mean_C2[:, 1], kind="stable")
    rates = mean_C2[order, 0]
    found: list[int | None] = []
    for level in levels:
        fits = rates >= level - TOLERANCE if side == "at least" else rates <= level + TOLERANCE
        found.append(int(order[int(np.argmax(fits))]) if fits.any() else None)
    return found


def _distortions(mean_C2: Floats, best_L: Sequence[int | None]) -> list[float]:
    """Return the distortion of the best configuration at each level; NaN where there is none."""
    return [math.nan if index is None else float(mean_C2[index, 1]) for index in best_L]


def _estimate(value: float, drawn_B: Floats) -> Estimate:
    present = drawn_B[~np.isnan(drawn_B)]
    if len(present) < RESAMPLES / 2:
        return Estimate(value, None, None)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(present, [tail, 1 - tail]).tolist()
    return Estimate(value, min(low, value), max(high, value))
