"""Colours and markers of the arms in the figures of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

from sweeps.plots.style import COLOURS

__all__ = ["DASHES", "ArmStyle", "arm_styles", "joint_styles"]

SYMBOLS = (
    ("circle", "●"),
    ("square", "■"),
    ("triangle-up", "▲"),
    ("diamond", "◆"),
    ("triangle-down", "▼"),
    ("cross", "✚"),
    ("x", "✖"),
    ("pentagon", "⬟"),
)
"""Markers of the arms for Plotly, and as letters. There is one more than there are colours, as in the other figures."""

DASHES = ("solid", "dash", "dot")


@dataclass(frozen=True)
class ArmStyle:
    """Colour and marker of an arm.

    Args:
        colour: Colour in hexadecimal digits.
        symbol: Marker of Plotly.
        letter: The same marker as a letter.
        dash: Dash of lines.
    """

    colour: str
    symbol: str
    letter: str
    dash: str

    def pale(self, opacity: float) -> str:
        """Return the colour with an opacity between 0 and 1."""
        red, green, blue = (int(self.colour[start : start + 2], 16) for start in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity})"


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """Return the style of each arm, by the order of the arms."""
    styles = zip(arms, cycle(COLOURS), cycle(SYMBOLS), strict=False)
    return {
        arm: ArmStyle(colour, *symbol, DASHES[number // len(COLOURS) % len(DASHES)])
        for number, (arm, colour, symbol) in enumerate(styles)
    }


def joint_styles(arms: Sequence[str], styles: Mapping[str, ArmStyle]) -> dict[str, ArmStyle]:
    """Return the styles of arms of several sweeps, named "sweep: arm": the colour of the arm, a marker per sweep.

    Args:
        arms: Names of the arms.
        styles: Styles by name of the arm without its sweep.
    """
    sweeps = list(dict.fromkeys(arm.partition(": ")[0] for arm in arms))
    found = {}
    for arm in arms:
        sweep, _, name = arm.partition(": ")
        symbol, letter = SYMBOLS[sweeps.index(sweep) % len(SYMBOLS)]
        found[arm] = replace(styles[name], symbol=symbol, letter=letter)
    return found
