"""Markdown pages generated from declarations in the code.

python -m sweeps.catalogue.pages results       prints docs/results.md
python -m sweeps.catalogue.pages strategies    prints the catalogue, the last part of docs/strategies.md
python -m sweeps.catalogue.pages reference     prints docs/reference.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from lagvae_core.columns import Column
from lagvae_core.evaluation.data_specific_metrics import DATA_SPECIFIC_METRICS
from lagvae_core.settings import tunables
from lagvae_core.strategies import CATALOGUE
from lagvae_core.studies import STUDIES
from lagvae_core.training.record import CURVE_COLUMNS, METRIC_COLUMNS
from sweeps.analysis.front import DIGITS, ERRORS
from sweeps.analysis.importance import LEAST_CONFIGURATIONS, SHUFFLES
from sweeps.analysis.ranking import DRAWS, MARGIN
from sweeps.analysis.significance import ALPHA, independent_difference, paired_difference
from sweeps.analysis.statistics import CONFIDENCE
from sweeps.catalogue.questions import QUESTIONS
from sweeps.catalogue.reference import reference_page
from sweeps.catalogue.strategies import catalogue_page
from sweeps.catalogue.studies import COLUMN_TYPES, study_section
from sweeps.formatting import markdown_table
from sweeps.storage.schema import COST_COLUMNS, IDENTITY, PROVENANCE, SCHEMA_VERSION, trial_columns, tunable_columns
from sweeps.studies.table import EVALUATION_COLUMNS

__all__ = ["results_page"]

PAIRS = paired_difference([0.0], [0.0]).required
PAIRS_OF_FOUR = paired_difference([0.0], [0.0], comparisons=4).required
RUNS = independent_difference([0.0], [0.0]).required
"""Numbers of values that a p-value requires."""

INTRODUCTION = f"""\
# The table

The results of a sweep are in `<results>/<sweep>/`:

- `runs/*.parquet`: one row per run, in a file of its own (`<run_id>.parquet`) or in a compacted one.
- `curves/*.parquet`: one row per run and epoch. The curve of a running run is written after its first epoch, and then
  at most every 10 s; a run that ends without a record, such as an `interrupted` one, keeps the epochs that it reported.
- `spec.yaml`: the sweep file.
- `archive/*/`: files that `lagvae results archive` or a driver moved there. No command reads them.

Every column is always present and typed. Null means "not measured". NaN and infinity are never stored. Counts are
64-bit integers. The metadata of each file holds the schema version, which is {SCHEMA_VERSION}, and `lagvae_sha256`, the
SHA-256 of the file with 64 zeros in place of this value. lagvae does not read a file that differs from it. Each page
has a CRC-32 as well. Files of version 1 have neither. Columns without a value have Parquet statistics, by which
lagvae skips them. DuckDB, pandas, polars and pyarrow read the folders directly:

    SELECT arm, config_id, avg(nll_iw), avg(mi), avg(au) FROM 'results/quickstart/runs/*.parquet'
    WHERE status = 'finished' GROUP BY arm, config_id;

A folder can contain rows of earlier versions of its sweep. They differ in `config_id`, `spec_hash` or
`data_fingerprint`. `lagvae results pareto`, `rank` and the comparison of arms ignore them, `show`, `curves` and
`compare --paper` mark them, and `lagvae results archive SWEEP --orphans` moves them away. If several files hold the
row of one run, the file `<run_id>.parquet` counts, or else a compacted file, or else the first by name.

A file takes milliseconds to read, whatever it holds. `lagvae results compact SWEEP` moves the rows and curves of ended
runs into few files `compacted-*.parquet`, which are read 20 to 100 times faster and take a small part of the
space. Nothing else changes: every command and every Parquet reader finds the same rows, the sweep can be resumed, and
new runs get files of their own until the command is run again. It does not run while a driver runs the sweep. Runs that
failed or have not ended keep their files. lagvae 0.1.0 cannot read compacted files.

`lagvae results merge OTHER/SWEEP SWEEP` adds the runs of the same sweep from another results folder, with their curves,
models, checkpoints, evaluations and plugins. It only reads that folder. A row that has ended replaces an unfinished
one. If a run has ended in both places with different rows, or if runs of the other folder would not belong to the sweep
here, nothing is written and the runs are listed.

## Which numbers are comparable

- All default metrics are computed from one triple: the proposal q(z|x), the prior that the model is sampled from, and
  the decoder p(x|z). Therefore `nll_iw` and `nll_elbo` bound the likelihood of that model, whatever its training
  objective was.
- Metrics refer to the split `evaluation.split`. The default is the test set, as in the papers. A search that uses test
  metrics as objectives selects configurations on the test set. To search on the validation set instead, set
  `objectives: {{valid_nll_elbo: min, valid_au: max}}`. `evaluation.split: train` shows whether a model can overfit a
  few examples; its numbers are not comparable with those of another split.
- `mi` mixes the posteriors of the whole split and saturates at `mi_cap`. `mi_batch` mixes them within batches, as
  He et al. 2019 do, and saturates at `mi_batch_cap`. Never compare `mi` with `mi_batch`.
- `nll_iw` is an estimate. If `iw_unreliable` exceeds 0.5, a few importance weights dominate it: `nll_iw_mc_se` is then
  much too small, another draw may differ by many nats, and `nll_elbo` is the bound to compare. A front can require
  reliable values: `--objectives nll_iw:min,iw_unreliable:min`.
- `kl_weight_final` below the end of the schedule means that the remedy was not applied as configured: the model was
  trained like a beta-VAE (W7 in [messages.md](messages.md)).
- A KL above zero does not prove that the latent space is used. Interpret it together with `mi` and `au`.
- `au` measures variances in units of the prior's standard deviation. A remedy that only rescales its latent space
  therefore gains no active units.
- Columns that end in `_paper` or `_batch` follow the protocol of a paper, in addition to the comparable column.
  `nll_iw_paper` of Scale-VAE draws its samples from one distribution and weights them with the density of another. This
  value is not a likelihood, and it decreases as the scale factor grows, whatever the model. The valid `nll_iw` uses the
  prior that the paper samples from, u ~ N(0, f_bar^2), and is larger.
- Runs that were interrupted, that diverged or that were stopped early have a row but no metrics. They never count as
  replicates. The validation columns, step counts and seconds of a run that was stopped early (`stopped_early`) are
  those of its last epoch, not of a best epoch; `stop_reason` names a configuration that dominates it, the epoch and the
  rule ([search.md](search.md)).

## Which configurations are on the front

`lagvae results pareto` compares the means over seeds, rounded to the {DIGITS} decimals that it prints: smaller
differences are noise of floating-point arithmetic. A configuration is on the front if no other one is at least as good
in every objective and better in one.

A difference is *clear* if it exceeds {ERRORS:g} standard errors of the difference, sqrt(se_1^2 + se_2^2). A
configuration is *beaten* if another one is clearly better in one objective and clearly worse in none. The column
`front`, which is `standing` in JSON, combines both. A configuration in doubt names one that beats it (`rival` in JSON):

| `front` | on the front | beaten | meaning |
|---|---|---|---|
| on | yes | no | The seeds do not contradict the front. |
| in doubt | yes | yes | The configuration owes its place to a difference that is not clear, such as noise in `mi`. |
| tied | no | no | The configurations that dominate it are not clearly better. |
| off (not listed) | no | yes | |

With two or three seeds the standard error is itself uncertain: a tie is a reason for more seeds, not a proof of
equality. The error of a single seed is unknown; its differences count in full. Seeds do not show the error of a metric
that all runs share, such as that of importance sampling far from the posterior.

## Which arms are better

`lagvae results rank SWEEP` and `Results.rank()` rank the arms by hypervolume: the volume between the front of an
arm's own configurations and a reference point, in the product of the objectives' units. All arms have the same
reference point, which is printed: in each objective the worst value on the fronts of the arms, moved outwards by
{100 * MARGIN:g} % of the range.

- The {100 * CONFIDENCE:g} % interval is the hypervolume plus or minus its standard deviation in {DRAWS:,} draws of the
  seeds, times a quantile of Student's t with the degrees of freedom of the configuration on the arm's front that has
  the fewest seeds. In simulated sweeps with 2 to 10 seeds it contained the true hypervolume in 94 % to 99 % of the
  cases; the percentiles of the draws did so in 50 % to 92 %.
- `probability` is the fraction of the draws in which a configuration is on the front of all arms. Configurations with
  the same seeds are resampled together, because seeds share noise: the order of the data and the initial weights.
  1.00 means that these seeds do not contradict the front, not that further seeds cannot.
- A configuration with one seed has no probability, and an arm with such a configuration on its front has no interval,
  because their spread is unknown. It takes part at its observed values.
- The reference point depends on the arms, so hypervolumes of different sweeps or objectives are not comparable. Two
  arms with a single point each, at the two extremes of the front, have equal volumes.
- An arm with more configurations has more chances. Compare arms with equal budgets.
- A hypervolume does not say where an arm is good. The front does.

`lagvae results compare SWEEP BASELINE ARM...` and `Results.compare(arm_a, arm_b)` compare arms with the first one in
one column: by default, the first objective that is not of the validation split; otherwise that of `--column`.

- What is compared: in a sweep with `search.paired`, all configurations with the same shared values, pair by pair,
  each by its mean over the seeds that both have. Otherwise, or with `--select`, one configuration represents each
  arm: of those with the most finished seeds, the one with the best mean in a validation column (`--select`, by default
  `valid_nll_elbo:min`). Test values never choose it. Its runs are paired with those of the same seed. The output
  names the configurations, and what is left out. Runs that were stopped or diverged do not count.
- `difference` is the mean of the arm minus the mean of the baseline; `interval` is the {100 * CONFIDENCE:g} % interval
  of the paired t-test, or Welch's if the seeds differ. It assumes normal values, and is not corrected for the number of
  arms.
- `p` is the two-sided p-value of a permutation test of the difference of means, which is exact up to 14 pairs and
  does not assume normal values. `p (Holm)` is corrected for the number of compared arms. `verdict` is `better` or
  `worse` if it is at most {ALPHA:g}.
- `undecided` means that the test found nothing. It does not show that the arms are equal; the interval shows which
  differences remain possible.
- `too few`: no outcome with so few values could be significant. Two arms need {PAIRS} common seeds, or {RUNS} seeds
  each if the seeds differ; with Holm's correction for 4 arms, {PAIRS_OF_FOUR} common seeds. The interval is then all
  there is.

Rates in 2,000 simulated pairs of normal samples. The difference is in standard deviations, of the differences for
pairs and of the values otherwise:

| values | difference | false positives at 5 % | power | power of the t-test |
|---|---|---|---|---|
| 6 pairs | 1.4 | 3.2 % | 61 % | 77 % |
| 8 pairs | 1.1 | 4.8 % | 70 % | 72 % |
| 10 pairs | 0.8 | 4.4 % | 65 % | 66 % |
| 4 + 4 | 2.5 | 3.7 % | 69 % | 84 % |
| 5 + 5 | 2.0 | 4.7 % | 77 % | 79 % |

With 6 pairs or 4 + 4 values the test is conservative, because only its smallest p-value is below 5 %.

The test concerns the two representatives, not the searches that found them. The seeds that choose a representative
are those by which it is compared, so it owes a part of its place to luck. In simulated sweeps of arms that are equal
in truth, with 8 seeds, 9 % of the comparisons are significant if one arm has one configuration and the other the best
of 6; 1 % if both have the best of 6; and 23 % if the configurations of both arms differ by as much as their runs. For
a claim about an arm, run the chosen configurations again with new seeds, or search with `paired: true`, where nothing
is chosen.

## Export

    lagvae results export SWEEP --csv runs.csv            # every run and column in one file; or --parquet FILE
    lagvae results export SWEEP --csv runs.csv --columns nll_iw,mi,probe_accuracy
    lagvae results export SWEEP --latex front.tex         # the configurations on the front
    lagvae results export SWEEP --latex arms.tex --rows arms --columns nll_iw,kl,au --objectives valid_nll_elbo:min

Each call writes one file, which replaces an old one as a whole. CSV and Parquet have one row per run, whatever its
status, and a column `version`: `current`, or `earlier` for runs of an earlier version of the sweep. In CSV, null is
empty, lists are JSON, and times are ISO 8601.

The LaTeX table needs the package booktabs. A cell is the mean ± standard error over the finished seeds of a
configuration, rounded to two significant digits of the error, with at most {DIGITS} decimals. The best value of a
column is bold only if it is better than every other row by more than {ERRORS:g} standard errors of the difference, and
if the best and the second best row have at least two seeds. With `--rows arms`, the table has the configuration of each
arm with the best mean of the first objective. The best of several means is slightly too good, and more so
for arms with many configurations.

## The report

    lagvae results report SWEEP --out report.html         # also --objectives nll_iw:min,kl:max
    lagvae results report SWEEP OTHER --out both.html     # two sweeps, with a common front where it is valid

The report is one HTML file to open, send or print. It needs no network, and it contains neither weights nor data. The
reasons of failed runs and the sweep file, which it quotes, may contain paths of your machines. It begins with the
answer in a few sentences, each with its uncertainty: the best arm and whether it is clearly better, the differences
from the plain VAE by the same tests as `results compare`, the arms that collapsed in all configurations, and the best
likelihood at equal information. Then come the front (point at a configuration for its fields and seeds), the ranking,
the comparison, likelihood against information, the curves of the best configuration of each arm, parallel coordinates
and the importance of the searched fields, costs, runs without a result, diagnosis, provenance, and the sweep file.
Figures and tables contain the runs of the current sweep file, as those of the other commands do.

The importance of a field is that of Optuna's PED-ANOVA (Watanabe et al. 2023), as a share of all fields of the arm.
It is compared with {SHUFFLES} shuffles of the values among the configurations: a field within chance tells nothing,
whatever its share. It needs {LEAST_CONFIGURATIONS} configurations. Sweeps have a common front only if the content of
their data and the settings of their evaluation are the same. If runs of an arm were diagnosed (`lagvae diagnose
--sweep SWEEP`), the report counts the causes.

## Differences between two runs

    lagvae results diff RUN_ID RUN_ID        # SWEEP/RUN_ID if several sweeps have the run; --json

It lists what differs: fields of the configuration by dotted key, data, plugins, code, environment, and metrics with
their absolute and relative difference. Values are equal only if they are so to the last digit. Times, memory and the
history of attempts do not count: if nothing else differs, the command says so.
"""

STUDIES_INTRODUCTION = """\
## Studies

`lagvae evaluate RUN_ID --what probe,tsne` applies studies to trained models. The models must have been kept: either set
`keep: models` in the sweep file, or run `lagvae run SPEC --keep models`. By default no model is kept, because a model
can take hundreds of megabytes. The weights of a run are in `<results>/<sweep>/models/<run_id>.pt`.

The findings of a study are stored in two places:

- `<results>/<sweep>/evaluations/<study>/<run_id>.parquet`: one row of typed columns.
- `<results>/<sweep>/evaluations/<study>/<table>/<run_id>.parquet`: the rows of each table of the study. The first
  column is `run_id`.

If a study is repeated for a run, its new findings replace the old ones. The numeric columns of studies can be used like
columns of the runs in `lagvae results show SWEEP --columns nll_iw,probe_accuracy` and in
`lagvae results pareto SWEEP --objectives`. The row of each study starts with these columns:
"""


def results_page() -> str:
    """Return the content of docs/results.md."""
    sections = [
        ("Identity and status", IDENTITY),
        ("Fields of the trial (null if the model or the data do not have them)", list(trial_columns())),
        ("Fields of strategies (null if the arm does not have them)", _searched_fields()),
        ("Metrics", _rows(METRIC_COLUMNS)),
        *((f"Metrics of {kinds} data only", _rows(columns)) for columns, kinds in _kinds_by_columns().items()),
        *((f"Metrics of {kind} only", _rows(s.columns)) for kind, s in CATALOGUE.items() if s.columns),
        ("Cost", _rows(COST_COLUMNS)),
        ("Provenance", PROVENANCE),
        ("Curves", _rows(CURVE_COLUMNS)),
    ]
    runs = ("\n".join([f"## {title}", "", *_table(rows), ""]) for title, rows in sections)
    studies = (study_section(study) for study in STUDIES.values())
    return "\n".join([INTRODUCTION, QUESTIONS, *runs, STUDIES_INTRODUCTION, *_table(EVALUATION_COLUMNS), "", *studies])


def _kinds_by_columns() -> dict[tuple[Column, ...], str]:
    """Return the kinds of data that share the same columns, joined by "and"."""
    kinds: dict[tuple[Column, ...], list[str]] = {}
    for kind, metrics in DATA_SPECIFIC_METRICS.items():
        kinds.setdefault(metrics.columns, []).append(kind)
    return {columns: " and ".join(names) for columns, names in kinds.items()}


def _searched_fields() -> list[tuple[str, str, str]]:
    descriptions = {
        f"{kind}.{field}": strategy.model_fields[field].description or ""
        for kind, strategy in CATALOGUE.items()
        for field, _, _ in tunables(strategy)
    }
    return [(name, kind, descriptions[name]) for name, kind in tunable_columns()]


def _rows(columns: Iterable[Column]) -> list[tuple[str, str, str]]:
    return [(column.name, column.kind, column.doc) for column in columns]


def _table(rows: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    return markdown_table(
        ("column", "type", "meaning"), ((f"`{name}`", COLUMN_TYPES[kind], doc) for name, kind, doc in rows)
    )


if __name__ == "__main__":
    pages = {"results": results_page, "strategies": catalogue_page, "reference": reference_page}
    print(pages[sys.argv[1]](), end="")
