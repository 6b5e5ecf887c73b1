"""SweepSpec: the sweep file, validated as a whole before anything is touched."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from lagvae_core.config.trial import TrialConfig, parse_trial
from lagvae_core.config.validation import issues_of
from lagvae_core.errors import ConfigError, ValidationIssue
from lagvae_core.evaluation.data_specific_metrics import unavailable_columns
from lagvae_core.settings import FrozenConfig
from sweeps.spec.space import Arm, Value, parse_arm
from sweeps.spec.yaml import load_yaml
from sweeps.storage.schema import OBJECTIVE_COLUMNS

__all__ = ["ResourceSpec", "SearchSpec", "SweepSpec", "load_spec", "parse_spec"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
Direction = Literal["min", "max"]
Keep = Literal["nothing", "models"]
"""Models are kept on request alone: those of a sweep of 170 runs at the size of Yahoo's, 215 MB each, take 36 GB."""
LIBRARY = resources.files("sweeps") / "library"
"""The sweeps that ship."""
DEFAULT_OBJECTIVES: Mapping[str, Direction] = {"nll_iw": "min", "au": "max"}


class SearchSpec(FrozenConfig):
    """How each arm is searched; every arm has the same budget."""

    sampler: Annotated[
        Literal["tpe", "random", "grid", "nsga2", "gp"],
        Field(description="Optuna sampler; grid runs every choice"),
    ] = "tpe"
    configurations: Annotated[int | None, Field(ge=1, le=10**6, description="configurations an arm; not for grid")] = (
        None
    )
    seeds: Annotated[
        Annotated[int, Field(ge=1, le=10**4)] | tuple[Annotated[int, Field(ge=0, lt=2**53)], ...],
        Field(description="replicates of each configuration: their number, or their seeds"),
    ] = 3
    seed: Annotated[int, Field(ge=0, description="of the search")] = 0

    @property
    def run_seeds(self) -> tuple[int, ...]:
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds


class ResourceSpec(FrozenConfig):
    """What each run is given."""

    cpus: Annotated[int, Field(ge=1, description="cores, and so threads, of a run")] = 1
    gpus: Annotated[
        Literal["auto"] | Annotated[float, Field(ge=0)],
        Field(description="GPUs of a run; a fraction shares one; auto: as many runs share one as its memory holds"),
    ] = 0
    concurrent: Annotated[
        Literal["auto"] | Annotated[int, Field(ge=1)], Field(description="runs at a time, at most")
    ] = "auto"

    @property
    def gpu_share(self) -> float:
        """`gpus` as a number, which it must be by now."""
        assert self.gpus != "auto", "calibrate first"
        return self.gpus

    def with_gpus(self, gpus: float) -> ResourceSpec:
        """The same with this number of GPUs."""
        return self.model_copy(update={"gpus": gpus})


class _SweepFile(FrozenConfig):
    """The top level of a sweep file, before its parts are looked into."""

    name: Annotated[str, Field(description="name of the sweep, and of its results folder")]
    trial: Annotated[dict[str, Any], Field(description="defaults of every trial")] = Field(default_factory=dict)
    arms: Annotated[dict[str, Any], Field(description="names to stacks of strategies")]
    objectives: Annotated[dict[str, Direction], Field(description="columns of the table to min or max")] = Field(
        default_factory=lambda: dict(DEFAULT_OBJECTIVES)
    )
    search: Annotated[SearchSpec, Field(description="how each arm is searched")] = SearchSpec()
    stopping: Annotated[Literal["none"], Field(description="rule that stops runs early")] = "none"
    resources: Annotated[ResourceSpec, Field(description="what each run is given")] = ResourceSpec()
    keep: Annotated[
        Keep, Field(description="what is kept of a finished run beside its numbers: models, for `lagvae evaluate`")
    ] = "nothing"


@dataclass(frozen=True)
class SweepSpec:
    """A sweep: arms over shared trial defaults, objectives, search, resources.

    `trial` are the defaults of every trial as given; `source` the text of the file.
    """

    name: str
    trial: Mapping[str, Any]
    arms: tuple[Arm, ...]
    objectives: Mapping[str, Direction]
    search: SearchSpec
    resources: ResourceSpec
    keep: Keep
    source: str

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()[:12]

    def trial_config(self, arm: Arm, parameters: Mapping[str, int | float | str], seed: int) -> TrialConfig:
        """The configuration of one run of `arm`."""
        return parse_trial({**self.trial, "strategies": arm.strategies(parameters), "seed": seed})

    def warnings(self) -> list[str]:
        """What may be run but should be known, each once with the arms that it is about."""
        arms: dict[str, list[str]] = {}
        for arm in self.arms:
            for point in arm.probes():
                config = self.trial_config(arm, point, seed=0)
                for text in (*config.warnings(), *self._unmeasured(config)):
                    names = arms.setdefault(text, [])
                    names += [] if arm.name in names else [arm.name]
        return [f"{', '.join(names)}: {text}" for text, names in arms.items()]

    def _unmeasured(self, config: TrialConfig) -> Iterator[str]:
        """Objectives that a strategy leaves null, so that the search hears of no success and the front of no run."""
        for strategy in config.strategies:
            null = [name for name in self.objectives if name in strategy.unmeasured]
            if null:
                yield (
                    f"{strategy.kind} does not measure {' and '.join(null)}, so that the arm can be on no front of "
                    "these objectives, nor be searched by them."
                )

    def configurations(self, arm: Arm) -> int:
        """How many configurations `arm` has: the budget, or less where its space is smaller."""
        size = arm.size()
        if self.search.sampler == "grid":
            assert size is not None
            return size
        assert self.search.configurations is not None
        return self.search.configurations if size is None else min(self.search.configurations, size)


def load_spec(where: str, overrides: Mapping[str, Any] | None = None) -> SweepSpec:
    """The sweep file at the path `where`, or the shipped one of that name (`quickstart`).

    `overrides` maps dotted keys (`trial.training.epochs`) to values that replace those of the file.

    Raises:
        ConfigError: the file cannot be read, or any of its values is wrong; with every mistake.
    """
    path = Path(where)
    shipped = LIBRARY.joinpath(f"{where}.yaml") if NAME.fullmatch(where) else None
    if shipped is not None and shipped.is_file() and not path.is_file():
        text = shipped.read_text("utf-8")
    else:
        text = read_text(path)
    return parse_spec(text, source=where, overrides=overrides)


def read_text(path: Path) -> str:
    """The UTF-8 text of a configuration file, or a ConfigError that says why not."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        names = sorted(p.name.removesuffix(".yaml") for p in LIBRARY.iterdir())
        shipped = ", ".join(name for name in names if not name.startswith("_"))
        hint = f"Give the path of a YAML file, or the name of a shipped sweep: {shipped}."
        raise ConfigError([ValidationIssue("the file", "must exist", hint, str(path))]) from None
    except UnicodeDecodeError as error:
        issue = ValidationIssue(
            "the file", f"must be UTF-8 (byte {error.start} is not)", "Save it as UTF-8.", str(path)
        )
        raise ConfigError([issue]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        issue = ValidationIssue("the file", f"must be readable ({reason})", "Check the path and its rights.", str(path))
        raise ConfigError([issue]) from None


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; ConfigError with line and column where it does not."""
    try:
        values = load_yaml(text)
    except ValueError as error:
        raise ConfigError([ValidationIssue("the file", f"not valid YAML ({error})")], source) from None
    if not isinstance(values, dict):
        issue = ValidationIssue(
            "the file", "must hold a mapping of keys to values", "See `lagvae plan quickstart`.", values
        )
        raise ConfigError([issue], source)
    return {str(key): value for key, value in values.items()}


def set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    """Put `value` at the dotted `key`, making mappings on the way."""
    *path, last = key.split(".")
    for part in path:
        inner = values.get(part)
        values[part] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[part]
    values[last] = value


def parse_spec(text: str, source: str = "", overrides: Mapping[str, Any] | None = None) -> SweepSpec:
    """The sweep that a YAML text describes; see `load_spec`."""
    values = parse_yaml(text, source)
    for key, value in (overrides or {}).items():
        set_dotted(values, key, value)
    if overrides:
        text = yaml.safe_dump(values, sort_keys=False)
    issues: list[ValidationIssue] = []
    file: _SweepFile | None = None
    try:
        file = _SweepFile.model_validate(values)
    except ValidationError as error:
        issues += map(_of_trial, issues_of(error, _SweepFile))
    _check_name(values.get("name"), issues)
    given_trial, given_arms = values.get("trial", {}), values.get("arms")
    arms: list[Arm] = []
    if isinstance(given_arms, Mapping):
        for name, items in given_arms.items():
            if not _is_arm_name(name):
                message = "must name each arm by one line of at most 100 printable characters"
                issues.append(ValidationIssue("arms", message, 'Quote what YAML takes for a number: "1": [].', name))
                continue
            arm = parse_arm(name, items, issues)
            if arm is not None:
                arms.append(arm)
        if not given_arms:
            issues.append(ValidationIssue("arms", "must name at least one arm", "For example  vae: []", {}))
    trial = _absolute_data_path(given_trial) if isinstance(given_trial, Mapping) else {}
    _check_trials(trial, arms, issues)
    if file is not None:
        _check_search(file, arms, issues)
    objectives = values.get("objectives", DEFAULT_OBJECTIVES)
    if isinstance(objectives, Mapping):
        data = trial.get("data")
        kind = str(data.get("kind", "synthetic")) if isinstance(data, Mapping) else "synthetic"
        _check_objectives([str(column) for column in objectives], kind, issues)
    if issues:
        # A mistake may hold a list or a mapping, and so has no hash; the same text is the same mistake.
        raise ConfigError(list({str(issue): issue for issue in issues}.values()), source)
    assert file is not None
    search = file.search
    if search.sampler != "grid" and search.configurations is None:
        search = search.model_copy(update={"configurations": 8})
    return SweepSpec(file.name, trial, tuple(arms), file.objectives, search, file.resources, file.keep, text)


def _of_trial(issue: ValidationIssue) -> ValidationIssue:
    """The mistake, with the way to where the key belongs if that is a trial's."""
    unknown = issue.where not in _SweepFile.model_fields and issue.where in TrialConfig.model_fields
    return replace(issue, hint=f"Did you mean trial.{issue.where}?") if unknown else issue


def _absolute_data_path(trial: Mapping[str, Any]) -> dict[str, Any]:
    """A relative `data.path` is meant from where the command runs; workers run elsewhere."""
    data = trial.get("data")
    if isinstance(data, Mapping) and isinstance(data.get("path"), str):
        return {**trial, "data": {**data, "path": os.path.abspath(os.path.expanduser(data["path"]))}}
    return dict(trial)


def _check_name(name: Any, issues: list[ValidationIssue]) -> None:
    if isinstance(name, str) and not NAME.fullmatch(name):
        message = (
            "must be 1 to 100 letters, digits, dots, dashes, plus signs or underscores, the first a letter or digit"
        )
        issues.append(ValidationIssue("name", message, "It becomes the name of the results folder.", name))


def _is_arm_name(name: Any) -> bool:
    return isinstance(name, str) and name.isprintable() and 0 < len(name) <= 100 and name == name.strip()


def _check_trials(trial: Mapping[str, Any], arms: list[Arm], issues: list[ValidationIssue]) -> None:
    """Every arm must make lawful trials at each end of each of its ranges."""
    for key in ("strategies", "seed"):
        if key in trial:
            hint = "Strategies stand in arms." if key == "strategies" else "Seeds stand in search.seeds."
            issues.append(ValidationIssue(f"trial.{key}", "must be left out", hint, trial[key]))
    plain = {key: value for key, value in trial.items() if key not in ("strategies", "seed")}
    of_all: set[str] = set()
    try:
        parse_trial(plain)
    except ConfigError as error:
        of_all = {str(m) for m in error.issues}
        issues += [_renamed(m, lambda key: f"trial.{key}") for m in error.issues]
    same: dict[tuple[str, ...], str] = {}
    for arm in arms:
        found: dict[str, ValidationIssue] = {}
        identities: dict[str, dict[str, Value]] = {}
        for point in arm.probes():
            try:
                config = parse_trial({**plain, "strategies": arm.strategies(point)})
            except ConfigError as error:
                for issue in error.issues:
                    if str(issue) not in of_all:
                        found.setdefault(str(issue), _of_arm(issue, arm, point))
                continue
            # A run is known by its configuration, and a number by its value, however both are written.
            other = identities.setdefault(config.config_id(""), point)
            if other is not point:
                shown = [", ".join(f"{name}={value!r}" for name, value in p.items()) for p in (other, point)]
                message = f"must have points that differ, and {shown[0]} is the same as {shown[1]}"
                found.setdefault(
                    message, ValidationIssue(f"arms.{arm.name}", message, "Remove one of the two.", list(arm.stack))
                )
        issues += found.values()
        if identities:
            identity = (next(iter(identities)), *map(repr, arm.dimensions))
            if (other_arm := same.setdefault(identity, arm.name)) != arm.name:
                message = f"must differ from every other arm, and arms.{other_arm} is the same"
                issues.append(ValidationIssue(f"arms.{arm.name}", message, "Remove one of the two.", list(arm.stack)))


def _renamed(issue: ValidationIssue, rename: Any) -> ValidationIssue:
    return replace(issue, where=rename(issue.where))


def _of_arm(issue: ValidationIssue, arm: Arm, point: Mapping[str, Value]) -> ValidationIssue:
    """The mistake of a trial as one of the arm that makes it, at a point of its space."""
    renamed = _renamed(issue, lambda key: _arm_key(key, arm))
    if len(point) < 2:
        return renamed
    at = ", ".join(f"{name} = {value}" for name, value in point.items())
    return replace(renamed, hint=f"{renamed.hint} So it is at {at}.")


def _arm_key(key: str, arm: Arm) -> str:
    return key.replace("strategies", f"arms.{arm.name}", 1) if key.startswith("strategies") else f"trial.{key}"


def _check_search(file: _SweepFile, arms: list[Arm], issues: list[ValidationIssue]) -> None:
    search = file.search
    seeds = search.run_seeds
    if not seeds or len(set(seeds)) != len(seeds):
        issues.append(
            ValidationIssue("search.seeds", "must hold different seeds, at least one", "For example 3.", list(seeds))
        )
    if search.sampler != "grid":
        return
    if search.configurations is not None:
        hint = "A grid runs every combination; leave it out, or use another sampler."
        issues.append(
            ValidationIssue("search.configurations", "must be left out for grid", hint, search.configurations)
        )
    for arm in arms:
        for dimension in arm.dimensions:
            if not dimension.tunable.choices and not dimension.integral:
                message = "must have choices when search.sampler is grid"
                value = {"low": dimension.tunable.low, "high": dimension.tunable.high}
                issues.append(
                    ValidationIssue(f"arms.{arm.name}: {dimension.name}", message, "Write {choices: [...]}.", value)
                )


def _check_objectives(objectives: list[str], kind: str, issues: list[ValidationIssue]) -> None:
    if not objectives:
        issues.append(ValidationIssue("objectives", "must name at least one column", "For example  nll_iw: min", {}))
    for column in objectives:
        if column not in OBJECTIVE_COLUMNS:
            near = difflib.get_close_matches(column, OBJECTIVE_COLUMNS, n=3)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"For example {', '.join(OBJECTIVE_COLUMNS[:6])}."
            issues.append(
                ValidationIssue(f"objectives.{column}", "must be a numeric column of the table", hint, column)
            )
        elif column in unavailable_columns(kind):
            message = f"must be a column that {kind} data have"
            issues.append(ValidationIssue(f"objectives.{column}", message, "For example nll_iw.", column))
