"""Loading and editing of YAML: 1e-3 is read as a number, a duplicate key is an error, and edits keep comments."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Hashable, Mapping
from typing import Any

import yaml

__all__ = ["edit_yaml", "load_yaml", "set_dotted"]


class _Loader(yaml.SafeLoader):
    """Loader of YAML 1.1 that also reads 1e-3 as a number and rejects duplicate keys."""


def _construct_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, Hashable) and key in keys:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
        if isinstance(key, Hashable):
            keys.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)


def load_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ValueError: The text is not valid YAML, has a duplicate key or is nested too deeply. For syntax errors and
            duplicate keys, the message gives line and column.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # PyYAML raises ValueError for a date such as 2020-13-45
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("the nesting is too deep") from None


def set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted `key` to `value`, creating missing mappings on its path."""
    *path, last = key.split(".")
    for part in path:
        inner = values.get(part)
        values[part] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[part]
    values[last] = value


def edit_yaml(text: str, overrides: Mapping[str, Any]) -> str:
    """Return the text of a YAML mapping with the dotted keys of `overrides` set, keeping comments and order.

    Args:
        text: Text of a mapping that `load_yaml` accepts.
        overrides: Dotted keys and their values.

    Returns:
        A text that `load_yaml` reads as the edited mapping. All comments are lost if editing in place does not give
        this mapping, for example because a change inside an anchor would also change its aliases.
    """
    expected = {str(key): value for key, value in load_yaml(text).items()}
    for key, value in overrides.items():
        set_dotted(expected, key, value)
    try:
        edited = _edit_in_place(text, overrides)
        # `repr` distinguishes 1, 1.0 and True, and preserves the order of keys.
        if repr({str(key): value for key, value in load_yaml(edited).items()}) == repr(expected):
            return edited
    except Exception:
        pass  # ruamel.yaml rejects some texts that PyYAML accepts
    return yaml.safe_dump(expected, sort_keys=False)


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
    """Return `value` with quotes around each string that YAML 1.1 would read as something else, such as "no"."""
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
