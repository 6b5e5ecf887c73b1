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
from sweeps.catalogue.reference import reference_page
from sweeps.catalogue.strategies import catalogue_page
from sweeps.catalogue.studies import COLUMN_TYPES, study_section
from sweeps.formatting import markdown_table
from sweeps.storage.schema import COST_COLUMNS, IDENTITY, PROVENANCE, SCHEMA_VERSION, trial_columns, tunable_columns
from sweeps.studies.table import EVALUATION_COLUMNS

__all__ = ["results_page"]

INTRODUCTION = f"""\
# The table

The results of a sweep are in `<results>/<sweep>/`:

- `runs/*.parquet`: one row per run.
- `curves/*.parquet`: one row per run and epoch. The curve of a running run is written after its first epoch, and then
  at most every 10 s; a run that ends without a record, such as an `interrupted` one, keeps the epochs that it reported.
- `spec.yaml`: the sweep file.
- `archive/*/`: files that `lagvae results archive` or a driver moved there. No command reads them.

Every column is always present and typed. Null means "not measured". NaN and infinity are never stored. Counts are
64-bit integers. The metadata of each file holds the schema version, which is {SCHEMA_VERSION}, and `lagvae_sha256`, the
SHA-256 of the file with 64 zeros in place of this value. lagvae does not read a file that differs from it. Each page
has a CRC-32 as well. Files of version 1 have neither. DuckDB, pandas, polars and pyarrow read the folders directly:

    SELECT arm, config_id, avg(nll_iw), avg(mi), avg(au) FROM 'results/quickstart/runs/*.parquet'
    WHERE status = 'finished' GROUP BY arm, config_id;

A folder can contain rows of earlier versions of its sweep. They differ in `config_id`, `spec_hash` or
`data_fingerprint`. `lagvae results pareto` ignores them, `show`, `curves` and `compare` mark them, and
`lagvae results archive SWEEP --orphans` moves them away. If several files hold the row of one run, the file
`<run_id>.parquet` counts, or else the first by name.

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
  those of its last epoch, not of a best epoch; `stop_reason` names the epoch and the rule ([search.md](search.md)).

## Which configurations are on the front

`lagvae results pareto` compares the means over seeds, rounded to the {DIGITS} decimals that it prints: smaller
differences are noise of floating-point arithmetic. A configuration is on the front if no other one is at least as good
in every objective and better in one.

A difference is *clear* if it exceeds {ERRORS:g} standard errors of the difference, sqrt(se_1^2 + se_2^2). A
configuration is *beaten* if another one is clearly better in one objective and clearly worse in none. The column
`front`, which is `standing` in JSON, combines both:

| `front` | on the front | beaten | meaning |
|---|---|---|---|
| on | yes | no | The seeds do not contradict the front. |
| in doubt | yes | yes | The configuration owes its place to a difference that is not clear, such as noise in `mi`. |
| tied | no | no | The configurations that dominate it are not clearly better. |
| off (not listed) | no | yes | |

With two or three seeds the standard error is itself uncertain: a tie is a reason for more seeds, not a proof of
equality. The error of a single seed is unknown; its differences count in full. Seeds do not show the error of a metric
that all runs share, such as that of importance sampling far from the posterior.
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
        *((f"Metrics of {kind} data only", _rows(m.columns)) for kind, m in DATA_SPECIFIC_METRICS.items()),
        *((f"Metrics of {kind} only", _rows(s.columns)) for kind, s in CATALOGUE.items() if s.columns),
        ("Cost", _rows(COST_COLUMNS)),
        ("Provenance", PROVENANCE),
        ("Curves", _rows(CURVE_COLUMNS)),
    ]
    runs = ("\n".join([f"## {title}", "", *_table(rows), ""]) for title, rows in sections)
    studies = (study_section(study) for study in STUDIES.values())
    return "\n".join([INTRODUCTION, *runs, STUDIES_INTRODUCTION, *_table(EVALUATION_COLUMNS), "", *studies])


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
