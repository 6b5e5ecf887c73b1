"""Job packages: copies of a job's file and Python packages, so that nothing else is uploaded."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lagvae_core.errors import LagvaeError

__all__ = ["LIMIT_BYTES", "JobPackage", "PackageTooLarge", "folder_of", "packed"]

LIMIT_BYTES = 5 * 10**6
"""Maximum size of a job package. Code is far smaller; data and results must not be sent through the head node."""

EXCLUDED = ("__pycache__", "*.py[co]", ".*")


class PackageTooLarge(LagvaeError):
    """A job package exceeds `LIMIT_BYTES`, probably because it contains data."""


@dataclass(frozen=True)
class JobPackage:
    """A working directory with only the files of the job, the folders of its packages, and their total size."""

    working_dir: Path
    packages: tuple[Path, ...]
    size_bytes: int


def folder_of(package: str) -> Path:
    """Return the folder of a Python package that this process can import."""
    spec = find_spec(package)
    assert spec is not None, package
    assert spec.origin is not None, package
    return Path(spec.origin).parent


@contextmanager
def packed(files: Mapping[str, str], packages: Iterable[str]) -> Iterator[JobPackage]:
    """Context manager. Builds a job package in a temporary folder, which is removed after the block.

    Args:
        files: Texts of the job's files by name.
        packages: Names of the Python packages to include.

    Raises:
        PackageTooLarge: The job package is larger than `LIMIT_BYTES`.
    """
    with tempfile.TemporaryDirectory(prefix="lagvae-job-") as temporary:
        folder = Path(temporary)
        work = folder / "work"
        work.mkdir()
        for name, content in files.items():
            (work / name).write_text(content, encoding="utf-8")
        copies = []
        for package in packages:
            copies.append(folder / package)
            shutil.copytree(folder_of(package), copies[-1], ignore=shutil.ignore_patterns(*EXCLUDED))
        sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        if (total := sum(sizes.values())) > LIMIT_BYTES:
            largest = max(sizes, key=lambda path: sizes[path])
            raise PackageTooLarge(
                f"The job package must be at most {LIMIT_BYTES / 1e6:g} MB, got {total / 1e6:.1f} MB, of which "
                f"{largest.relative_to(folder)} takes {sizes[largest] / 1e6:.1f} MB. Move data and results out of the "
                "packages."
            )
        yield JobPackage(work, tuple(copies), total)
