"""Values as text: numbers, durations, parameters, descriptions of data, and Markdown tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import shorten

__all__ = [
    "describe_data",
    "describe_tracker_failure",
    "format_amount",
    "format_count",
    "format_duration",
    "format_parameters",
    "format_value",
    "markdown_table",
    "printable",
    "printable_log",
]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

REASON_CHARACTERS = 240
"""Maximum length of the reason in a warning about a tracker. A longer one ends with "..."."""

_COLOUR_OR_TEXT = re.compile(r"(?P<colour>\x1b\[[0-9;]*m)|(?P<text>\x1b|[^\x1b]+)")
"""A sequence that sets colour or weight of the following characters, or anything else."""

_UNFINISHED_COLOUR = re.compile(r"\x1b(\[[0-9;]{0,20})?\Z")


def printable(text: str) -> str:
    """Return `text` with escapes such as `\\x1b` in place of characters that control a terminal or reorder its text.

    Texts from files pass through this function before they are printed or drawn. Newlines and tabs remain.
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def printable_log(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the output of a command as `printable` text, but keep its colours.

    Args:
        pieces: The output, cut anywhere.

    Yields:
        The same output. A colour is never cut: the start of one at the end of a piece is held back until the next.
    """
    rest = ""
    for piece in pieces:
        text = rest + piece
        unfinished = _UNFINISHED_COLOUR.search(text)
        end = unfinished.start() if unfinished is not None else len(text)
        text, rest = text[:end], text[end:]
        yield _COLOUR_OR_TEXT.sub(lambda match: match["colour"] or printable(match["text"]), text)
    yield printable(rest)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table; the character | is escaped inside cells."""
    yield _markdown_row(headings)
    yield "|" + "---|" * len(headings)
    for row in rows:
        assert len(row) == len(headings), f"a row must have {len(headings)} cells, one per heading, got {len(row)}"
        yield _markdown_row(row)


def _markdown_row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def format_value(value: object, digits: int = 4) -> str:
    """Return a float with `digits` significant digits, and any other value as text that can be printed."""
    return f"{value:.{digits}g}" if isinstance(value, float) else printable(str(value))


def describe_tracker_failure(tracker: str, reason: str) -> str:
    """Return the warning that an experiment tracker failed, in one line."""
    short = shorten(reason, REASON_CHARACTERS, placeholder=" ...").rstrip(".")
    return f"{tracker} failed: {short}. This does not affect the sweep; the next `lagvae run` sends what is missing."


def format_amount(value: float) -> str:
    """Return a number of hours or updates: 0.25, 3.2, 1,000,000."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def format_parameters(parameters: Mapping[str, object], digits: int = 4) -> str:
    """Return the searched fields of a configuration as text: `beta=0.5 warm_up=3`.

    The name of the strategy or section is left out, unless another field has the same name.
    """
    fields = Counter(name.partition(".")[2] for name in parameters)
    short = {name: key if fields[key := name.partition(".")[2]] == 1 else name for name in parameters}
    return printable(" ".join(f"{short[name]}={format_value(value, digits)}" for name, value in parameters.items()))


def format_count(number: float, noun: str) -> str:
    """Return a number with its noun: 1 run, 2 runs, 0.5 GPUs."""
    return f"{number:,.10g} {noun}{'' if number == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """Return a duration in the two largest units: 0.3 s, 45 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 59.5:
        return f"{seconds:.0f} s" if seconds >= 0.95 or seconds <= 0 else f"{seconds:.1g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def describe_data(report: Mapping[str, int | float | str]) -> str:
    """Return a one-line description of loaded data from `Dataset.report`."""
    sizes = "/".join(f"{report[f'{split}_examples']:,}" for split in ("train", "valid", "test"))
    by_key = {"height": _describe_images, "train_mean": _describe_vectors}
    describe = next((describe for key, describe in by_key.items() if key in report), _describe_sequences)
    content = describe(report)
    labels = f", labels {report['labels']}" if report.get("labels") else ""
    remarks = f"; {report['remarks']}" if "remarks" in report else ""
    return f"data: {sizes} train/valid/test examples of {content}{labels}{remarks}"


def _describe_images(report: Mapping[str, int | float | str]) -> str:
    bits = str(report["test_bits_sha256"])[:12]
    grey = f"mean grey {report['train_mean_grey']:.3f}"
    return f"{report['height']} x {report['width']} pixels, {grey}, SHA-256 of test bits {bits}"


def _describe_vectors(report: Mapping[str, int | float | str]) -> str:
    scale = f"mean {report['train_mean']:.3g}, standard deviation {report['train_std']:.3g}"
    return f"{report['features']:,} features ({report['values']}; {scale}), standardise {report['standardise']}"


def _describe_sequences(report: Mapping[str, int | float | str]) -> str:
    unit = report.get("unit", "words")
    lengths = (
        f"{report['train_length_min']} to {report['train_length_max']} {unit} (mean {report['train_length_mean']:.1f})"
    )
    text = f"{lengths}, vocabulary {report['vocabulary']:,}"
    for reason in ("empty", "long"):
        count = sum(int(report.get(f"{split}_dropped_{reason}", 0)) for split in ("train", "valid", "test"))
        text += f", {count:,} {reason} lines dropped" if count else ""
    valid, test = (float(report.get(f"{split}_oov_rate", 0.0)) for split in ("valid", "test"))
    return text + (f", unknown {unit} {valid:.2%}/{test:.2%} of valid/test" if valid or test else "")
