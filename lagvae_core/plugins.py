"""Plugins: strategies, models, kinds of data and studies from a user's file or from an installed package.

A plugin is a Python file. Its public classes with a `kind` of their own join the catalogues of lagvae. The SHA-256 of
its text is part of the identity of every configuration that uses one of them.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import linecache
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from lagvae_core.catalogue import Catalogue, Origin, kind_of, own_classes
from lagvae_core.data import DATA_SOURCES
from lagvae_core.errors import ConfigError, ValidationIssue, collect_issues
from lagvae_core.models import MODELS
from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.slots import TrainingComponents
from lagvae_core.studies import STUDIES
from lagvae_core.training.record import CURVE_COLUMNS, METRIC_COLUMNS

__all__ = [
    "MAX_BYTES",
    "Plugin",
    "class_issues",
    "load_installed",
    "load_plugin",
    "load_plugins",
    "loaded_plugins",
    "read_plugin",
    "unload_plugins",
]

MAX_BYTES = 10**6
"""Largest size of a plugin. It travels with every job."""

CATALOGUES: tuple[Catalogue[Any], ...] = (CATALOGUE, MODELS, DATA_SOURCES, STUDIES)

_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FILE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}\.py")


@dataclass(frozen=True)
class Plugin:
    """The text of a plugin.

    Args:
        name: Name of the file, such as `my_remedy.py`. Plugins that are loaded together have different names.
        text: Its content.
        path: Where it was read, for error messages.
    """

    name: str
    text: str
    path: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the text (hex)."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def module_name(self) -> str:
        """Name under which Python knows the module while the plugin is loaded."""
        return f"lagvae_plugin_{self.name.removesuffix('.py')}"


_LOADED: dict[str, Plugin] = {}


def loaded_plugins() -> Mapping[str, Plugin]:
    """Return the plugins that are loaded from files, by name."""
    return dict(_LOADED)


def read_plugin(path: str | Path) -> Plugin:
    """Read a plugin without running it.

    Args:
        path: A Python file.

    Raises:
        ConfigError: The file cannot be read, or its name is not that of a Python module.
    """
    file = Path(path).expanduser()
    hint = "Give the path of a Python file that defines a strategy, model, kind of data or study."
    if not _FILE_NAME.fullmatch(file.name):
        message = "must have a name of letters, digits and _ that ends with .py"
        raise ConfigError([ValidationIssue("plugins", message, hint, str(path))])
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError([ValidationIssue("plugins", f"must have at most {MAX_BYTES:,} bytes", hint, str(path))])
        text = content.decode().replace("\r\n", "\n")
    except FileNotFoundError:
        raise ConfigError([ValidationIssue("plugins", "must exist", hint, str(path))]) from None
    except UnicodeDecodeError as error:
        message = f"must be valid UTF-8 (error at byte {error.start})"
        raise ConfigError([ValidationIssue("plugins", message, "Save the file as UTF-8.", str(path))]) from None
    except (OSError, ValueError) as error:
        message = f"must be a readable file ({getattr(error, 'strerror', None) or error})"
        raise ConfigError([ValidationIssue("plugins", message, hint, str(path))]) from None
    return Plugin(file.name, text, str(path))


def load_plugins(plugins: Sequence[str | Path | Plugin]) -> list[Plugin]:
    """Load several plugins; see `load_plugin`.

    Raises:
        ConfigError: A plugin is invalid, or two of them have the same name. The error lists the issues of all.
    """
    issues: list[ValidationIssue] = []
    loaded: dict[str, Plugin] = {}
    for item in plugins:
        with collect_issues(issues):
            plugin = item if isinstance(item, Plugin) else read_plugin(item)
            if (other := loaded.get(plugin.name)) is not None and other != plugin:
                message, hint = f"must not have the name of {other.path}", "Rename one of the files."
                issues.append(ValidationIssue("plugins", message, hint, plugin.path))
                continue
            loaded[plugin.name] = load_plugin(plugin)
    if issues:
        raise ConfigError(issues)
    return list(loaded.values())


def load_plugin(plugin: str | Path | Plugin) -> Plugin:
    """Run a plugin and add its classes to the catalogues.

    A plugin that is already loaded with the same text is not run again. Another text under the same name replaces it.

    Args:
        plugin: Path of a Python file, or a plugin that was read before.

    Raises:
        ConfigError: The file cannot be read, fails to run, defines no class, or one of its classes is invalid. Each
            issue names the file and the line. Nothing has been added to any catalogue.
    """
    if not isinstance(plugin, Plugin):
        plugin = read_plugin(plugin)
    if (earlier := _LOADED.get(plugin.name)) is not None and earlier.text == plugin.text:
        return earlier
    module = _run(plugin)
    classes = [
        (catalogue, config)
        for catalogue in CATALOGUES
        for config in own_classes(module, catalogue.base)
        if not config.__name__.startswith("_")
    ]
    if not classes:
        message = "must define at least one public class that derives from Strategy, ModelConfig, DataSource or Study"
        hint = "Give the class a field `kind` of its own: kind: Literal['my_name'] = 'my_name'."
        raise ConfigError([ValidationIssue(plugin.path, message, hint)])
    issues = [
        ValidationIssue(f"{plugin.path}:{_line_of(plugin.text, config.__name__)}", message, hint)
        for catalogue, config in classes
        for message, hint in class_issues(config, catalogue, plugin.name)
    ]
    kinds = [(catalogue.noun, kind_of(config)) for catalogue, config in classes if not issues]
    for noun, kind in {entry for entry in kinds if kinds.count(entry) > 1}:
        issues.append(ValidationIssue(plugin.path, f"must define the {noun} {kind} only once", "Rename one of them."))
    if issues:
        raise ConfigError(issues)
    for catalogue in CATALOGUES:
        catalogue.remove(plugin.name)
    for catalogue, config in classes:
        catalogue.add(config, Origin(plugin.name, plugin.sha256))
    _LOADED[plugin.name] = plugin
    return plugin


def load_installed(catalogue: Catalogue[Any]) -> None:
    """Add the classes that installed packages offer under the entry points of a catalogue.

    A class that cannot be imported or is invalid is left out with a warning, because commands that do not use it must
    still work.
    """
    for entry in entry_points(group=catalogue.group):
        package = entry.dist.name if entry.dist is not None else entry.value
        where = f"{package}: the entry point {entry.name} ({entry.value})"
        hint = "Correct or uninstall the package."
        try:
            config = entry.load()
            text = inspect.getsource(sys.modules[config.__module__])
        except Exception as error:
            warnings.warn(f"{where} cannot be loaded: {type(error).__name__}: {error}. {hint}", stacklevel=2)
            continue
        if not (isinstance(config, type) and issubclass(config, catalogue.base)):
            warnings.warn(f"{where} must be a subclass of {catalogue.base.__name__}. {hint}", stacklevel=2)
        elif issues := [message for message, _ in class_issues(config, catalogue, config.__module__)]:
            warnings.warn(f"{where} is left out. {'; '.join(issues)}. {hint}", stacklevel=2)
        else:
            catalogue.add(config, Origin(config.__module__, hashlib.sha256(text.encode()).hexdigest()))


def unload_plugins() -> None:
    """Remove the classes of all plugins that were loaded from files."""
    for name, plugin in _LOADED.items():
        sys.modules.pop(plugin.module_name, None)
        for catalogue in CATALOGUES:
            catalogue.remove(name)
    _LOADED.clear()


def _run(plugin: Plugin) -> ModuleType:
    """Run the text as a module of its own and return the module."""
    module = ModuleType(plugin.module_name)
    module.__file__ = plugin.path
    earlier = sys.modules.get(plugin.module_name)
    sys.modules[plugin.module_name] = module  # pydantic looks up annotations there
    # Tracebacks and `inspect.getsource` show the text, although the file may be on another machine.
    linecache.cache[plugin.path] = (len(plugin.text), None, plugin.text.splitlines(keepends=True), plugin.path)
    try:
        exec(compile(plugin.text, plugin.path, "exec"), vars(module))
    except Exception as error:
        if earlier is None:
            del sys.modules[plugin.module_name]
        else:
            sys.modules[plugin.module_name] = earlier
        where = f"{plugin.path}:{_failing_line(plugin, error)}"
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
        message = f"must run without an error, but raised {reason}"
        raise ConfigError([ValidationIssue(where, message, "Correct the plugin.")]) from None
    return module


def _failing_line(plugin: Plugin, error: Exception) -> int:
    """Return the line of the plugin at which `error` was raised, directly or in code that it called."""
    if isinstance(error, SyntaxError) and error.filename == plugin.path:
        return error.lineno or 1
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == plugin.path]
    return (lines[-1] if lines else None) or 1


def _line_of(text: str, name: str) -> int:
    """Return the line at which the class `name` begins; 1 if it is not defined at the top level."""
    found = (node.lineno for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == name)
    return next(found, 1)


def class_issues(config: type[BaseModel], catalogue: Catalogue[Any], plugin: str) -> Iterator[tuple[str, str]]:
    """Yield a message and a hint for each requirement that a class of a plugin does not meet.

    Only the declarations are checked. `lagvae_core.testing` checks the behaviour.

    Args:
        config: The class.
        catalogue: Catalogue that the class is to join.
        plugin: Name of the plugin. Its own earlier classes do not count as taken.
    """
    name, kind = config.__name__, config.model_fields["kind"].default
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        hint = "For example: kind: Literal['my_name'] = 'my_name'."
        yield f"{name}.kind: must have a default of lower-case letters, digits and _", hint
        return
    taken = kind in catalogue and ((origin := catalogue.origin(kind)) is None or origin.plugin != plugin)
    if taken:
        origin = catalogue.origin(kind)
        owner = "lagvae" if origin is None else origin.plugin
        yield f"{name}.kind: the {catalogue.noun} {kind} is already defined by {owner}", "Choose another kind."
    if abstract := sorted(getattr(config, "__abstractmethods__", ())):
        yield f"{name}: must implement {' and '.join(abstract)}", ""
    if not (vars(config).get("__doc__") or "").strip():
        yield f"{name}: must have a docstring", "Its first sentence appears in the catalogue."
    for field, info in config.model_fields.items():
        if field != "kind" and not info.description:
            yield f"{name}.{field}: must have a description", "Use Annotated[..., Field(description='...')]."
        if field != "kind" and info.is_required() and catalogue is not DATA_SOURCES:
            yield f"{name}.{field}: must have a default", "The default is the value that the paper recommends."
    yield from _declaration_issues(config, catalogue)


def _declaration_issues(config: Any, catalogue: Catalogue[Any]) -> Iterator[tuple[str, str]]:
    """Yield the issues with the class variables of a role."""
    name = config.__name__
    columns = getattr(config, "columns", ())
    if catalogue is CATALOGUE:
        slots = getattr(config, "slots", None)
        known = set(TrainingComponents.__dataclass_fields__)
        if not isinstance(slots, frozenset) or not slots <= known:
            unknown = f", got {sorted(slots - known)}" if isinstance(slots, frozenset) else ""
            hint = f"Slots: {', '.join(sorted(known))}."
            yield f"{name}.slots: must be a frozenset of slots{unknown}", hint
        if not isinstance(getattr(config, "paper", None), str):
            yield f"{name}.paper: must name the source in one line", "For example: paper: ClassVar[str] = 'this work'."
    elif catalogue is MODELS:
        if not isinstance(getattr(config, "data_kinds", None), frozenset):
            hint = f"Kinds of data: {', '.join(DATA_SOURCES)}."
            yield f"{name}.data_kinds: must be a frozenset of kinds of data", hint
    elif catalogue is DATA_SOURCES:
        for attribute in ("unit", "partition", "batching"):
            if attribute not in config.model_fields and not hasattr(config, attribute):
                value = {"unit": "'word'", "partition": "'fixed_random'", "batching": "None"}[attribute]
                hint = f"For example: {attribute}: ClassVar[Any] = {value}."
                yield f"{name}.{attribute}: must be declared as a field or class variable", hint
    elif not columns and not config.tables:
        yield f"{name}: must have columns or tables", "They declare what the study measures."
    taken = {column.name for column in (*METRIC_COLUMNS, *CURVE_COLUMNS)}
    for column in columns:
        if column.name in taken:
            yield f"{name}.columns: the column {column.name} already exists", "Choose another name."
