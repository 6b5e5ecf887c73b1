"""Checks of paths and URIs that are sent to a cluster, where each must refer to the same files on every node."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from lagvae_core.errors import MISSING, ConfigError, ValidationIssue
from sweeps.storage.folder import check_uri

if TYPE_CHECKING:
    from sweeps.spec.sweep import SweepSpec

__all__ = ["check_paths", "check_results", "data_path"]

MAX_CHARACTERS = 1000
"""Maximum length of a path or URI of results."""

OPEN_OPTIONS = {"region", "scheme", "endpoint_override", "allow_bucket_creation"}
"""Options that are allowed in the URI of an object store, because they contain no secret."""


def check_results(results: str | None) -> str:
    """Return `results` in normal form. Jobs are found by this form, so all spellings of a path must have the same one.

    Raises:
        ConfigError: `results` is neither an absolute path nor a usable URI, or it may contain a key or password.
    """
    location = results or ""
    if location.startswith("file:///"):
        location = unquote(location.removeprefix("file://"))
    named = bool(location.strip("/.")) or "://" in location
    printable = location.isprintable() and len(location) <= MAX_CHARACTERS
    if not (named and printable and (location.startswith("/") or "://" in location.rstrip(":/"))):
        message = "must be an absolute path or a URI that every node can write to"
        hint = "Write, for example, /shared/results or s3://BUCKET/results."
        raise ConfigError([ValidationIssue("--results", message, hint, location[:100] or MISSING)])
    if "://" not in location:
        return os.path.normpath(f"/{location.lstrip('/')}")
    _check_no_secrets(location)
    check_uri(location)
    return location.rstrip("/")


def _check_no_secrets(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        user = parts.username is not None and parts.scheme in ("s3", "gs", "gcs") and parts.username != "anonymous"
        unknown = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} - OPEN_OPTIONS
        secret = user or parts.password is not None or bool(unknown)
    except ValueError:
        secret = True
    if secret:
        message = "must contain no keys, passwords or unknown options, because all users of the cluster can see the URI"
        hint = "Give the nodes access through a role or through environment variables."
        raise ConfigError([ValidationIssue("--results", message, hint, f"{uri.partition('://')[0]}://...")])


def data_path(spec: SweepSpec) -> str | None:
    """Return the path of the sweep's data on the cluster; None if there are no files.

    Raises:
        ConfigError: The path is relative.
    """
    from lagvae_core.data.files import is_bundled
    from sweeps.spec.sweep import parse_yaml  # imports torch, which the other functions do not need

    trial = parse_yaml(spec.source, spec.name).get("trial")
    data = trial.get("data") if isinstance(trial, Mapping) else None
    path = data.get("path") if isinstance(data, Mapping) else None
    if not isinstance(path, str) or is_bundled(path):
        return None
    check_paths([path], "trial.data.path")
    return path


def check_paths(paths: Sequence[str], key: str = "--data") -> Sequence[str]:
    """Return `paths`, after checking that all of them are absolute. `key` is the option or field that contains them.

    Raises:
        ConfigError: A path is relative.
    """
    message, hint = "must be an absolute path on the nodes of the cluster", "Write the whole path, beginning with /."
    issues = [ValidationIssue(key, message, hint, path) for path in paths if not os.path.isabs(path)]
    if issues:
        raise ConfigError(issues)
    return paths
