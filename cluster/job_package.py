"""What travels with a job: its one file and the packages that it runs, copied so that nothing else goes along."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lagvae_core.errors import LagvaeError

__all__ = ["LIMIT_BYTES", "JobPackage", "PackageTooLarge", "folder_of", "packed"]

LIMIT_BYTES = 5 * 10**6
"""Code is far smaller; what is larger holds data or results, which must not go through the head node."""

NEVER = ("__pycache__", "*.py[co]", ".*")


class PackageTooLarge(LagvaeError):
    """What would travel is larger than code is."""


@dataclass(frozen=True)
class JobPackage:
    """A folder with the job's file alone, folders of packages, and the size of all of it."""

    working_dir: Path
    packages: tuple[Path, ...]
    size_bytes: int


def folder_of(package: str) -> Path:
    """Where a package that can be imported here lies."""
    spec = find_spec(package)
    assert spec is not None, package
    assert spec.origin is not None, package
    return Path(spec.origin).parent


@contextmanager
def packed(name: str, content: str, packages: Iterable[str]) -> Iterator[JobPackage]:
    """A parcel of the file `name` and the packages of these names; gone afterwards.

    Raises:
        ParcelTooLarge: it is larger than 5 MB.
    """
    with tempfile.TemporaryDirectory(prefix="lagvae-parcel-") as given:
        folder = Path(given)
        work = folder / "work"
        work.mkdir()
        (work / name).write_text(content, encoding="utf-8")
        copies = []
        for package in packages:
            copies.append(folder / package)
            shutil.copytree(folder_of(package), copies[-1], ignore=shutil.ignore_patterns(*NEVER))
        sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        if (total := sum(sizes.values())) > LIMIT_BYTES:
            largest = max(sizes, key=lambda path: sizes[path])
            raise PackageTooLarge(
                f"What travels to the cluster must be at most {LIMIT_BYTES / 1e6:g} MB, but is {total / 1e6:.1f} MB, "
                f"of which {largest.relative_to(folder)} takes {sizes[largest] / 1e6:.1f}. Keep data and results out "
                "of the packages."
            )
        yield JobPackage(work, tuple(copies), total)
