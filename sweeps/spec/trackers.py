"""The section `trackers` of a sweep file: the experiment trackers that mirror the sweep."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.settings import FrozenConfig

__all__ = ["MLflowSpec", "TensorBoardSpec", "TrackersSpec", "WandbSpec"]

Name = Annotated[str, Field(min_length=1)]


class TensorBoardSpec(FrozenConfig):
    """TensorBoard: event files, in a folder of its own for each run."""

    folder: Annotated[
        Name | None,
        Field(
            description="folder of the event files, which are written to its subfolder with the name of the sweep; "
            "null: `tensorboard` in the folder of the sweep"
        ),
    ] = None


class MLflowSpec(FrozenConfig):
    """MLflow: a run of MLflow for the sweep, and below it one for each run."""

    uri: Annotated[
        Name | None,
        Field(
            description="tracking server or store, such as `http://127.0.0.1:5000`; null: the environment variable "
            "MLFLOW_TRACKING_URI, or else the SQLite file `mlflow.db` in the folder of all results"
        ),
    ] = None
    experiment: Annotated[
        Name | None,
        Field(description="experiment; null: the environment variable MLFLOW_EXPERIMENT_NAME, or the sweep's name"),
    ] = None

    @field_validator("uri")
    @classmethod
    def _check_password(cls, uri: str | None) -> str | None:
        """Refuse a password. The message does not repeat it, and the results folder would contain it."""
        if uri is not None and "@" in uri and urlsplit(uri).password is not None:
            hint = "Remove it, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI."
            raise ConfigError([ValidationIssue("trackers.mlflow.uri", "must not contain a password", hint)])
        return uri


class WandbSpec(FrozenConfig):
    """Weights & Biases: one group for each arm. The API key comes from `wandb login` or WANDB_API_KEY."""

    project: Annotated[
        Name | None, Field(description="project; null: the environment variable WANDB_PROJECT, or the sweep's name")
    ] = None
    entity: Annotated[
        Name | None,
        Field(description="user or team; null: the environment variable WANDB_ENTITY, or the default of the account"),
    ] = None
    mode: Annotated[
        Literal["online", "offline"] | None,
        Field(description="offline: files for `wandb sync`; null: the environment variable WANDB_MODE, or else online"),
    ] = None


class TrackersSpec(FrozenConfig):
    """Experiment trackers that mirror the sweep while it runs: a list of names, or a mapping to their options.

    `trackers: [tensorboard, mlflow]` uses the defaults; `trackers: {wandb: {mode: offline}}` sets options. Trackers
    change no result and no `config_id`. docs/trackers.md says what each of them shows.
    """

    tensorboard: Annotated[TensorBoardSpec | None, Field(description="TensorBoard, see below")] = None
    mlflow: Annotated[MLflowSpec | None, Field(description="MLflow, see below")] = None
    wandb: Annotated[WandbSpec | None, Field(description="Weights & Biases, see below")] = None

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        """Return the mapping that a list of names stands for; a name without options has the defaults."""
        if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
            value = dict.fromkeys(value)
        if isinstance(value, dict):
            return {name: {} if options is None else options for name, options in value.items()}
        if isinstance(value, cls):
            return value
        hint = "Write, for example, [tensorboard, mlflow] or {wandb: {mode: offline}}."
        message = f"must be a list of {', '.join(cls.model_fields)}, or a mapping of them to options"
        raise ConfigError([ValidationIssue("trackers", message, hint, value)])

    @property
    def used(self) -> dict[str, FrozenConfig]:
        """Options of the trackers that the sweep uses, by name."""
        options = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in options.items() if value is not None}
