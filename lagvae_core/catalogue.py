"""Catalogues: the classes of strategies, models, kinds of data and studies by their `kind`, open to plugins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Annotated, Any, Generic, TypeVar, Union

from pydantic import BaseModel, Field, TypeAdapter
from pydantic_core import core_schema

__all__ = ["Catalogue", "Origin", "catalogue_of", "kind_of", "own_classes"]

Config = TypeVar("Config", bound=BaseModel)


@dataclass(frozen=True)
class Origin:
    """Where a class comes from that is not part of lagvae.

    Args:
        plugin: Name of the plugin: the name of its file, or of its entry point.
        sha256: SHA-256 (hex) of the text of the file that defines the class.
    """

    plugin: str
    sha256: str


class Catalogue(Mapping[str, type[Config]], Generic[Config]):
    """The classes of one role by `kind`: those of lagvae, and those of the plugins that are loaded.

    A catalogue is also the metadata of a type annotation: a field of type `Annotated[Strategy, CATALOGUE]` accepts an
    instance of any class in the catalogue, or a mapping whose `kind` names one. Classes that are added later count.

    Args:
        base: Base class of the role.
        noun: What the classes are, for messages: "strategy", "model", "kind of data", "study".
        group: Group of the entry points with which installed packages offer classes. They are loaded at the first use
            of the catalogue.
        classes: Classes of lagvae.
    """

    def __init__(self, base: Any, noun: str, group: str, classes: Iterable[type[Config]]) -> None:
        self.base, self.noun, self.group = base, noun, group
        self._own: dict[str, type[Config]] = {kind_of(config): config for config in classes}
        self._installed = False
        self._origins: dict[str, Origin] = {}
        self._adapter: TypeAdapter[Any] | None = None
        _BY_BASE[base] = self

    @property
    def _classes(self) -> dict[str, type[Config]]:
        if not self._installed:
            self._installed = True
            if entry_points(group=self.group):
                # The checks of a class know all catalogues, so they are in a layer above this one.
                import_module("lagvae_core.plugins").load_installed(self)
        return self._own

    def __getitem__(self, kind: str) -> type[Config]:
        return self._classes[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other if isinstance(other, Catalogue) else dict(self) == other

    def origin(self, kind: str) -> Origin | None:
        """Return where a class comes from; None for a class of lagvae."""
        return self._origins.get(kind)

    def add(self, config: type[Config], origin: Origin) -> None:
        """Add a class of a plugin, replacing an earlier version of the same plugin."""
        kind = kind_of(config)
        earlier = self._origins.get(kind)
        assert kind not in self or (earlier is not None and earlier.plugin == origin.plugin), f"{kind} is taken"
        self._classes[kind], self._origins[kind] = config, origin
        self._adapter = None

    def remove(self, plugin: str) -> None:
        """Remove all classes of a plugin."""
        for kind in [kind for kind, origin in self._origins.items() if origin.plugin == plugin]:
            del self._classes[kind], self._origins[kind]
            self._adapter = None

    def validate(self, value: Any) -> Any:
        """Return the instance that `value`, a mapping with `kind` or an instance, stands for.

        Raises:
            pydantic.ValidationError: The kind is unknown or a field is invalid.
        """
        if self._adapter is None:
            union: Any = Union.__getitem__(tuple(self._classes.values()))
            discriminated: Any = Annotated[union, Field(discriminator="kind")]
            self._adapter = TypeAdapter(discriminated)
        return self._adapter.validate_python(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)


_BY_BASE: dict[type[BaseModel], Catalogue[Any]] = {}


def catalogue_of(base: Any) -> Catalogue[Any] | None:
    """Return the catalogue whose base class is `base`; None if there is none."""
    return _BY_BASE.get(base) if isinstance(base, type) else None


def kind_of(config: type[BaseModel]) -> str:
    """Return the `kind` of a class: the default of its field."""
    return str(config.model_fields["kind"].default)


def own_classes(module: ModuleType, base: Any) -> list[type[Any]]:
    """Return the subclasses of `base` that `module` itself defines with a `kind` of their own."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
        if "kind" in vars(value).get("__annotations__", {}) and value is not base
    ]
