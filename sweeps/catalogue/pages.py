"""What the documentation takes from declarations in the code, as Markdown.

python -m sweeps.catalogue.pages results       docs/results.md, whole
python -m sweeps.catalogue.pages strategies    docs/strategies.md, from the heading of the catalogue on
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from lagvae_core.evaluation.data_specific_metrics import DATA_SPECIFIC_METRICS
from lagvae_core.settings import tunables
from lagvae_core.strategies import CATALOGUE
from lagvae_core.studies import STUDIES
from lagvae_core.training.record import CURVE_COLUMNS, METRIC_COLUMNS
from sweeps.catalogue.strategies import catalogue_page
from sweeps.catalogue.studies import study_section
from sweeps.formatting import table
from sweeps.storage.schema import COST_COLUMNS, IDENTITY, PROVENANCE, SCHEMA_VERSION, tunable_columns
from sweeps.studies.table import EVALUATION_COLUMNS

__all__ = ["results_page"]

INTRODUCTION = f"""\
# The table

`<results>/<sweep>/runs/*.parquet` has one row a run, `<results>/<sweep>/curves/*.parquet` one row a run and epoch, and
`<results>/<sweep>/spec.yaml` the sweep. Every column is always present and typed; null means not measured; NaN and
infinity are never stored; counts are 64-bit integers. Schema version {SCHEMA_VERSION} stands in each file's metadata.
DuckDB, pandas, polars and pyarrow read the folders unaided:

    SELECT arm, avg(nll_iw), avg(mi), avg(au) FROM 'results/quickstart/runs/*.parquet'
    WHERE status = 'finished' GROUP BY arm;

A folder may hold rows of earlier versions of its sweep; `config_id`, `spec_hash` and `data_fingerprint` tell them
apart, and `lagvae results pareto` leaves them out.

## What may be compared

- All default metrics come from one triple: proposal q(z|x), the prior that the model is sampled from, decoder p(x|z).
  So `nll_iw` and `nll_elbo` bound the likelihood of the model that is sampled from, whatever it was trained with.
- Metrics are of the split that `evaluation.split` names, the test set by default, as the papers report them. A search
  told of test numbers selects on them; to search on validation instead, write
  `objectives: {{valid_nll_elbo: min, valid_au: max}}`.
- `mi` mixes over the whole split and saturates at `mi_cap`; `mi_batch` mixes within batches, as He et al. 2019 do, and
  saturates at `mi_batch_cap`. Never compare one with the other.
- KL above zero does not show use of the latent space; read `mi` and `au` beside it.
- `au` counts in units of the prior's standard deviation: a remedy that only rescales its latent space gains nothing.
- Columns ending in `_paper` and `_batch` repeat a paper's protocol beside the comparable number. `nll_iw_paper` of
  Scale-VAE weighs samples of one density with another and is no likelihood: it improves as the factor grows, whatever
  the model. Its valid `nll_iw` charges the generator u ~ N(0, f_bar^2) that the paper samples from, and is larger.
- An interrupted run has no metrics; a diverged one neither. They are rows, never replicates.
"""


STUDIES_INTRODUCTION = """\
## Studies

`lagvae evaluate RUN_ID --what probe,tsne` measures models that a sweep kept (`keep: models` in its file, or
`lagvae run SPEC --keep models`; by default nothing is kept, for a model can be hundreds of megabytes). The weights of a
run are `<results>/<sweep>/models/<run_id>.pt`. What a study finds is one row of typed columns in
`<results>/<sweep>/evaluations/<study>/<run_id>.parquet`, and the rows of each of its tables, with `run_id` before the
table's own columns, in `<results>/<sweep>/evaluations/<study>/<table>/<run_id>.parquet`. To measure again replaces
both. `lagvae results show SWEEP --columns nll_iw,probe_accuracy` joins the numeric columns to the runs, as do the axes
of `lagvae results pareto`. The rows of every study begin with these columns:
"""


def results_page() -> str:
    """docs/results.md, whole."""
    tunable_docs = {
        f"{kind}.{field}": strategy.model_fields[field].description or ""
        for kind, strategy in CATALOGUE.items()
        for field, _, _ in tunables(strategy)
    }
    sections = [
        ("Identity and status", IDENTITY),
        ("Searched fields (null where the arm lacks them)", [(n, k, tunable_docs[n]) for n, k in tunable_columns()]),
        ("Metrics", [(c.name, c.kind, c.doc) for c in METRIC_COLUMNS]),
        *(
            (f"Metrics of {kind} data alone", [(c.name, c.kind, c.doc) for c in task.columns])
            for kind, task in DATA_SPECIFIC_METRICS.items()
        ),
        *(
            (f"Metrics of {kind} alone", [(c.name, c.kind, c.doc) for c in strategy.columns])
            for kind, strategy in CATALOGUE.items()
            if strategy.columns
        ),
        ("Cost", [(c.name, c.kind, c.doc) for c in COST_COLUMNS]),
        ("Provenance", PROVENANCE),
        ("Curves", [(c.name, c.kind, c.doc) for c in CURVE_COLUMNS]),
    ]
    runs = (_section(title, rows) for title, rows in sections)
    studies = (study_section(study) for study in STUDIES.values())
    return "\n".join([INTRODUCTION, *runs, STUDIES_INTRODUCTION, *_lines(EVALUATION_COLUMNS), "", *studies])


def _section(title: str, rows: Iterable[tuple[str, str, str]]) -> str:
    return "\n".join([f"## {title}", "", *_lines(rows), ""])


def _lines(rows: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    kinds = {"float": "float64", "int": "int64", "str": "string", "floats": "list of float64", "time": "timestamp"}
    cells = ((f"`{name}`", kinds.get(kind, kind), doc) for name, kind, doc in rows)
    return table(("column", "type", "meaning"), cells)


if __name__ == "__main__":
    pages = {"results": results_page, "strategies": catalogue_page}
    print(pages[sys.argv[1]](), end="")
