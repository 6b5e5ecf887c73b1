"""Where the trackers of a sweep write, from its options, the environment and its results folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.spec.trackers import MLflowSpec, TensorBoardSpec, TrackersSpec, WandbSpec
from sweeps.storage.folder import SweepFolder

__all__ = ["tracker_settings"]

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny", "wandb": "wandb"}
"""Package to install for each tracker, whose module is called like the tracker."""


def tracker_settings(spec: TrackersSpec, folder: SweepFolder) -> dict[str, dict[str, Any]]:
    """Return the settings of each tracker, which are the arguments of its class.

    Args:
        spec: The trackers of the sweep.
        folder: Folder of the sweep.

    Raises:
        ConfigError: A tracker is not installed, or its default place is below a results folder that is not local.
    """
    issues: list[ValidationIssue] = []
    local = folder.local_path
    settings: dict[str, dict[str, Any]] = {}
    for name, options in spec.used.items():
        if getattr(find_spec(name), "origin", None) is None:  # a folder `wandb`, as wandb creates it, is no package
            hint = f"Run: pip install {PACKAGES[name]}, or pip install 'lagvae[trackers]' for all trackers."
            issues.append(ValidationIssue(f"trackers.{name}", f"{PACKAGES[name]} is not installed", hint))
            continue
        match options:
            case TensorBoardSpec():
                settings[name] = _tensorboard(options, local, folder.sweep)
            case MLflowSpec():
                settings[name] = _mlflow(options, os.environ, local, folder.sweep)
            case WandbSpec():
                settings[name] = _wandb(options, os.environ, local, folder.sweep)
    for name, key, hint in (
        ("tensorboard", "folder", "Set it to a folder that this machine can write."),
        ("mlflow", "uri", "Set it, or MLFLOW_TRACKING_URI."),
    ):
        if name in settings and settings[name][key] is None:
            message = "must be set, because the results are not on a local file system"
            issues.append(ValidationIssue(f"trackers.{name}.{key}", message, hint, folder.results))
    if issues:
        raise ConfigError(issues)
    return {name: {**values, "sweep": folder.sweep} for name, values in settings.items()}


def _tensorboard(options: TensorBoardSpec, local: Path | None, sweep: str) -> dict[str, Any]:
    if options.folder is not None:
        return {"folder": os.path.abspath(Path(options.folder).expanduser() / sweep)}
    return {"folder": None if local is None else str(local / "tensorboard")}


def _mlflow(options: MLflowSpec, environment: Mapping[str, str], local: Path | None, sweep: str) -> dict[str, Any]:
    uri = options.uri or environment.get("MLFLOW_TRACKING_URI")
    experiment = options.experiment or environment.get("MLFLOW_EXPERIMENT_NAME") or sweep
    if uri is not None or local is None:
        return {"uri": uri, "experiment": experiment, "artifacts": None}
    artifacts = (local / "mlflow").as_uri()
    return {"uri": f"sqlite:///{local.parent / 'mlflow.db'}", "experiment": experiment, "artifacts": artifacts}


def _wandb(options: WandbSpec, environment: Mapping[str, str], local: Path | None, sweep: str) -> dict[str, Any]:
    return {
        "project": options.project or environment.get("WANDB_PROJECT") or sweep,
        "entity": options.entity or environment.get("WANDB_ENTITY"),
        "mode": options.mode or environment.get("WANDB_MODE"),
        "folder": environment.get("WANDB_DIR") or str(local or Path.cwd()),
    }
