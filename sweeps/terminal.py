"""What the printed tables share."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

__all__ = ["console_of_stdout", "shown", "shown_parameters"]


def console_of_stdout() -> Console:
    """A console that never cuts: a pipe has no width of its own."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def shown(value: object) -> str:
    """A number with four digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_parameters(parameters: Mapping[str, object]) -> str:
    """The searched fields of a configuration, `beta=0.5 warm_up=3`."""
    return " ".join(f"{name.split('.')[1]}={shown(value)}" for name, value in parameters.items())
