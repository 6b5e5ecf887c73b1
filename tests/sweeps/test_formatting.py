"""Output of other programs on the terminal: escaped, but with its colours."""

import pytest

from sweeps.formatting import format_count, format_duration, printable_log

RED, BOLD, RESET = "\x1b[31m", "\x1b[1;38;5;12m", "\x1b[0m"
HOSTILE = "\x1b]0;owned\x07 \x1b[2J \x1b[31 \x1b\x1b[1A \x9b31m \u202e\r\n"


def shown(*pieces: str) -> str:
    return "".join(printable_log(pieces))


def test_colours_and_lines_remain():
    text = f"{RED}a\tb{RESET}\n{BOLD}c{RESET}\n"
    assert shown(text) == text


def test_every_other_control_character_is_escaped():
    text = shown(f"{RED}{HOSTILE}{RESET}")
    inner = text.removeprefix(RED).removesuffix(RESET)
    assert inner == "\\x1b]0;owned\\x07 \\x1b[2J \\x1b[31 \\x1b\\x1b[1A \\x9b31m \\u202e\\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_the_place_of_a_cut_has_no_effect(size):
    text = f"x{RED}{HOSTILE}{BOLD}y{RESET}\x1b"
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert shown(*pieces) == shown(text)


def test_only_a_possible_colour_is_held_back():
    pieces = printable_log(iter(["epoch 1\x1b[3", "2mgreen", "\x1b[" + "1" * 40]))
    assert next(pieces) == "epoch 1"
    assert next(pieces) == "\x1b[32mgreen"
    assert next(pieces) == "\\x1b[" + "1" * 40


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (0.0312, "0.03 s"), (0.94, "0.9 s"), (0.96, "1 s"), (44.6, "45 s"), (59.4, "59 s")),
        *((59.9, "1 min 00 s"), (200, "3 min 20 s"), (3599.7, "1 h 00 min"), (7500, "2 h 05 min")),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 runs"), (1, "1 run"), (0.5, "0.5 runs"), (12345, "12,345 runs")])
def test_counts(number, text):
    assert format_count(number, "run") == text
