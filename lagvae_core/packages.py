"""The packages of lagvae under their own names, although another folder on the path may be called the same."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

__all__ = ["find_foreign", "main", "use_own_package"]

ROOT = Path(__file__).resolve().parent.parent
"""The folder that contains `lagvae_core`, `sweeps` and `cluster`."""


def use_own_package(name: str) -> None:
    """Import the package `name` from the folder that contains `lagvae_core`.

    `sweeps` and `cluster` are names that users give to folders of their own. A folder with the same name earlier on
    the path would otherwise take the place of the package. If there is one, PYTHONPATH is extended, so that processes
    that this process starts, such as the workers of Ray, find the package of lagvae as well.

    Ray gives each package of a submitted job a folder of its own. The path is then left as it is.

    Raises:
        ImportError: Another package `name` is already imported.
    """
    if not (ROOT / name).is_dir():
        return
    if (module := sys.modules.get(name)) is not None:
        places = [_resolved(path) for path in getattr(module, "__path__", [])]
        if str(ROOT / name) not in places:
            place = getattr(module, "__file__", None) or ", ".join(places)
            message = f"lagvae has a package called {name}, but {place} was imported under this name."
            raise ImportError(f"{message} Rename it, or import lagvae in another process.", name=name)
        return
    spec = PathFinder.find_spec(name, [str(ROOT)])
    assert spec is not None, name
    module = module_from_spec(spec)
    sys.modules[name] = module
    if spec.loader is not None:
        spec.loader.exec_module(module)
    if find_foreign(name) is not None:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def find_foreign(name: str, folder: Path | None = None) -> str | None:
    """Return the file or folder that Python would import as `name` instead of the package of lagvae.

    Args:
        name: Name of a package of lagvae.
        folder: The only folder to search; by default, the whole path.

    Returns:
        Its path; None if nothing is found, or a package of lagvae, in this folder or in another checkout.
    """
    spec = PathFinder.find_spec(name, None if folder is None else [str(folder)])
    if spec is None or spec.loader is None:  # A folder without __init__.py gives way to any package.
        return None
    places = list(spec.submodule_search_locations or [str(spec.origin)])
    is_own = any((Path(place).parent / "lagvae_core" / Path(__file__).name).is_file() for place in places)
    return None if is_own else places[0]


def _resolved(path: str) -> str:
    return str(Path(path).resolve())


def main() -> None:
    """Entry point of the command `lagvae`."""
    use_own_package("sweeps")
    import_module("sweeps.cli.app").main()
