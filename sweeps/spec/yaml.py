"""Loading and editing of YAML, with limits on size and nesting; edits keep comments.

Every key is text, as written. Values are those of YAML 1.1, except that 1e-3 is a number and a date is text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

__all__ = [
    "MAX_CHARACTERS",
    "MAX_DEPTH",
    "MAX_NODES",
    "dotted_items",
    "dump_yaml",
    "edit_yaml",
    "load_yaml",
    "set_dotted",
]

MAX_CHARACTERS = 200_000
"""Largest number of characters of a YAML text."""

MAX_NODES = 5_000
"""Largest number of keys and values in a YAML text, where each use of an alias counts as the content of its anchor."""

MAX_DEPTH = 50
"""Largest depth of nested lists and mappings."""

MERGE = "tag:yaml.org,2002:merge"
TIMESTAMP = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """Loader of YAML 1.1 whose keys are text, and whose values are only those that JSON has.

    It composes a graph of nodes in which an alias costs nothing, measures the graph, and only then constructs values.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012  (declared by PyYAML)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._composed = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._composed += 1
        self._depth += 1
        _check_limits(self._composed, self._depth)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _measure(node, {})
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            # PyYAML raises these for a text that does not have the form of its tag, such as !!bool abc.
            problem = f"{_shortened(node.value)} is not valid as {_kind(node)}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    own = [(_key(key), key) for key, _ in node.value if key.tag != MERGE]
    seen: set[str] = set()
    for text, key in own:
        if text in seen:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {text!r}", key.start_mark)
        seen.add(text)
    loader.flatten_mapping(node)
    return {_key(key): loader.construct_object(value, deep=True) for key, value in node.value}


def _key(node: yaml.Node) -> str:
    """Return a key as text, as it is written: YAML 1.1 would read `no` as false and `1` as a number."""
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.constructor.ConstructorError(None, None, "a key must be text", node.start_mark)
    return str(node.value)


def _measure(node: yaml.Node, measured: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Return the number of nodes and the depth that `node` has once its aliases are replaced by their content.

    Args:
        node: A node of a composed graph.
        measured: Results by id of the node; None for a node whose content is being measured.

    Raises:
        ValueError: A limit is exceeded, or a node contains itself.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1, 1
    if id(node) in measured:
        result = measured[id(node)]
        if result is None:
            raise yaml.composer.ComposerError(None, None, "an anchor contains its own alias", node.start_mark)
        return result
    measured[id(node)] = None
    is_mapping = isinstance(node, yaml.MappingNode)
    nodes, depth = 1, 1
    for child in (part for pair in node.value for part in pair) if is_mapping else node.value:
        inner_nodes, inner_depth = _measure(child, measured)
        nodes, depth = nodes + inner_nodes, max(depth, 1 + inner_depth)
        _check_limits(nodes, depth)
    measured[id(node)] = nodes, depth
    return nodes, depth


def _check_limits(nodes: int, depth: int) -> None:
    if nodes > MAX_NODES:
        raise yaml.YAMLError(f"it has more than {MAX_NODES:,} keys and values, where aliases count as their content")
    if depth > MAX_DEPTH:
        raise yaml.YAMLError(f"it is nested more than {MAX_DEPTH} levels deep")


def _kind(node: yaml.Node) -> str:
    """Return the tag of a node in its short form, such as `!!bool`."""
    return str(node.tag).replace("tag:yaml.org,2002:", "!!")


def _shortened(value: object, characters: int = 60) -> str:
    shown = repr(value)
    return shown if len(shown) <= characters else f"{shown[:characters]}..."


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
for _tag in ("binary", "omap", "pairs", "set", "timestamp"):  # JSON has no such values
    _Loader.yaml_constructors.pop(f"tag:yaml.org,2002:{_tag}")


class _Dumper(yaml.SafeDumper):
    """Dumper that quotes each text that `_Loader` would read as something else."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
    )


def load_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ValueError: The text is not valid YAML, has a duplicate key, exceeds a limit (`MAX_CHARACTERS`, `MAX_NODES`,
            `MAX_DEPTH`), or has a tag for values that JSON does not have. For most errors, the message gives line and
            column.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters, more than {MAX_CHARACTERS:,}")
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def dotted_items(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings by dotted key. An empty mapping is a value itself."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from dotted_items(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted `key` to `value`, creating missing mappings on its path."""
    *path, last = key.split(".")
    for part in path:
        inner = values.get(part)
        values[part] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[part]
    values[last] = value


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Return a text that `load_yaml` reads as `values`."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True))


def edit_yaml(text: str, overrides: Mapping[str, Any]) -> str:
    """Return the text of a YAML mapping with the dotted keys of `overrides` set, keeping comments and order.

    Args:
        text: Text of a mapping that `load_yaml` accepts.
        overrides: Dotted keys and their values.

    Returns:
        A text that `load_yaml` reads as the edited mapping. All comments are lost if editing in place does not give
        this mapping, for example because a change inside an anchor would also change its aliases.
    """
    expected = load_yaml(text)
    for key, value in overrides.items():
        set_dotted(expected, key, value)
    try:
        edited = _edit_in_place(text, overrides)
        # `repr` distinguishes 1, 1.0 and True, and preserves the order of keys.
        if repr(load_yaml(edited)) == repr(expected):
            return edited
    except Exception:
        pass  # ruamel.yaml rejects some texts that PyYAML accepts
    return dump_yaml(expected)


def _edit_in_place(text: str, overrides: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    editor = YAML(typ="rt")
    editor.preserve_quotes = True
    editor.width = 120
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        document = editor.load(text)
        for key, value in overrides.items():
            *path, last = key.split(".")
            node = document
            for part in path:
                if not isinstance(node.get(part), Mapping):
                    node[part] = {}
                node = node[part]
            node[last] = _quoted_where_needed(value)
        stream = io.StringIO()
        editor.dump(document, stream)
    return stream.getvalue()


def _quoted_where_needed(value: Any) -> Any:
    """Return `value` with quotes around each string that YAML would read as something else, such as "no"."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, str):
        try:
            return value if load_yaml(value) == value else DoubleQuotedScalarString(value)
        except ValueError:
            return DoubleQuotedScalarString(value)
    if isinstance(value, Mapping):
        return {_quoted_where_needed(key): _quoted_where_needed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_quoted_where_needed(inner) for inner in value]
    return value
