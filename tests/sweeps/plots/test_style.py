"""What all figures have in common: independence of the user's settings, and letters of every script."""

from __future__ import annotations

import matplotlib
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure

from sweeps.plots.style import save_figure

CHINESE, OTHER = "自编码器", "\U0001044e"


def figure_with(text: str) -> Figure:
    figure = Figure((2, 1))
    figure.suptitle(text)
    return figure


@pytest.fixture
def fonts(tmp_path, monkeypatch):
    """A new folder in which matplotlib looks for the fonts of the system."""
    monkeypatch.setattr(font_manager, "X11FontDirectories", [tmp_path / "fonts"])
    monkeypatch.setattr(font_manager, "_get_fontconfig_fonts", list)
    (tmp_path / "fonts").mkdir()
    return tmp_path / "fonts"


def write_font(path, name: str, letters: str) -> None:
    """Write a font in which each of `letters` is a filled square."""
    pen = TTGlyphPen(None)
    for move, point in ((pen.moveTo, (0, 0)), (pen.lineTo, (0, 900)), (pen.lineTo, (900, 900)), (pen.lineTo, (900, 0))):
        move(point)
    pen.closePath()
    square = pen.glyph()
    names = [".notdef", *(f"u{ord(letter):x}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):x}" for letter in letters})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": name, "styleName": "Regular", "psName": name})
    builder.setupOS2(sTypoAscender=900, usWinAscent=900, usWinDescent=100)
    builder.setupPost()
    builder.save(path)


def test_letters_are_drawn_with_fonts_of_the_system(tmp_path, fonts):
    with pytest.warns(UserWarning, match=r"no installed font has them: 器 码 编 自 \S\. Install a font"):
        save_figure(lambda: figure_with(CHINESE + OTHER), tmp_path / "before.png")
    (fonts / "damaged.ttf").write_bytes(b"\0\1\0\0")
    write_font(fonts / "a.ttf", "LagvaeTestA", CHINESE[:2])
    write_font(fonts / "b.ttf", "LagvaeTestB", CHINESE[1:])
    with pytest.warns(UserWarning, match=r"no installed font has them: \S\. Install a font"):
        save_figure(lambda: figure_with(CHINESE + OTHER), tmp_path / "after.png")
    write_font(fonts / "c.ttf", "LagvaeTestC", OTHER)
    save_figure(lambda: figure_with(CHINESE + OTHER), tmp_path / "last.png")
    contents = {(tmp_path / f"{name}.png").read_bytes() for name in ("before", "after", "last")}
    assert len(contents) == 3


def test_the_settings_of_the_user_have_no_effect(tmp_path):
    save_figure(lambda: figure_with("title"), tmp_path / "plain.png")
    settings = {"figure.facecolor": "black", "savefig.bbox": "tight", "figure.titlesize": 30, "text.usetex": True}
    with matplotlib.rc_context(settings):
        save_figure(lambda: figure_with("title"), tmp_path / "set.png")
        assert matplotlib.rcParams["figure.facecolor"] == "black"
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "set.png").read_bytes()
