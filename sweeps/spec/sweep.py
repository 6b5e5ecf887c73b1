"""SweepSpec: a sweep file, validated as a whole before anything runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from lagvae_core.config.trial import TrialConfig, parse_trial
from lagvae_core.config.validation import issues_of
from lagvae_core.errors import ConfigError, ValidationIssue, did_you_mean
from lagvae_core.evaluation.data_specific_metrics import unavailable_columns
from lagvae_core.settings import FrozenConfig
from sweeps.spec.samplers import SAMPLERS
from sweeps.spec.space import Arm, Value, parse_arm
from sweeps.spec.yaml import edit_yaml, load_yaml, set_dotted
from sweeps.storage.schema import OBJECTIVE_COLUMNS

__all__ = ["ResourceSpec", "SearchSpec", "SweepSpec", "load_spec", "parse_spec"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
Direction = Literal["min", "max"]
if TYPE_CHECKING:
    Sampler = str
else:
    Sampler = Literal[tuple(SAMPLERS)]
Keep = Literal["nothing", "models"]
"""Models are kept on request only: a sweep of 170 runs at the size of Yahoo's models, 215 MB each, takes 36 GB."""
LIBRARY = resources.files("sweeps") / "library"
"""The sweep files that ship with the package."""
DEFAULT_OBJECTIVES: Mapping[str, Direction] = {"nll_iw": "min", "au": "max"}
DEFAULT_CONFIGURATIONS = 8


class SearchSpec(FrozenConfig):
    """Search of each arm; every arm has the same budget."""

    sampler: Annotated[Sampler, Field(description="Optuna sampler; grid runs every combination of choices")] = "tpe"
    configurations: Annotated[
        int | None, Field(ge=1, le=10**6, description="number of configurations per arm; not for the grid sampler")
    ] = None
    seeds: Annotated[
        Annotated[int, Field(ge=1, le=10**4)] | tuple[Annotated[int, Field(ge=0, lt=2**53)], ...],
        Field(description="replicates of each configuration: their number, or a list of their seeds"),
    ] = 3
    seed: Annotated[int, Field(ge=0, description="seed of the search")] = 0

    @property
    def run_seeds(self) -> tuple[int, ...]:
        """Seeds of the runs of each configuration."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds


class ResourceSpec(FrozenConfig):
    """Resources of each run."""

    cpus: Annotated[int, Field(ge=1, description="CPU cores per run, and so its threads")] = 1
    gpus: Annotated[
        Literal["auto"] | Annotated[float, Field(ge=0)],
        Field(description="GPUs per run; a fraction shares a GPU; auto: as many runs per GPU as fit its memory"),
    ] = 0
    concurrent: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1)], Field(description="largest number of runs at a time")
    ] = "auto"

    @property
    def gpu_share(self) -> float:
        """`gpus` as a number; `auto` must have been replaced by `with_gpus` before."""
        assert self.gpus != "auto", "gpus: auto was not replaced by a number"
        return self.gpus

    def with_gpus(self, gpus: float) -> ResourceSpec:
        """Return a copy with this number of GPUs."""
        return self.model_copy(update={"gpus": gpus})


class _SweepFile(FrozenConfig):
    """The top level of a sweep file, whose trial and arms are validated separately."""

    name: Annotated[str, Field(description="name of the sweep and of its results folder")]
    trial: Annotated[dict[str, Any], Field(description="defaults of every trial")] = Field(default_factory=dict)
    arms: Annotated[dict[str, Any], Field(description="names of arms, each with its stack of strategies")]
    objectives: Annotated[dict[str, Direction], Field(description="columns of the table, each with min or max")] = (
        Field(default_factory=lambda: dict(DEFAULT_OBJECTIVES))
    )
    search: Annotated[SearchSpec, Field(description="search of each arm")] = SearchSpec()
    stopping: Annotated[Literal["none"], Field(description="rule that stops runs early")] = "none"
    resources: Annotated[ResourceSpec, Field(description="resources of each run")] = ResourceSpec()
    keep: Annotated[
        Keep,
        Field(description="files to keep of each finished run besides its results; `lagvae evaluate` uses its models"),
    ] = "nothing"


@dataclass(frozen=True)
class SweepSpec:
    """A validated sweep file.

    Args:
        name: Name of the sweep.
        trial: Defaults of every trial, as the file gives them; a relative `data.path` is made absolute.
        defaults: The same as a full configuration, without strategies.
        arms: The arms.
        objectives: Columns of the table, each with "min" or "max".
        search: Search of each arm.
        resources: Resources of each run.
        keep: Files to keep of each finished run.
        warnings: Warnings of valid but questionable configurations, each once, with the arms that it concerns.
        source: Text of the sweep file, overrides included.
    """

    name: str
    trial: Mapping[str, Any]
    defaults: TrialConfig
    arms: tuple[Arm, ...]
    objectives: Mapping[str, Direction]
    search: SearchSpec
    resources: ResourceSpec
    keep: Keep
    warnings: tuple[str, ...]
    source: str

    @property
    def hash(self) -> str:
        """12 hexadecimal digits that identify the content of the sweep, stored in the column `spec_hash`.

        Comments, layout and written-out defaults of the trial do not change the hash. Rows written by version 0.1.0
        have the hash of the text instead; no code compares the hashes of different rows.
        """
        content = {
            "name": self.name,
            "trial": self.defaults.model_dump(mode="json"),
            "arms": [asdict(arm) for arm in self.arms],
            "objectives": list(self.objectives.items()),
            "search": self.search.model_dump(mode="json"),
            "resources": self.resources.model_dump(mode="json"),
            "keep": self.keep,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def trial_config(self, arm: Arm, parameters: Mapping[str, Value], seed: int) -> TrialConfig:
        """Return the configuration of one run of `arm`.

        Raises:
            ConfigError: No valid trial has these parameters.
        """
        return parse_trial({**self.trial, "strategies": arm.strategies(parameters), "seed": seed})

    def configurations(self, arm: Arm) -> int:
        """Return the number of configurations of `arm`: the budget, or the size of its space if that is smaller."""
        size = arm.size()
        if self.search.sampler == "grid":
            assert size is not None
            return size
        assert self.search.configurations is not None
        return self.search.configurations if size is None else min(self.search.configurations, size)


def load_spec(where: str, overrides: Mapping[str, Any] | None = None) -> SweepSpec:
    """Load and validate a sweep file.

    Args:
        where: Path of the file, or name of a sweep that ships with the package, such as "quickstart".
        overrides: Dotted keys (`trial.training.epochs`) and the values that replace those of the file.

    Raises:
        ConfigError: The file cannot be read or is invalid; the error lists every problem.
    """
    path = Path(where)
    shipped = LIBRARY.joinpath(f"{where}.yaml") if NAME.fullmatch(where) else None
    if shipped is not None and shipped.is_file() and not path.is_file():
        text = shipped.read_text("utf-8")
    else:
        text = read_text(path)
    return parse_spec(text, source=where, overrides=overrides)


def read_text(path: Path) -> str:
    """Return the text of a configuration file.

    Raises:
        ConfigError: The file does not exist, cannot be read or is not UTF-8.
    """
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        names = sorted(p.name.removesuffix(".yaml") for p in LIBRARY.iterdir())
        shipped = ", ".join(name for name in names if not name.startswith("_"))
        message, hint = "no such file", f"Give the path of a YAML file, or the name of a shipped sweep: {shipped}."
    except UnicodeDecodeError as error:
        message, hint = f"not valid UTF-8 (at byte {error.start})", "Save the file as UTF-8."
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        message, hint = f"cannot be read ({reason})", "Check the path and its permissions."
    raise ConfigError([ValidationIssue("the file", message, hint, str(path))])


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Return the mapping that a YAML text contains.

    Args:
        text: The text.
        source: Name of the file, for messages.

    Raises:
        ConfigError: The text is not valid YAML, with line and column, or not a mapping.
    """
    try:
        values = load_yaml(text)
    except ValueError as error:
        raise ConfigError([ValidationIssue("the file", f"not valid YAML ({error})")], source) from None
    if not isinstance(values, dict):
        hint = "Run `lagvae plan quickstart` for an example."
        raise ConfigError([ValidationIssue("the file", "must be a mapping of keys to values", hint, values)], source)
    return {str(key): value for key, value in values.items()}


def parse_spec(text: str, source: str = "", overrides: Mapping[str, Any] | None = None) -> SweepSpec:
    """Validate the text of a sweep file.

    Args:
        text: The text.
        source: Name of the file, for messages.
        overrides: Dotted keys and the values that replace those of the file.

    Raises:
        ConfigError: The text is invalid; the error lists every problem.
    """
    values = parse_yaml(text, source)
    if overrides:
        text = edit_yaml(text, overrides)
        for key, value in overrides.items():
            set_dotted(values, key, value)
    issues: list[ValidationIssue] = []
    file = _parse_top_level(values, issues)
    arms = _parse_arms(values.get("arms"), issues)
    trial = _with_absolute_data_path(values.get("trial", {}))
    validated = _validate_trials(trial, arms, file.objectives if file is not None else {}, issues)
    if file is not None:
        _check_search(file.search, arms, issues)
    _check_objectives(values.get("objectives", DEFAULT_OBJECTIVES), trial, issues)
    if issues:
        # Values may be lists or mappings, so issues have no hash; issues of the same text are duplicates.
        raise ConfigError(list({str(issue): issue for issue in issues}.values()), source)
    assert file is not None
    assert validated is not None
    defaults, warnings = validated
    search = file.search
    if search.sampler != "grid" and search.configurations is None:
        search = search.model_copy(update={"configurations": DEFAULT_CONFIGURATIONS})
    return SweepSpec(
        name=file.name,
        trial=trial,
        defaults=defaults,
        arms=tuple(arms),
        objectives=file.objectives,
        search=search,
        resources=file.resources,
        keep=file.keep,
        warnings=tuple(warnings),
        source=text,
    )


def _parse_top_level(values: Mapping[str, Any], issues: list[ValidationIssue]) -> _SweepFile | None:
    """Return the top level of the sweep file; None, with issues, if it is invalid."""
    file: _SweepFile | None = None
    try:
        file = _SweepFile.model_validate(values)
    except ValidationError as error:
        issues += map(_with_hint_at_trial, issues_of(error, _SweepFile))
    name = values.get("name")
    if isinstance(name, str) and not NAME.fullmatch(name):
        message = "must be 1 to 100 letters, digits, dots, dashes, plus signs or underscores, first a letter or digit"
        issues.append(ValidationIssue("name", message, "It is also the name of the results folder.", name))
    return file


def _with_hint_at_trial(issue: ValidationIssue) -> ValidationIssue:
    """Add a hint to the issue of an unknown top-level key that is a key of trials."""
    is_trial_key = issue.where not in _SweepFile.model_fields and issue.where in TrialConfig.model_fields
    return replace(issue, hint=f"Did you mean trial.{issue.where}?") if is_trial_key else issue


def _parse_arms(arms: Any, issues: list[ValidationIssue]) -> list[Arm]:
    """Return the valid arms of the sweep file."""
    if not isinstance(arms, Mapping):
        return []
    parsed: list[Arm] = []
    for name, items in arms.items():
        if not _is_arm_name(name):
            message = "must name each arm by one line of at most 100 printable characters"
            issues.append(ValidationIssue("arms", message, 'Quote what YAML takes for a number: "1": [].', name))
            continue
        arm = parse_arm(name, items, issues)
        if arm is not None:
            parsed.append(arm)
    if not arms:
        issues.append(ValidationIssue("arms", "must name at least one arm", "For example  vae: []", {}))
    return parsed


def _is_arm_name(name: Any) -> bool:
    return isinstance(name, str) and name.isprintable() and 0 < len(name) <= 100 and name == name.strip()


def _with_absolute_data_path(trial: Any) -> dict[str, Any]:
    """Resolve a relative `data.path` against the working directory, since workers run in a different one."""
    if not isinstance(trial, Mapping):
        return {}
    data = trial.get("data")
    if isinstance(data, Mapping) and isinstance(data.get("path"), str):
        return {**trial, "data": {**data, "path": os.path.abspath(os.path.expanduser(data["path"]))}}
    return dict(trial)


def _validate_trials(
    trial: Mapping[str, Any], arms: Sequence[Arm], objectives: Mapping[str, Direction], issues: list[ValidationIssue]
) -> tuple[TrialConfig, list[str]] | None:
    """Validate the trials of every arm at each end of each range.

    Returns:
        The trial defaults without strategies, and the warnings of all trials; None if the defaults are invalid.
    """
    reserved = {"strategies": "List strategies under arms.", "seed": "List seeds under search.seeds."}
    for key, hint in reserved.items():
        if key in trial:
            issues.append(ValidationIssue(f"trial.{key}", "must be left out", hint, trial[key]))
    trial = {key: value for key, value in trial.items() if key not in reserved}
    defaults: TrialConfig | None = None
    default_issues: tuple[ValidationIssue, ...] = ()
    try:
        defaults = parse_trial(trial)
    except ConfigError as error:
        default_issues = error.issues
        issues += [replace(issue, where=f"trial.{issue.where}") for issue in default_issues]
    warnings: dict[str, dict[str, None]] = {}
    arms_by_identity: dict[tuple[str, ...], str] = {}
    for arm in arms:
        configs = _valid_configs(arm, trial, {str(issue) for issue in default_issues}, issues)
        for config in configs:
            for text in (*map(str, config.warnings()), *_unmeasured_objectives(config, objectives)):
                warnings.setdefault(text, {})[arm.name] = None
        if configs:
            identity = (configs[0].config_id(""), *map(repr, arm.dimensions))
            same = arms_by_identity.setdefault(identity, arm.name)
            if same != arm.name:
                message = f"must differ from every other arm, and is the same as arms.{same}"
                issues.append(ValidationIssue(f"arms.{arm.name}", message, "Remove one of the two.", list(arm.stack)))
    if defaults is None:
        return None
    return defaults, [f"{', '.join(names)}: {text}" for text, names in warnings.items()]


def _valid_configs(
    arm: Arm, trial: Mapping[str, Any], reported: set[str], issues: list[ValidationIssue]
) -> list[TrialConfig]:
    """Return the valid configurations of an arm at its probes, and append the issues of the others.

    Issues of the trial defaults, given as text in `reported`, are not repeated.
    """
    arm_issues: dict[str, ValidationIssue] = {}
    configs: list[TrialConfig] = []
    points: dict[str, Mapping[str, Value]] = {}
    for point in arm.probes():
        try:
            config = parse_trial({**trial, "strategies": arm.strategies(point)})
        except ConfigError as error:
            for issue in error.issues:
                if str(issue) not in reported:
                    arm_issues.setdefault(str(issue), _issue_of_arm(issue, arm, point))
            continue
        configs.append(config)
        # Values that are written differently may be one configuration: 1, 1.0 and "1".
        same = points.setdefault(config.config_id(""), point)
        if same is not point:
            message = f"must have distinct points, and {_format_point(same)} is the same as {_format_point(point)}"
            arm_issues.setdefault(
                message, ValidationIssue(f"arms.{arm.name}", message, "Remove one of the two.", list(arm.stack))
            )
    issues += arm_issues.values()
    return configs


def _format_point(point: Mapping[str, Value]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in point.items())


def _issue_of_arm(issue: ValidationIssue, arm: Arm, point: Mapping[str, Value]) -> ValidationIssue:
    """Turn an issue of a trial into one of the arm that has this trial at `point`."""
    if issue.where.startswith("strategies"):
        where = issue.where.replace("strategies", f"arms.{arm.name}", 1)
    else:
        where = f"trial.{issue.where}"
    if len(point) < 2:
        return replace(issue, where=where)
    return replace(issue, where=where, hint=f"{issue.hint} This happens at {_format_point(point)}.".lstrip())


def _unmeasured_objectives(config: TrialConfig, objectives: Mapping[str, Direction]) -> Iterator[str]:
    """Yield a warning for each strategy that leaves an objective null, since neither search nor front has its runs."""
    for strategy in config.strategies:
        null = [name for name in objectives if name in strategy.unmeasured]
        if null:
            yield (
                f"{strategy.kind} does not measure {' and '.join(null)}, so these objectives cannot guide the search "
                "of the arm, and no Pareto front over them includes its runs."
            )


def _check_search(search: SearchSpec, arms: Sequence[Arm], issues: list[ValidationIssue]) -> None:
    seeds = search.run_seeds
    if not seeds or len(set(seeds)) != len(seeds):
        issues.append(ValidationIssue("search.seeds", "must be distinct, at least one", "For example 3.", list(seeds)))
    if search.sampler != "grid":
        return
    if search.configurations is not None:
        message, hint = "must be left out for the grid sampler", "A grid runs every combination of choices."
        issues.append(ValidationIssue("search.configurations", message, hint, search.configurations))
    for arm in arms:
        for dimension in arm.dimensions:
            if dimension.values() is None:
                message = "must be a list of choices for the grid sampler"
                value = {"low": dimension.tunable.low, "high": dimension.tunable.high}
                where = f"arms.{arm.name}: {dimension.name}"
                issues.append(ValidationIssue(where, message, "Write {choices: [...]}.", value))


def _check_objectives(objectives: Any, trial: Mapping[str, Any], issues: list[ValidationIssue]) -> None:
    if not isinstance(objectives, Mapping):
        return
    data = trial.get("data")
    kind = str(data.get("kind", "synthetic")) if isinstance(data, Mapping) else "synthetic"
    if not objectives:
        issues.append(ValidationIssue("objectives", "must name at least one column", "For example  nll_iw: min", {}))
    for column in map(str, objectives):
        where = f"objectives.{column}"
        if column not in OBJECTIVE_COLUMNS:
            hint = did_you_mean(column, OBJECTIVE_COLUMNS, 3) or f"For example {', '.join(OBJECTIVE_COLUMNS[:6])}."
            issues.append(ValidationIssue(where, "must be a numeric column of the table", hint, column))
        elif column in unavailable_columns(kind):
            message = f"must be a column that exists for {kind} data"
            issues.append(ValidationIssue(where, message, "For example nll_iw.", column))
