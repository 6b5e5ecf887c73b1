"""The published numbers and the descriptions of the papers are complete and consistent."""

from collections import Counter

import pytest
from helpers import rejects
from pydantic import ValidationError

from lagvae_core.config.trial import parse_trial
from sweeps.analysis.statistics import TIME
from sweeps.papers import Metric, Paper, find_paper, paper_names, published_rows
from sweeps.storage.schema import objective_columns

PAPERS = [find_paper(name) for name in paper_names()]

SIZES = {
    "he2019": {
        "Table 1": 88,
        "Table 2": 43,
        "Table 3": 18,
        "Table 4": 25,
        "Table 5 (App. C)": 108,
        "Table 6 (App. C)": 53,
        "Table 7 (App. D)": 24,
        "Table 8 (App. D)": 26,
        "Table 9 (App. E)": 84,
        "Table 10 (App. F)": 16,
    },
    "song2024": {"Table 1": 130, "Table 2": 12, "Table 3": 36, "Table 4": 50, "Table 5": 16},
}


@pytest.fixture(params=PAPERS, ids=lambda paper: paper.name)
def paper(request) -> Paper:
    return request.param


def number_of(paper, table, dataset, model, metric, hyperparameters=""):
    (number,) = (
        row.numbers[metric]
        for row in published_rows(paper)
        if (row.table, row.dataset, row.model, row.hyperparameters) == (table, dataset, model, hyperparameters)
    )
    return number


def every_metric(paper):
    return [*paper.metrics.values(), *(m for exception in paper.exceptions for m in exception.metrics.values())]


def test_the_shipped_papers():
    assert paper_names() == ["he2019", "song2024"]
    assert [paper.name for paper in PAPERS] == paper_names()


def test_every_table_is_complete(paper):
    sizes = Counter()
    for row in published_rows(paper.name):
        sizes[row.table] += len(row.numbers)
    assert sizes == SIZES[paper.name]


@pytest.mark.parametrize(
    ("where", "mean", "std", "text"),
    [
        (("he2019", "Table 1", "Yahoo", "Ours + anneal", "NLL"), 326.7, 0.1, "326.7 (0.1)"),
        (("he2019", "Table 1", "Yelp", "beta-VAE", "AU", "beta=0.6"), 3.8, 2.9, "3.8 (2.9)"),
        (("he2019", "Table 6 (App. C)", "OMNIGLOT", "Ours", "-ELBO"), 89.52, 0.03, "89.52 (0.03)"),
        (("he2019", "Table 4", "Yelp", "Ours", "MI", "inner_iterations=50"), 2.8, None, "2.8"),
        (("song2024", "Table 1", "Yahoo", "SA-VAE*", "MI"), 3.7, None, "3.7"),
        (("song2024", "Table 3", "Yahoo", "Scale-VAE", "KL", "des_std=1.5;f_epo=7"), 3.0, None, "3.0"),
    ],
)
def test_numbers_are_those_printed(where, mean, std, text):
    number = number_of(*where)
    assert (number.mean, number.std, number.text) == (mean, std, text)


def test_every_published_number_has_a_meaning(paper):
    for row in published_rows(paper.name):
        for metric in row.numbers:
            assert paper.metric(row, metric).meaning


def test_numbers_are_compared_with_columns_of_the_table(paper):
    for metric in every_metric(paper):
        assert set(metric.columns) <= {*objective_columns(), TIME}


def test_every_published_data_set_belongs_to_one_data_set_of_the_paper(paper):
    named = [name for dataset in paper.datasets.values() for name in dataset.published]
    assert len(named) == len(set(named))
    assert {row.dataset for row in published_rows(paper.name)} == set(named)


def test_every_model_is_published_and_listed_once(paper):
    in_tables = {(row.model, row.hyperparameters) for row in published_rows(paper.name)}
    named = [(model.model, model.hyperparameters) for model in paper.models]
    assert len(named) == len(set(named))
    assert set(named) <= in_tables
    assert {model for model, _ in in_tables - set(named)} == set(paper.unmatched)


def test_every_model_is_a_valid_stack(paper):
    for model in paper.models:
        config = parse_trial({"data": {"kind": "text", "path": "."}, "strategies": list(model.stack)})
        assert len(config.strategies) == len(model.stack)
        for stated, strategy in zip(model.stack, config.strategies, strict=True):
            assert stated.keys() <= {"kind", *type(strategy).model_fields}
        assert set(model.optional) <= {strategy.kind for strategy in config.strategies}


def test_exceptions_and_notes_refer_to_published_rows(paper):
    rows = published_rows(paper.name)
    assert set(paper.tables) <= {row.table for row in rows}
    for exception in paper.exceptions:
        assert set(exception.models) <= {row.model for row in rows}
        assert set(exception.tables) <= {row.table for row in rows}
        assert set(exception.metrics) <= set(paper.metrics)


def test_the_keys_of_a_setup_are_keys_of_a_trial(paper):
    known = {"seeds", "test_examples", "tokens_per_example"}
    for data in ({"kind": "text", "path": "."}, {"kind": "synthetic"}):
        config = parse_trial({"data": data}).model_dump(mode="json")
        known |= {
            f"{section}.{key}" for section in ("data", "model", "training", "evaluation") for key in config[section]
        }
    for dataset in paper.datasets:
        assert paper.setup_of(dataset).keys() <= known


def test_mi_within_batches_is_never_compared_with_mi_over_the_split(paper):
    for row in published_rows(paper.name):
        if "MI" in row.numbers:
            metric = paper.metric(row, "MI")
            allowed = {"batch": {"mi_batch"}, "split": {"mi", "mi_q"}, "unknown": set()}[metric.mixture]
            assert set(metric.columns) <= allowed
            assert metric.mixture == "batch" or paper.name != "he2019"
            assert metric.mixture != "split" or not row.model.endswith("*") or row.model == "Scale-VAE*"


@pytest.mark.parametrize(
    ("columns", "mixture"), [(["mi"], "batch"), (["mi_batch"], "split"), (["mi"], "unknown"), (["mi_batch"], None)]
)
def test_a_metric_that_mixes_the_two_is_rejected(columns, mixture):
    with pytest.raises(ValidationError, match="does not allow"):
        Metric(columns=columns, mixture=mixture, meaning="wrong")


def test_likelihoods_of_he2019_are_importance_weighted_except_those_reported_by_others():
    paper = find_paper("he2019")
    others = {"CNN-VAE (Yang et al., 2017)", "SA-VAE + anneal (Kim et al., 2018)"}
    for row in published_rows("he2019"):
        expected = ("nll_elbo",) if row.table == "Table 1" and row.model in others else ("nll_iw",)
        if "NLL" in row.numbers:
            assert paper.metric(row, "NLL").columns == expected
        if "-ELBO" in row.numbers:
            assert paper.metric(row, "-ELBO").columns == ("nll_elbo",)


def test_reported_likelihoods_are_minus_the_elbo_of_table_5():
    """This justifies the exception in the test above."""
    for model in ("CNN-VAE (Yang et al., 2017)", "SA-VAE + anneal (Kim et al., 2018)"):
        in_appendix = number_of("he2019", "Table 5 (App. C)", "Yahoo", model, "-ELBO")
        assert number_of("he2019", "Table 1", "Yahoo", model, "NLL") == in_appendix


def test_scale_vae_is_compared_with_the_columns_of_its_protocol():
    paper = find_paper("song2024")
    (row,) = (
        r for r in paper.rows("yahoo") if (r.model, r.hyperparameters) == ("Scale-VAE", "1.1, 1") and "NLL" in r.numbers
    )
    columns = {name: paper.metric(row, name).columns for name in row.numbers}
    assert columns == {
        "NLL": ("nll_iw_paper", "nll_elbo_paper"),
        "KL": ("kl_train",),
        "MI": ("mi", "mi_q"),
        "AU": ("au", "au_hat"),
    }


def test_an_unknown_paper_is_rejected():
    with rejects("--paper") as issues:
        find_paper("bowman2016")
    assert issues[0].value == "bowman2016"
    assert all(name in issues[0].message for name in paper_names())
