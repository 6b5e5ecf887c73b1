"""The laws that values of launch files obey, and the one base of their settings.

A value that ends in a shell script, in `#SBATCH` lines or in a command line that others assemble either has a law that
leaves nothing to quote (`Word`, `Name`), or is free text that its file quotes (`Line`).
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
"""The version of Ray on every node; client and cluster must have the same."""

HEADER = "Written by `lagvae cluster render {target}`. It holds no secret."


class Launch(BaseModel):
    """The settings of one launch file: frozen, closed to unknown keys, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    summary: ClassVar[str]
    """What the file is, in one sentence."""

    usage: ClassVar[str]
    """What to do with the file."""


def fill(template: str, **holes: str) -> str:
    """`templates/TEMPLATE` with each @HOLE@ filled, in one pass, so that no filling is ever searched for holes."""
    text = files("cluster").joinpath("templates", template).read_text(encoding="utf-8")
    parts = re.split(r"@([A-Z]+)@", text)
    assert sorted(parts[1::2]) == sorted(holes), f"{template} has the holes {parts[1::2]}"
    return "".join(holes[part] if number % 2 else part for number, part in enumerate(parts))


def _matching(pattern: str, message: str, longest: int) -> AfterValidator:
    """Text that `pattern` matches as a whole, of at most `longest` characters; `law` continues "must ..."."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if len(text) > longest or not compiled.fullmatch(text):
            raise ValueError(f"{message}, at most {longest} characters")
        return text

    return AfterValidator(check)


def _checked(holds: Callable[[str], object], message: str) -> AfterValidator:
    """Text for which `holds` is true; a ValueError of its is false."""

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
"""What no shell gives a meaning to, and what no program takes for an option."""

FreeText = Annotated[
    str,
    Field(min_length=1),
    _checked(lambda text: text.isprintable() and len(text) <= 4096, "be one line of at most 4096 printable characters"),
]
"""Free text; whoever writes it into a file quotes it."""

Path = Annotated[FreeText, _checked(lambda text: not text.startswith("-"), "not begin with a dash")]
"""A file, folder or URI, free but for the dash that would make it an option."""

SharedPath = Annotated[Path, _checked(lambda text: not text.startswith("~"), "be written out, not begin with ~")]
"""A path that is quoted where a shell would have to fill in the home."""

ShellSafe = Annotated[
    str,
    _matching(WORD, "be made of letters, digits and _./:@%+=,- and not begin with a dash", 1024),
]
"""Text that stands in a command line that others assemble, so that nobody can be relied on to quote it."""

Words = tuple[ShellSafe, ...]

Wheel = Annotated[
    str,
    _matching(
        r"[A-Za-z0-9_./~][A-Za-z0-9_./+-]*\.whl", "be the path of a wheel, letters, digits and _./+- alone", 1024
    ),
]
"""A wheel's path; Ray's launcher hands it to a remote shell, and Docker fills in what looks like a variable."""

Name = Annotated[
    str, _matching(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "be made of letters, digits and _.- and begin with one of them", 128)
]
"""The name of a job, account, partition or user."""

SecurityGroup = Annotated[str, _matching(r"sg-[0-9a-f]{8,17}", "be the id of a security group, sg-...", 20)]

LocalPath = Annotated[str, _matching(r"/[A-Za-z0-9_./-]*", "be an absolute path of letters, digits and _./-", 24)]
"""A folder of each node. Ray's sockets lie below it, and the path of a socket may have 107 characters."""

DnsLabel = Annotated[
    str,
    _matching(
        r"[a-z]([a-z0-9-]*[a-z0-9])?",
        "be a DNS label (lower-case letters, digits and dashes, beginning with a letter, not ending with a dash)",
        40,
    ),
]
"""KubeRay appends to names: it takes 47 characters for a job and 53 for a cluster, of the 63 of a label."""

ImageName = Annotated[
    str,
    _matching(r"[a-z0-9][a-z0-9._/:@-]*(:[A-Za-z0-9._-]+)?", "be the name of an image: REGISTRY/NAME:TAG", 255),
]

Package = Annotated[
    str,
    _matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]*(==[A-Za-z0-9._+!-]+)?", "be the name of a package, perhaps with ==VERSION", 128
    ),
]


def _is_host(text: str) -> bool:
    labels = re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*", text)
    return (bool(labels) and len(text) <= 253) or bool(ipaddress.ip_address(text))


Host = Annotated[str, _checked(_is_host, "be a host name or an IP address")]

_QUANTITY = re.compile(r"([1-9][0-9]{0,6})(Mi|Gi|Ti)")
_BYTES = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

Bytes = Annotated[str, _checked(_QUANTITY.fullmatch, "be an amount such as 512Mi, 16Gi or 2Ti")]


def quantity(text: str) -> int:
    """The bytes of a `Bytes`."""
    match = _QUANTITY.fullmatch(text)
    assert match, text
    return int(match[1]) * _BYTES[match[2]]


def at_least(value: int, bound: int, name: str) -> int:
    """`value`, which must not be below the field `name`, whose value is `bound`."""
    if value < bound:
        raise ValueError(f"be at least {name}, which is {bound}")
    return value


_LABEL_VALUE = r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"
_LABEL_KEY = rf"([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_LABEL_VALUE[:-1]}"

Labels = dict[
    Annotated[str, _matching(_LABEL_KEY, "be the key of a Kubernetes label", 317)],
    Annotated[str, _matching(_LABEL_VALUE, "be the value of a Kubernetes label", 63)],
]
