"""Fonts for texts with letters that the default font lacks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

__all__ = ["DEFAULT_FONT", "missing_letters", "supplementary_fonts"]

DEFAULT_FONT = "DejaVu Sans"
"""A font that is part of matplotlib."""


def missing_letters(figure: Figure) -> set[str]:
    """Return the characters in the texts of `figure` that the default font lacks."""
    texts = {text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)}
    default = FT2Font(font_manager.findfont(DEFAULT_FONT)).get_charmap()
    return {letter for letter in set().union(*texts) if letter.isprintable() and ord(letter) not in default}


def supplementary_fonts(letters: set[str]) -> Sequence[str]:
    """Return the names of installed fonts that have `letters` between them.

    The folders of the system are searched each time, so that a font which was installed a moment ago is found. If no
    font has some of the letters, a warning lists them.
    """
    wanted, names = set(letters), []
    for path in sorted(font_manager.findSystemFonts()) if wanted else ():
        try:
            font = FT2Font(path)
        except (OSError, RuntimeError):  # damaged, or of a format that matplotlib cannot read
            continue
        charmap = font.get_charmap() if font.scalable else {}
        found = {letter for letter in wanted if ord(letter) in charmap}
        if found:
            font_manager.fontManager.addfont(path)
            names.append(font.family_name)
            wanted -= found
        if not wanted:
            break
    if wanted:
        shown = " ".join(sorted(wanted)[:20]) + (" ..." if len(wanted) > 20 else "")
        message = f"the figure shows boxes instead of these characters, because no installed font has them: {shown}"
        warnings.warn(
            f"{message}. Install a font that has them, such as Noto Sans CJK for Chinese, Japanese and Korean.",
            stacklevel=2,
        )
    return names
