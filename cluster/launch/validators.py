"""Base class and validated types of the fields of launch files.

Some values become part of a shell script, of an `#SBATCH` line, or of a command line that another program assembles.
Such a value either has a type that needs no quoting (`ShellSafe`, `Name`), or is `FreeText`, which the module that
writes the file quotes.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = [
    "HEADER",
    "RAY_VERSION",
    "Bytes",
    "DnsLabel",
    "FreeText",
    "Host",
    "ImageName",
    "Labels",
    "Launch",
    "LocalPath",
    "Name",
    "Package",
    "Path",
    "SecurityGroup",
    "SharedPath",
    "ShellSafe",
    "Wheel",
    "Words",
    "at_least",
    "fill",
    "quantity",
]

RAY_VERSION = "2.60.0"
"""Version of Ray on every node. Client and cluster must use the same version."""

HEADER = "Written by `lagvae cluster render {target}`. It contains no secret."


class Launch(BaseModel):
    """Config of one launch file. It is immutable, and it rejects unknown keys, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    summary: ClassVar[str]
    """Description of the file, in one sentence."""

    usage: ClassVar[str]
    """Commands that use the file."""


def fill(template: str, **holes: str) -> str:
    """Return `templates/TEMPLATE` with each placeholder @HOLE@ replaced. Placeholders in inserted text are kept."""
    text = files("cluster").joinpath("templates", template).read_text(encoding="utf-8")
    parts = re.split(r"@([A-Z]+)@", text)
    assert sorted(parts[1::2]) == sorted(holes), f"{template} has the placeholders {parts[1::2]}"
    return "".join(holes[part] if number % 2 else part for number, part in enumerate(parts))


def _matching(pattern: str, message: str, longest: int) -> AfterValidator:
    """Return a validator that accepts text of at most `longest` characters that `pattern` matches completely."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if len(text) > longest or not compiled.fullmatch(text):
            raise ValueError(f"{message}, and must have at most {longest} characters")
        return text

    return AfterValidator(check)


def _checked(holds: Callable[[str], object], message: str) -> AfterValidator:
    """Return a validator that accepts text for which `holds` returns a true value and raises no ValueError."""

    def check(text: str) -> str:
        try:
            fine = bool(holds(text))
        except ValueError:
            fine = False
        if not fine:
            raise ValueError(message)
        return text

    return AfterValidator(check)


WORD = r"[A-Za-z0-9_./:@%+=,][A-Za-z0-9_./:@%+=,-]*"
"""Text that no shell interprets, and that no program mistakes for an option."""

FreeText = Annotated[
    str,
    Field(min_length=1),
    _checked(
        lambda text: text.isprintable() and len(text) <= 4096, "must be one line of at most 4096 printable characters"
    ),
]
"""Free text. The code that writes it to a file must quote it."""

Path = Annotated[FreeText, _checked(lambda text: not text.startswith("-"), "must not begin with a dash")]
"""A file, folder or URI. A leading dash is rejected, because programs would mistake the path for an option."""

SharedPath = Annotated[
    Path, _checked(lambda text: not text.startswith("~"), "must not begin with ~; write the full path")
]
"""A path that will be quoted, so that no shell expands ~."""

ShellSafe = Annotated[
    str,
    _matching(WORD, "must consist of letters, digits and _./:@%+=,- and must not begin with a dash", 1024),
]
"""Text that needs no quoting in a command line, for programs that assemble command lines without quoting."""

Words = tuple[ShellSafe, ...]

Wheel = Annotated[
    str,
    _matching(
        r"[A-Za-z0-9_./~][A-Za-z0-9_./+-]*\.whl",
        "must be the path of a wheel with only letters, digits and _./+-",
        1024,
    ),
]
"""Path of a wheel. Ray's launcher passes it to a remote shell, and Docker expands variables in it."""

Name = Annotated[
    str,
    _matching(
        r"[A-Za-z0-9][A-Za-z0-9_.-]*", "must consist of letters, digits and _.- and begin with a letter or digit", 128
    ),
]
"""Name of a job, account, partition or user."""

SecurityGroup = Annotated[str, _matching(r"sg-[0-9a-f]{8,17}", "must be the id of a security group (sg-...)", 20)]

LocalPath = Annotated[str, _matching(r"/[A-Za-z0-9_./-]*", "must be an absolute path of letters, digits and _./-", 24)]
"""Local folder of each node. It must be short: Ray creates sockets in it, and the path of a socket has at most 107
characters."""

DnsLabel = Annotated[
    str,
    _matching(
        r"[a-z]([a-z0-9-]*[a-z0-9])?",
        "must be a DNS label (lower-case letters, digits and dashes, beginning with a letter, not ending with a dash)",
        40,
    ),
]
"""A name in Kubernetes, which may have at most 63 characters.

KubeRay appends suffixes, which leave 47 characters for the name of a job and 53 for the name of a cluster.
"""

ImageName = Annotated[
    str,
    _matching(r"[a-z0-9][a-z0-9._/:@-]*(:[A-Za-z0-9._-]+)?", "must be the name of an image (REGISTRY/NAME:TAG)", 255),
]

Package = Annotated[
    str,
    _matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]*(==[A-Za-z0-9._+!-]+)?",
        "must be the name of a package, optionally with ==VERSION",
        128,
    ),
]


def _is_host(text: str) -> bool:
    labels = re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*", text)
    return (bool(labels) and len(text) <= 253) or bool(ipaddress.ip_address(text))


Host = Annotated[str, _checked(_is_host, "must be a host name or an IP address")]

_QUANTITY = re.compile(r"([1-9][0-9]{0,6})(Mi|Gi|Ti)")
_BYTES = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

Bytes = Annotated[str, _checked(_QUANTITY.fullmatch, "must be an amount of memory such as 512Mi, 16Gi or 2Ti")]


def quantity(text: str) -> int:
    """Convert an amount of memory such as "512Mi" to bytes."""
    match = _QUANTITY.fullmatch(text)
    assert match, text
    return int(match[1]) * _BYTES[match[2]]


def at_least(value: int, bound: int, name: str) -> int:
    """Return `value`, or raise ValueError if it is less than `bound`, the value of the field `name`."""
    if value < bound:
        raise ValueError(f"must be at least `{name}` ({bound})")
    return value


_LABEL_VALUE = r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"
_LABEL_KEY = rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_LABEL_VALUE[:-1]}"

Labels = dict[
    Annotated[str, _matching(_LABEL_KEY, "must be the key of a Kubernetes label", 317)],
    Annotated[str, _matching(_LABEL_VALUE, "must be the value of a Kubernetes label", 63)],
]
