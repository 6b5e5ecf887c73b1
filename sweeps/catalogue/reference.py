"""docs/reference.md: every field of sweep files and trial files, with its type, default and meaning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lagvae_core.config.recipe import RECIPES, defaults_of
from lagvae_core.config.trial import TrialConfig
from lagvae_core.data import DATA_SOURCES
from lagvae_core.models import MODELS
from lagvae_core.settings import EvaluationConfig, FrozenConfig, TrainingConfig
from sweeps.catalogue.fields import describe_docstring, describe_fields
from sweeps.formatting import format_value, markdown_table
from sweeps.spec.arms import MAX_ARMS, ArmFile
from sweeps.spec.sections import BudgetSpec, RacingSeeds, ResourceSpec, SearchSpec, StoppingSpec
from sweeps.spec.sweep import SweepFile
from sweeps.spec.trackers import MLflowSpec, TensorBoardSpec, TrackersSpec, WandbSpec
from sweeps.spec.yaml import MAX_CHARACTERS, MAX_DEPTH, MAX_NODES

__all__ = ["reference_page"]

INTRODUCTION = f"""\
# Sweep files and trial files

`lagvae run FILE` takes a sweep file, `lagvae trial FILE` a trial file. Both are YAML 1.1, except that 1e-3 is a number,
a date is text, and every key is text as written. A file has at most {MAX_CHARACTERS:,} characters, {MAX_NODES:,} keys
and values (each alias counts as its content), {MAX_DEPTH} levels and {MAX_ARMS} arms. A relative path is relative to
the working directory.

`--set KEY=VALUE` overrides a dotted key: `--set training.epochs=3` in a trial, `--set trial.training.epochs=3` in a
sweep. `lagvae show NAME` prints a sweep file that ships with lagvae, and `lagvae show FILE --resolved` any file with
all its defaults.
"""

ARMS = """\
### arms

Each arm is a list of strategies: `vae: []` is the plain VAE. Or it is a mapping that contains this list as
`strategies`, with the other keys of the second table. An item of the list is the name of a strategy, or a mapping with
`kind` and any of its fields. [strategies.md](strategies.md) lists all strategies with their fields and search ranges,
and `lagvae plan FILE` prints what each arm fixes and searches.

| value of a field | meaning |
|---|---|
| `beta: 0.5` | the field has this value |
| `beta: default` | the field has the default of the strategy |
| `beta: {low: 0.1, high: 1}` | the field is searched between both bounds, which are included |
| `beta: {low: 0.001, high: 1, log: true}` | the same on a logarithmic scale |
| `beta: {low: 0, high: 1, step: 0.1}` | the field is searched over 0, 0.1, ..., 1 |
| `beta: {choices: [0.1, 0.4, 1]}` | the field is searched over these values |
| `beta: search` | the field is searched over the range that the strategy declares |
| the field is left out | as `search` if the field has a range and the arm is a list or has `search: true` |
"""

SPACE = """\
### space

`space` of the sweep, and `space` of an arm, map the names of fields to ranges as in the first table. A name is
`KIND.FIELD` for a strategy, `training.FIELD` or `model.FIELD` for any number, truth value or word of these sections,
or one of `data.batching` and `data.partition`.

    space:
      training.learning_rate: {low: 1e-3, high: 1, log: true}
      training.optimiser: {choices: [sgd, adam]}
      training.momentum: {low: 0, high: 0.9, when: {training.optimiser: sgd}}
    arms:
      vae: []
      free_bits:
        strategies: [{kind: free_bits, floor: search}, kl_linear_epoch]
        space: {model.latent_dim: {choices: [16, 32]}}
        points: [{free_bits.floor: 0.1}]
      adam: {strategies: [], trial: {training: {optimiser: adam}}}
    search: {configurations: 16, paired: true}

- A value or range that an arm states for itself takes precedence over the `space` of the sweep.
- `when` names a field and the value or values at which the other field is searched; elsewhere, this one has its fixed
  value. The field it names is either fixed or searched over choices.
- With `paired: true`, configuration i of all arms has the same values of the fields in the `space` of the sweep:
  configuration 0 the defaults, the others random values. The sampler chooses the remaining fields of each arm, and
  points leave the shared fields out. After an edit of a range, the other arms follow the stored configurations.
- `points` are tried first; the sampler completes the fields that they omit. An arm without `points` starts with the
  defaults of its searched fields, if the arm is a mapping or the sweep has a `space`.

"""

TRIAL = """\
## Trial

The keys of a trial file, and of `trial` in a sweep file, where `strategies` and `seed` are left out: the arms and
`search.seeds` take their places. The defaults of `model`, `training` and `evaluation` depend on `data.kind`.
"""


def reference_page() -> str:
    """Return the content of docs/reference.md."""
    parts = [
        INTRODUCTION,
        "## Sweep file\n",
        *_table(SweepFile),
        "",
        ARMS,
        *_table(ArmFile),
        "",
        SPACE,
        *_section("search", SearchSpec),
        *_section("search.seeds", RacingSeeds),
        *_section("search.budget", BudgetSpec),
        *_section("stopping", StoppingSpec),
        *_section("resources", ResourceSpec),
        *_section("trackers", TrackersSpec),
        *_section("trackers.tensorboard", TensorBoardSpec),
        *_section("trackers.mlflow", MLflowSpec),
        *_section("trackers.wandb", WandbSpec),
        TRIAL,
        *_table(TrialConfig),
        "",
        *(line for kind in DATA_SOURCES.values() for line in _section("data", kind)),
        *(line for kind in MODELS.values() for line in _section("model", kind)),
        *_section("training", TrainingConfig),
        *_section("evaluation", EvaluationConfig),
    ]
    return "\n".join(parts)


def _section(name: str, config: type[FrozenConfig]) -> Iterator[str]:
    kind = config.model_fields["kind"].default if "kind" in config.model_fields else None
    yield f"### {name}, kind: {kind}" if kind else f"### {name}"
    yield from ("", describe_docstring(config)["description"], "")
    yield from _table(config, name, kind)
    yield ""


def _table(config: type[FrozenConfig], section: str = "", kind: str | None = None) -> Iterator[str]:
    rows = []
    for field in describe_fields(config):
        required = config.model_fields[field["name"]].is_required()
        default = "required" if required else _default(section, kind, field["name"], config)
        constrained = ", ".join(filter(None, [field["type"], field["constraints"]]))
        rows.append((f"`{field['name']}`", constrained, default, field["description"]))
    return markdown_table(("key", "type", "default", "meaning"), rows)


def _default(section: str, kind: str | None, key: str, config: type[FrozenConfig]) -> str:
    """Return the default of a field; if it depends on the kind of data, for each of these kinds."""
    value = config.model_fields[key].get_default(call_default_factory=True)
    if section == "" and isinstance(value, FrozenConfig) and key in RECIPES[TrialConfig().data.kind]:
        section, key, value = key, "kind", getattr(value, "kind", None)
    if section and key == "kind" and value is None:
        return "the defaults below"
    applicable = defaults_of(section, kind)
    if not any(key in defaults for defaults in applicable.values()):
        return _format(value)
    chosen = {name: defaults for name, defaults in applicable.items() if name in RECIPES or key in defaults}
    return ", ".join(f"{_format(defaults.get(key, value))} for {name}" for name, defaults in chosen.items())


def _format(value: Any) -> str:
    if isinstance(value, FrozenConfig):
        kind = getattr(value, "kind", None)
        return f"`kind: {kind}`" if kind else "the defaults below"
    if isinstance(value, bool) or value is None:
        return {True: "`true`", False: "`false`", None: "`null`"}[value]
    if isinstance(value, tuple):
        return f"`[{', '.join(map(format_value, value))}]`"
    if isinstance(value, dict):
        return f"`{{{', '.join(f'{key}: {inner}' for key, inner in value.items())}}}`"
    return f"`{format_value(value, 8)}`"
