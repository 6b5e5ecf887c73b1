"""SweepSpec: a sweep file, validated as a whole before anything runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from lagvae_core.config.trial import TrialConfig, parse_trial
from lagvae_core.config.validation import issues_of
from lagvae_core.data.files import is_bundled
from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.plugins import Plugin, load_plugins, loaded_plugins
from lagvae_core.settings import FrozenConfig
from sweeps.spec.arms import parse_arms, parse_space
from sweeps.spec.sections import Direction, Keep, ResourceSpec, SearchSpec, StoppingSpec
from sweeps.spec.space import Arm, Dimension, Value, value_of
from sweeps.spec.trackers import TrackersSpec
from sweeps.spec.validation import (
    DEFAULT_OBJECTIVES,
    check_budget,
    check_objectives,
    check_search,
    check_stopping,
    validate_trials,
)
from sweeps.spec.yaml import MAX_CHARACTERS, edit_yaml, load_yaml
from sweeps.storage.identifiers import SWEEP_NAME

__all__ = ["SweepFile", "SweepSpec", "is_shipped", "load_spec", "parse_spec"]

LIBRARY = resources.files("sweeps") / "library"
"""The sweep files that ship with the package."""
DEFAULT_CONFIGURATIONS = 8
MAX_BYTES = 4 * MAX_CHARACTERS  # a character has at most 4 bytes in UTF-8


class SweepFile(FrozenConfig):
    """The top level of a sweep file. The contents of `trial` and `arms` are validated separately."""

    name: Annotated[str, Field(description="name of the sweep and of its results folder")]
    plugins: Annotated[
        tuple[str, ...],
        Field(max_length=100, description="Python files with strategies, models, kinds of data or studies of your own"),
    ] = ()
    trial: Annotated[dict[str, Any], Field(description="default configuration of all trials")] = Field(
        default_factory=dict
    )
    arms: Annotated[dict[str, Any], Field(description="arms by name, each a stack of strategies")]
    space: Annotated[
        dict[str, Any],
        Field(description="searched fields of all arms, such as `training.learning_rate`, each with a range"),
    ] = Field(default_factory=dict)
    objectives: Annotated[
        dict[str, Direction], Field(description="columns of the table to optimise, each with min or max")
    ] = Field(default_factory=lambda: dict(DEFAULT_OBJECTIVES))
    search: Annotated[SearchSpec, Field(description="settings of the search")] = SearchSpec()
    stopping: Annotated[
        Literal["none"] | StoppingSpec, Field(description="rule by which runs are stopped early, such as {rule: front}")
    ] = "none"
    resources: Annotated[ResourceSpec, Field(description="resources of each run")] = ResourceSpec()
    keep: Annotated[
        Keep,
        Field(description="files to keep of each finished run besides its results; `lagvae evaluate` needs its model"),
    ] = "nothing"
    trackers: Annotated[
        TrackersSpec, Field(description="experiment trackers that mirror the sweep, such as [tensorboard]; see below")
    ] = TrackersSpec()


@dataclass(frozen=True)
class SweepSpec:
    """A validated sweep file.

    Args:
        name: Name of the sweep.
        trial: Defaults of all trials as written in the file, except that a relative `data.path` is made absolute.
        defaults: The same defaults, completed to a full configuration without strategies.
        arms: The arms.
        space: Searched fields of the whole sweep.
        objectives: Columns of the table to optimise, each with "min" or "max".
        search: Settings of the search.
        stopping: Rule by which runs are stopped early; None trains every run to its end.
        resources: Resources of each run.
        keep: Files to keep of each finished run.
        trackers: Experiment trackers that mirror the sweep.
        plugins: The plugins that the trials use.
        warnings: Warnings about valid but questionable configurations. Each warning occurs once and names its arms.
        source: Text of the sweep file, overrides included.
    """

    name: str
    trial: Mapping[str, Any]
    defaults: TrialConfig
    arms: tuple[Arm, ...]
    space: tuple[Dimension, ...]
    objectives: Mapping[str, Direction]
    search: SearchSpec
    stopping: StoppingSpec | None
    resources: ResourceSpec
    keep: Keep
    trackers: TrackersSpec
    plugins: tuple[Plugin, ...]
    warnings: tuple[str, ...]
    source: str

    @property
    def hash(self) -> str:
        """12 hexadecimal digits that identify the content of the sweep, stored in the column `spec_hash`.

        Comments, layout, trackers, and keys of `trial` that are set to their defaults do not change the hash. Rows
        written by version 0.1.0 contain the hash of the text instead; no code compares the hashes of different rows.
        """
        content: dict[str, Any] = {
            "name": self.name,
            "trial": self.defaults.model_dump(mode="json"),
            "arms": [asdict(arm) for arm in self.arms],
            "space": [asdict(dimension) for dimension in self.space],
            "objectives": list(self.objectives.items()),
            "search": self.search.model_dump(mode="json"),
            "stopping": None if self.stopping is None else self.stopping.model_dump(mode="json"),
            "resources": self.resources.model_dump(mode="json"),
            "keep": self.keep,
        }
        if self.plugins:
            content["plugins"] = [[plugin.name, plugin.sha256] for plugin in self.plugins]
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def trial_config(self, arm: Arm, parameters: Mapping[str, Value], seed: int) -> TrialConfig:
        """Return the configuration of one run of `arm`.

        Raises:
            ConfigError: The trial with these parameters is invalid.
        """
        return parse_trial({**arm.values(self.trial, parameters), "seed": seed})

    def seeds(self, arm: Arm) -> tuple[int, ...]:
        """Return the seeds of each configuration of `arm`."""
        return arm.seeds if arm.seeds is not None else self.search.run_seeds

    def start_seeds(self, arm: Arm) -> int:
        """Return the number of seeds that every configuration of `arm` gets."""
        return len(arm.seeds) if arm.seeds is not None else self.search.start_seeds

    def points(self, arm: Arm) -> tuple[Mapping[str, Value], ...]:
        """Return the points of `arm` to try first.

        Unless the sweep file lists them, this is the point at which every searched field has its default. Fields whose
        range excludes their default are left out, and so are shared fields if arms are paired.
        """
        if arm.points is not None:
            return arm.points
        try:
            config = self.trial_config(replace(arm, dimensions=()), {}, seed=0)
        except ConfigError:
            return ()  # the sweep file was validated only at the bounds of ranges
        own = [d for d in arm.dimensions if not (d.shared and self.search.paired)]
        point = {d.name: value for d in own if d.contains(value := value_of(config, d.name))}
        return (point,) if point else ()

    def configurations(self, arm: Arm) -> int:
        """Return the number of configurations of `arm`: the size of its space, unless a smaller budget limits it."""
        size = arm.size()
        if self.search.sampler == "grid":
            assert size is not None
            return size
        count = arm.configurations or self.search.configurations
        assert count is not None
        return count if size is None else min(count, size)


def load_spec(where: str, overrides: Mapping[str, Any] | None = None) -> SweepSpec:
    """Load and validate a sweep file.

    Args:
        where: Path of the file, or name of a sweep that ships with the package, such as "quickstart".
        overrides: Dotted keys, such as `trial.training.epochs`, and the values that replace those in the file.

    Raises:
        ConfigError: The file cannot be read or is invalid; the error lists every problem.
    """
    return parse_spec(read_spec(where), source=where, overrides=overrides)


def is_shipped(name: str) -> bool:
    """Return whether a sweep called `name` ships with the package."""
    return SWEEP_NAME.fullmatch(name) is not None and LIBRARY.joinpath(f"{name}.yaml").is_file()


def read_spec(where: str) -> str:
    """Return the text of a sweep file; see `load_spec`.

    Raises:
        ConfigError: The file cannot be read.
    """
    path = Path(where)
    if is_shipped(where) and not path.is_file():
        return LIBRARY.joinpath(f"{where}.yaml").read_text("utf-8")
    return read_text(path)


def read_text(path: Path) -> str:
    """Return the text of a configuration file.

    Raises:
        ConfigError: The file does not exist, cannot be read, is too large or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) <= MAX_BYTES:
            return content.decode().replace("\r\n", "\n").replace("\r", "\n")
        message, hint = f"must have at most {MAX_CHARACTERS:,} characters", "Remove what the sweep does not need."
    except FileNotFoundError:
        names = sorted(p.name.removesuffix(".yaml") for p in LIBRARY.iterdir())
        shipped = ", ".join(name for name in names if not name.startswith("_"))
        message, hint = "must exist", f"Give the path of a YAML file, or the name of a shipped sweep: {shipped}."
    except UnicodeDecodeError as error:
        message, hint = f"must be valid UTF-8 (error at byte {error.start})", "Save the file as UTF-8."
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        message, hint = f"must be a readable file ({reason})", "Check the path and the permissions."
    raise ConfigError([ValidationIssue("the file", message, hint, str(path))])


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Return the mapping that a YAML text contains.

    Args:
        text: The text.
        source: Name of the file, for error messages.

    Raises:
        ConfigError: The text is not valid YAML (the message gives line and column), or is not a mapping.
    """
    try:
        values = load_yaml(text)
    except ValueError as error:
        raise ConfigError([ValidationIssue("the file", f"must be valid YAML ({error})")], source) from None
    if not isinstance(values, dict):
        hint = "Write each setting as `key: value`."
        raise ConfigError([ValidationIssue("the file", "must be a mapping of keys to values", hint, values)], source)
    return values


def load_plugins_of_trial(values: dict[str, Any], source: str) -> list[str]:
    """Load the plugins of a trial file, remove the key `plugins` from its content, and return their paths.

    Raises:
        ConfigError: The key is not a list of paths, or a plugin is invalid.
    """
    plugins = values.pop("plugins", [])
    if not isinstance(plugins, list) or not all(isinstance(item, str) for item in plugins):
        hint = "Write, for example, plugins: [my_remedy.py]."
        raise ConfigError([ValidationIssue("plugins", "must be a list of paths", hint, plugins)], source)
    load_plugins(plugins)
    return plugins


def parse_spec(
    text: str, source: str = "", overrides: Mapping[str, Any] | None = None, *, load: bool = True
) -> SweepSpec:
    """Validate the text of a sweep file.

    Args:
        text: The text.
        source: Name of the file, for error messages.
        overrides: Dotted keys and the values that replace those in the file.
        load: Whether the plugins that the text names are loaded.

    Raises:
        ConfigError: The text is invalid; the error lists every problem.
    """
    values = parse_yaml(text, source)
    if overrides:
        text = edit_yaml(text, overrides)
        values = parse_yaml(text, source)  # the text with its overrides must be within the limits too
    issues: list[ValidationIssue] = []
    file = _parse_top_level(values, issues)
    if load and (plugins := _section(values, "plugins")) is not None:
        try:
            load_plugins(plugins)
        except ConfigError as error:  # without its plugins, all other checks of the file would mislead
            raise ConfigError([*issues, *error.issues], source) from None
    trial = _with_absolute_data_path(values.get("trial", {}))
    space = parse_space(values.get("space"), trial, issues)
    arms = parse_arms(values.get("arms"), trial, values.get("space") if space else {}, issues)
    # Each section is checked as far as it is valid by itself, so that all problems are reported at once.
    keys = ("search", "resources", "objectives", "stopping")
    search, resources, objectives, stopping = (_section(values, key) for key in keys)
    stopping = None if stopping == "none" else stopping
    validated = validate_trials(trial, arms, objectives or {}, issues)
    if search is not None:
        check_search(search, arms, space, issues)
    if search is not None and resources is not None:
        check_budget(search, resources, issues)
    check_objectives(values.get("objectives", DEFAULT_OBJECTIVES), trial, issues)
    if objectives is not None and stopping is not None:
        check_stopping(objectives, issues)
    if issues:
        # Duplicates are found by their text, because an issue with a list or mapping as its value is not hashable.
        raise ConfigError(list({str(issue): issue for issue in issues}.values()), source)
    assert file is not None
    assert validated is not None
    defaults, warnings = validated
    if search.sampler != "grid" and search.configurations is None:
        search = search.model_copy(update={"configurations": DEFAULT_CONFIGURATIONS})
    return SweepSpec(
        name=file.name,
        trial=trial,
        defaults=defaults,
        arms=tuple(arms),
        space=tuple(space.values()),
        objectives=file.objectives,
        search=search,
        stopping=stopping,
        resources=file.resources,
        keep=file.keep,
        trackers=file.trackers,
        plugins=_used_plugins(trial, arms),
        warnings=tuple(warnings),
        source=text,
    )


def _used_plugins(trial: Mapping[str, Any], arms: Sequence[Arm]) -> tuple[Plugin, ...]:
    """Return the plugins whose classes the trials of some arm use. Classes of installed packages need no file."""
    loaded = loaded_plugins()
    used = (parse_trial(arm.values(trial, arm.probe())).plugins for arm in arms) if loaded else ()
    return tuple(loaded[name] for name in dict.fromkeys(name for names in used for name in names) if name in loaded)


def _parse_top_level(values: Mapping[str, Any], issues: list[ValidationIssue]) -> SweepFile | None:
    """Return the validated top level of the sweep file. If it is invalid, append issues and return None."""
    file: SweepFile | None = None
    try:
        file = SweepFile.model_validate(values)
    except ValidationError as error:
        issues += map(_with_hint_at_trial, issues_of(error, SweepFile))
    name = values.get("name")
    if isinstance(name, str) and not SWEEP_NAME.fullmatch(name):
        message = "must consist of 1 to 100 letters, digits and . - + _ characters, and begin with a letter or digit"
        hint = "Choose another name; the results folder has the same name."
        issues.append(ValidationIssue("name", message, hint, name))
    return file


def _section(values: Mapping[str, Any], key: str) -> Any:
    """Return one validated key of the top level; None if it is invalid, which `_parse_top_level` reports."""
    given = {key: values[key]} if key in values else {}
    try:
        return getattr(SweepFile.model_validate({"name": "", "arms": {}, **given}), key)
    except ValidationError:
        return None


def _with_hint_at_trial(issue: ValidationIssue) -> ValidationIssue:
    """Add a hint to an issue about an unknown top-level key if the key belongs under `trial`."""
    is_trial_key = issue.where not in SweepFile.model_fields and issue.where in TrialConfig.model_fields
    return replace(issue, hint=f"Did you mean trial.{issue.where}?") if is_trial_key else issue


def _with_absolute_data_path(trial: Any) -> dict[str, Any]:
    """Resolve a relative `data.path` against the working directory, since workers run in different directories."""
    if not isinstance(trial, Mapping):
        return {}
    data = trial.get("data")
    if isinstance(data, Mapping) and isinstance(data.get("path"), str) and not is_bundled(data["path"]):
        return {**trial, "data": {**data, "path": os.path.abspath(os.path.expanduser(data["path"]))}}
    return dict(trial)
