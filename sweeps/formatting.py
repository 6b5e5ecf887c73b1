"""Values as text: numbers, durations, parameters, descriptions of data, and Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["describe_data", "format_duration", "format_parameters", "format_value", "table"]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """The lines of a table; a bar in a cell is escaped."""
    yield _line(headings)
    yield "|" + "---|" * len(headings)
    for row in rows:
        assert len(row) == len(headings), f"{len(row)} cells under {len(headings)} headings"
        yield _line(row)


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def format_value(value: object) -> str:
    """A number with four digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_parameters(parameters: Mapping[str, object]) -> str:
    """The searched fields of a configuration, `beta=0.5 warm_up=3`."""
    return " ".join(f"{name.split('.')[1]}={format_value(value)}" for name, value in parameters.items())


def format_duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def describe_data(report: Mapping[str, int | float | str]) -> str:
    """What was loaded, in one line."""
    sizes = "/".join(f"{report[f'{split}_examples']:,}" for split in ("train", "valid", "test"))
    text = f"data: {sizes} train/valid/test examples of {_images(report) if 'height' in report else _texts(report)}"
    return text + (f", labels {report['labels']}" if report.get("labels") else "")


def _images(report: Mapping[str, int | float | str]) -> str:
    bits = str(report["test_bits_sha256"])[:12]
    grey = f"mean grey {report['train_mean_grey']:.3f}"
    return f"{report['height']} x {report['width']} pixels, {grey}, test bits {bits}"


def _texts(report: Mapping[str, int | float | str]) -> str:
    unit = report.get("unit", "words")
    words = (
        f"{report['train_length_min']} to {report['train_length_max']} {unit} (mean {report['train_length_mean']:.1f})"
    )
    text = f"{words}, vocabulary {report['vocabulary']:,}"
    dropped = {
        why: sum(int(report.get(f"{split}_dropped_{why}", 0)) for split in ("train", "valid", "test"))
        for why in ("empty", "long")
    }
    text += "".join(f", {count:,} {why} lines dropped" for why, count in dropped.items() if count)
    unknown = [float(report.get(f"{split}_oov_rate", 0.0)) for split in ("valid", "test")]
    told = f", unknown {unit} {unknown[0]:.2%}/{unknown[1]:.2%} of valid/test" if any(unknown) else ""
    return text + told
