"""A sweep compared with a paper: matched arms and rows, columns and published numbers, and differences."""

import json

import pytest
from commands import check_rejected, files_below
from helpers import rejects
from rich.console import Console
from worlds import TINY_TRIAL, play, spec_of

from lagvae_core.config.trial import parse_trial
from sweeps.cli import compare as compare_output
from sweeps.papers import find_paper, paper_names
from sweeps.papers.comparison import compare_with_paper
from sweeps.papers.setups import StoredConfiguration, published_dataset_of, setup_differences
from sweeps.spec.sweep import load_spec
from sweeps.storage.table import ResultsFolder

LAGGING = {"kind": "aggressive", "budget": "converge"}
ANNEAL = {"kind": "kl_linear_epoch", "warm_up": 10}
SCALE = {"kind": "scale_vae", "des_std": 0.7, "f_epo": 1}
BN = {"kind": "bn_vae", "gamma": 0.6}
ARMS = {"vae": [], "lagging": [LAGGING], "both": [LAGGING, ANNEAL]}
TEXT = {"kind": "text", "path": "/corpora/yelp"}


def numbers(run):
    """Values that differ between all columns and seeds, so that no two can be confused."""
    names = ("nll_iw", "nll_elbo", "kl", "kl_train", "mi", "mi_batch", "mi_q", "nll_iw_paper", "nll_elbo_paper")
    values = {name: 10.0 * (place + 1) + run.seed for place, name in enumerate(names)}
    train = 30.0 if run.config.strategies else 10.0
    values |= {"au": 1, "au_hat": 2, "n": 50, "tokens": 550, "seconds_train": train, "device": "cuda:0"}
    return values | {"config": run.config.model_dump_json()}


def stored(tmp_path, arms=ARMS, answer=numbers, **trial):
    """The folder of a finished sweep with one configuration per arm and two seeds."""
    search = {"sampler": "random", "configurations": 1, "seeds": 2, "seed": 0}
    spec = spec_of(arms=arms, search=search, trial=TINY_TRIAL | trial)
    folder = ResultsFolder(str(tmp_path / "results"), "tiny")
    folder.prepare()
    folder.write("spec.yaml", spec.source.encode())
    for row in play(spec, answer=answer)[0]:
        folder.write_run(row)
    return folder


def compared(folder, paper="he2019", dataset="yahoo", everything=False):
    return compare_with_paper(folder, find_paper(paper), dataset, everything=everything).to_json()


def rows_of(comparison, table):
    """The rows of a table; for None, those of the arms that match no published row."""
    return [row for section in comparison["tables"] if section["table"] == table for row in section["rows"]]


def pairs(comparison, table):
    rows = rows_of(comparison, table)
    return {row["arm"]: (row["published"]["model"], row["published"]["hyperparameters"]) for row in rows}


def metric_of(row, name):
    (metric,) = (metric for metric in row["metrics"] if metric["metric"] == name)
    return metric


class TestMatching:
    def test_an_arm_matches_the_published_model_with_its_stack(self, tmp_path):
        assert pairs(compared(stored(tmp_path)), "Table 1") == {
            "vae": ("VAE", ""),
            "lagging": ("Ours", ""),
            "both": ("Ours + anneal", ""),
        }

    def test_the_order_of_a_stack_does_not_matter(self, tmp_path):
        folder = stored(tmp_path, {"both": [ANNEAL, LAGGING]})
        assert pairs(compared(folder), "Table 1") == {"both": ("Ours + anneal", "")}

    def test_equal_fields_are_an_exact_match(self, tmp_path):
        (row,) = rows_of(compared(stored(tmp_path, {"beta": [{"kind": "beta_vae", "beta": 0.6}]})), "Table 1")
        assert row["published"]["hyperparameters"] == "beta=0.6"
        assert row["exact"]
        assert row["settings"] == []

    def test_otherwise_the_nearest_row_matches_and_both_values_are_reported(self, tmp_path):
        (row,) = rows_of(compared(stored(tmp_path, {"beta": [{"kind": "beta_vae", "beta": 0.55}]})), "Table 1")
        assert row["published"]["hyperparameters"] == "beta=0.6"
        assert not row["exact"]
        assert row["settings"] == [{"key": "beta_vae.beta", "here": 0.55, "there": 0.6, "source": "published"}]

    def test_a_number_is_nearer_to_a_number_than_to_a_word(self, tmp_path):
        folder = stored(tmp_path, {"few": [{"kind": "aggressive", "budget": 1000}]})
        assert pairs(compared(folder, dataset="yelp"), "Table 4") == {"few": ("Ours", "inner_iterations=70")}
        (row,) = rows_of(compared(folder, dataset="yelp"), "Table 1")
        assert row["settings"] == [
            {"key": "aggressive.budget", "here": 1000, "there": "converge", "source": "published"}
        ]

    def test_a_field_that_the_paper_does_not_state_is_compared_with_the_default(self, tmp_path):
        folder = stored(tmp_path, {"per_module": [LAGGING | {"clip_scope": "per_module"}]})
        (row,) = rows_of(compared(folder), "Table 1")
        assert row["exact"]
        assert row["settings"] == [
            {"key": "aggressive.clip_scope", "here": "per_module", "there": "all", "source": "default"}
        ]

    def test_missing_annealing_that_the_paper_probably_uses_is_reported(self, tmp_path):
        arms = {"bn": [BN], "bn+anneal": [BN, ANNEAL]}
        plain, annealed = rows_of(compared(stored(tmp_path, arms), "song2024"), "Table 1")
        assert [item["source"] for item in plain["settings"]] == ["probable"]
        assert annealed["settings"] == []

    def test_scale_vae_with_and_without_annealing_are_two_rows(self, tmp_path):
        arms = {"scale": [SCALE], "scale+anneal": [SCALE, ANNEAL]}
        matched = pairs(compared(stored(tmp_path, arms), "song2024"), "Table 1")
        assert matched == {"scale": ("Scale-VAE*", "0.7, 1"), "scale+anneal": ("Scale-VAE", "0.7, 1")}

    def test_an_arm_that_matches_no_row_has_no_published_numbers(self, tmp_path):
        comparison = compared(stored(tmp_path, {"vae": [], "bits": ["free_bits"]}))
        (row,) = rows_of(comparison, None)
        assert row["arm"] == "bits"
        assert row["published"] is None
        assert all(metric["published"] is None for metric in row["metrics"])
        assert metric_of(row, "NLL")["here"]["nll_iw"]["mean"] == 10.5

    def test_published_rows_that_match_no_arm_are_listed_on_request(self, tmp_path):
        folder = stored(tmp_path)
        assert len(rows_of(compared(folder), "Table 1")) == 3
        whole = rows_of(compared(folder, everything=True), "Table 1")
        assert (
            len(whole) == len({(row["published"]["model"], row["published"]["hyperparameters"]) for row in whole}) == 13
        )
        assert [row["arm"] for row in whole].count(None) == 10
        assert {row["arm"] for row in rows_of(compared(folder, everything=True), "Table 3")} == {"vae", "lagging", None}

    def test_a_stored_row_without_a_configuration_matches_no_published_row(self, tmp_path):
        folder = stored(tmp_path, answer=lambda run: numbers(run) | {"config": None})
        comparison = compared(folder)
        assert [row["arm"] for row in rows_of(comparison, None)] == ["vae", "lagging", "both"]
        assert {difference["key"] for difference in comparison["differences"]} == {
            "seeds",
            "test_examples",
            "tokens_per_example",
        }


class TestNumbers:
    def test_mean_and_standard_error_next_to_the_published_numbers(self, tmp_path):
        row = rows_of(compared(stored(tmp_path)), "Table 1")[-1]
        assert row["arm"] == "lagging"
        metric = metric_of(row, "NLL")
        assert metric["published"] == {"mean": 328.2, "std": 0.2}
        assert metric["here"] == {"nll_iw": {"mean": 10.5, "se": pytest.approx(0.5), "n": 2}}
        assert row["runs"] == {"finished": 2}

    def test_a_likelihood_that_is_the_negative_elbo_is_compared_with_nll_elbo(self, tmp_path):
        arms = {"cnn": ["cnn_decoder"], "vae": []}
        cnn, vae = rows_of(compared(stored(tmp_path, arms)), "Table 1")
        assert metric_of(cnn, "NLL")["here"].keys() == {"nll_elbo"}
        assert metric_of(vae, "NLL")["here"].keys() == {"nll_iw"}
        in_appendix = rows_of(compared(stored(tmp_path, arms)), "Table 5 (App. C)")[-1]
        assert metric_of(in_appendix, "-ELBO")["here"].keys() == {"nll_elbo"}
        assert metric_of(in_appendix, "IW")["here"].keys() == {"nll_iw"}

    @pytest.mark.parametrize("everything", [False, True])
    @pytest.mark.parametrize("dataset", ["yahoo", "yelp", "omniglot", "synthetic"])
    def test_mi_within_batches_is_never_compared_with_mi_over_the_split(self, tmp_path, dataset, everything):
        comparison = compared(stored(tmp_path), dataset=dataset, everything=everything)
        columns_of_mi = [
            m["here"].keys()
            for s in comparison["tables"]
            for r in s["rows"]
            for m in r["metrics"]
            if m["metric"] == "MI"
        ]
        assert columns_of_mi
        assert all(columns == {"mi_batch"} for columns in columns_of_mi)

    def test_quoted_mi_is_compared_with_mi_batch(self, tmp_path):
        both, vae = rows_of(compared(stored(tmp_path, {"vae": [], "both": ARMS["both"]}), "song2024"), "Table 1")[::-1]
        assert (both["published"]["model"], vae["published"]["model"]) == ("Agg-VAE*", "VAE")
        assert metric_of(both, "MI")["here"].keys() == {"mi_batch"}
        assert metric_of(vae, "MI")["here"].keys() == {"mi"}

    def test_numbers_of_scale_vae_are_compared_with_the_columns_of_its_protocol(self, tmp_path):
        (row,) = rows_of(compared(stored(tmp_path, {"scale": [SCALE]}), "song2024"), "Table 1")
        means = {name: value["mean"] for metric in row["metrics"] for name, value in metric["here"].items()}
        expected = {"nll_iw_paper": 80.5, "nll_elbo_paper": 90.5, "kl_train": 40.5, "mi": 50.5, "mi_q": 70.5}
        assert means == expected | {"au": 1, "au_hat": 2}

    def test_time_is_relative_to_the_plain_vae(self, tmp_path):
        vae, lagging = rows_of(compared(stored(tmp_path)), "Table 3")
        name = "training time relative to VAE"
        assert metric_of(vae, name)["here"]["time"]["mean"] == 1.0
        assert metric_of(lagging, name)["here"]["time"]["mean"] == 3.0
        assert metric_of(lagging, name)["published"]["mean"] == 2.2

    def test_without_a_plain_vae_there_is_no_time(self, tmp_path):
        (row,) = rows_of(compared(stored(tmp_path, {"lagging": [LAGGING]})), "Table 3")
        assert metric_of(row, "training time relative to VAE")["here"] == {"time": None}

    def test_unfinished_runs_are_counted_but_are_not_replicates(self, tmp_path):
        def one_diverges(run):
            ended = {"status": "diverged"} if run.seed == 1 else {}
            return numbers(run) | ended

        row = rows_of(compared(stored(tmp_path, answer=one_diverges)), "Table 1")[0]
        assert row["runs"] == {"finished": 1, "diverged": 1}
        assert metric_of(row, "KL")["here"]["kl"] == {"mean": 30.0, "se": None, "n": 1}

    def test_measures_of_generated_sentences_are_not_compared(self, tmp_path):
        folder = stored(tmp_path, {"bn": [BN]})
        assert rows_of(compared(folder, "song2024"), "Table 5") == []
        row = rows_of(compared(folder, "song2024", everything=True), "Table 5")[0]
        assert metric_of(row, "PPL")["here"] == {}


class TestSetup:
    def test_every_different_value_is_reported(self, tmp_path):
        differences = {
            d["key"]: (d["here"], d["there"], d["origin"]) for d in compared(stored(tmp_path))["differences"]
        }
        assert differences["data.kind"] == ("synthetic", "text", "paper")
        assert differences["model.hidden"] == (8, 1024, "paper")
        assert differences["training.batch_size"] == (16, 32, "code")
        assert differences["evaluation.iw_samples"] == (10, 500, "paper")
        assert differences["test_examples"] == (50, 10000, "code")
        assert differences["tokens_per_example"] == (11.0, 79.9, "inferred")
        assert differences["seeds"] == (2, 5, "paper")
        assert "training.optimiser" not in differences

    def test_configurations_with_a_different_value_are_counted(self, tmp_path):
        one = {"config": {"training": {"optimiser": "adam"}}, "finished": []}
        two = {"config": {"training": {"optimiser": "sgd"}}, "finished": []}
        stored = [StoredConfiguration(**one), StoredConfiguration(**two)]
        differences = setup_differences(find_paper("he2019"), "yahoo", stored)
        assert [d.text() for d in differences] == [
            "training.optimiser: adam stored in 1 of 2 configurations, sgd in the paper"
        ]

    def test_none_is_a_value(self, tmp_path):
        one = StoredConfiguration({"data": {"limit": 20000}, "evaluation": {"limit": None}}, [])
        (difference,) = setup_differences(find_paper("he2019"), "yelp", [one])
        assert difference.text() == "data.limit: 20000 stored, none in the paper"

    def test_the_length_of_texts_is_compared_with_the_tolerance_of_printed_numbers(self):
        def lengths(tokens):
            one = StoredConfiguration({}, [{"n": 10000, "tokens": tokens}] * 5)
            return [d.key for d in setup_differences(find_paper("he2019"), "yelp", [one])]

        assert lengths(966_600) == lengths(970_000) == []
        assert lengths(990_000) == ["tokens_per_example"]

    @pytest.mark.parametrize("dataset", ["yahoo", "yelp"])
    def test_the_defaults_for_text_are_those_of_the_paper(self, dataset):
        config = parse_trial({"data": TEXT}).model_dump(mode="json")
        assert setup_differences(find_paper("he2019"), dataset, [StoredConfiguration(config, [])]) == []

    def test_the_shipped_sweep_of_the_paper_differs_in_one_documented_value(self):
        spec = load_spec("he2019_synthetic")
        config = spec.trial_config(spec.arms[-1], {}, 0).model_dump(mode="json")
        differences = setup_differences(find_paper("he2019"), "synthetic", [StoredConfiguration(config, [])])
        assert [(d.key, d.here, d.there) for d in differences] == [("evaluation.mi_batch_size", 32, 16)]


class TestDataset:
    @pytest.mark.parametrize(
        ("paper", "data", "expected"),
        [
            ("he2019", {"kind": "synthetic"}, "synthetic"),
            ("he2019", {"kind": "text", "path": "/corpora/Yahoo"}, "yahoo"),
            ("he2019", {"kind": "text", "path": "/corpora/yelp_short/v1"}, "yelp"),
            ("song2024", {"kind": "text", "path": "/corpora/yelp_short"}, "yelp_short"),
            ("song2024", {"kind": "text", "path": "/corpora/yelp"}, "yelp"),
            ("he2019", {"kind": "images", "path": "data/omniglot_small1.npz"}, "omniglot"),
        ],
    )
    def test_it_is_inferred_from_kind_and_folder(self, paper, data, expected):
        assert published_dataset_of(find_paper(paper), [StoredConfiguration({"data": data}, [])], None) == expected

    @pytest.mark.parametrize(
        "paths", [("/yahoo/old/corpus",), ("/corpora/yahoo", "/corpora/yelp"), ("/corpora/yelp", "/corpora/mine")]
    )
    def test_no_or_several_matching_data_sets_are_rejected_with_the_list(self, paths):
        stored = [StoredConfiguration({"data": {"kind": "text", "path": path}}, []) for path in paths]
        with rejects("--dataset") as issues:
            published_dataset_of(find_paper("he2019"), stored, None)
        assert "yahoo, yelp, omniglot, synthetic" in issues[0].hint

    def test_the_option_takes_precedence(self):
        stored = [StoredConfiguration({"data": TEXT}, [])]
        assert published_dataset_of(find_paper("he2019"), stored, "yahoo") == "yahoo"

    def test_an_unknown_data_set_is_rejected(self):
        with rejects("--dataset") as issues:
            published_dataset_of(find_paper("song2024"), [], "omniglot")
        assert issues[0].value == "omniglot"


class TestCommand:
    @pytest.fixture
    def compare(self, call):
        """Run `lagvae results compare tiny ARGUMENTS`."""
        return lambda *arguments: call("results", "compare", "tiny", *arguments)

    def test_a_table(self, compare, tmp_path):
        stored(tmp_path)
        ended = compare("--paper", "he2019", "--dataset", "yahoo")
        assert ended.returncode == 0
        lines = [" ".join(line.split()) for line in ended.stdout.splitlines()]
        assert "Table 1, Yahoo" in lines
        heads = "arm runs published as nll_iw published NLL kl published KL mi_batch published MI au published AU"
        assert heads in lines
        (first,) = (line for line in lines if line.startswith("lagging 2 Ours 10.50 ± 0.50 328.2 (0.2)"))
        assert first.startswith("lagging 2 Ours 10.50 ± 0.50 328.2 (0.2) 30.50 ± 0.50 5.6 (0.2) 60.50 ± 0.50 3.0 (0.0)")
        assert "- model.hidden: 8 stored, 1024 in the paper" in lines
        assert "- NLL, compared with nll_iw: importance-weighted, 500 samples" in lines

    def test_markdown(self, compare, tmp_path):
        stored(tmp_path, {"beta": [{"kind": "beta_vae", "beta": 0.55}]})
        ended = compare("--paper", "he2019", "--dataset", "yelp", "--markdown")
        assert ended.returncode == 0
        (line,) = (line for line in ended.stdout.splitlines() if "10.50 ± 0.50 | 357.9 (0.1) | 30.50" in line)
        assert line.startswith("| beta | 2 | beta-VAE (beta=0.6) |")
        assert line.endswith("| beta_vae.beta 0.55, published 0.6 |")
        assert "- seeds: 2 stored, 5 in the paper" in ended.stdout

    def test_json(self, compare, tmp_path):
        stored(tmp_path, answer=lambda run: numbers(run) | {"kl": None})
        ended = compare("--paper", "he2019", "--dataset", "yahoo", "--json", "--all")
        assert ended.returncode == 0
        comparison = json.loads(ended.stdout, parse_constant=pytest.fail)
        assert (comparison["sweep"], comparison["paper"], comparison["dataset"]) == ("tiny", "he2019", "yahoo")
        assert metric_of(rows_of(comparison, "Table 1")[-1], "KL")["here"] == {"kl": None}

    def test_data_without_published_numbers(self, compare, tmp_path):
        stored(tmp_path)
        ended = compare("--paper", "he2019")
        assert ended.returncode == 0
        assert "data set synthetic" in ended.stdout
        assert "Table" not in ended.stdout.replace("Tables", "")
        assert "data.examples: 64 stored, 16000 in the paper" in ended.stdout
        assert find_paper("he2019").datasets["synthetic"].notes[0] in ended.stdout

    def test_parameters_distinguish_the_configurations_of_an_arm(self, compare, tmp_path):
        stored(tmp_path, {"beta": [{"kind": "beta_vae", "beta": {"choices": [0.3]}}]})
        out = compare("--paper", "he2019", "--dataset", "yahoo").stdout
        assert "beta=0.3" in out
        assert "beta_vae.beta 0.3, published 0.4" in out

    def test_output_to_a_pipe_is_never_truncated(self, compare, tmp_path):
        stored(tmp_path, {"long" * 20: [SCALE], "bn": [{"kind": "bn_vae", "gamma": 0.5, "learn_beta": False}]})
        out = compare("--paper", "song2024", "--dataset", "yahoo").stdout
        assert "long" * 20 in out
        assert "bn_vae.gamma 0.5, published 0.6; bn_vae.learn_beta False, default True" in out
        assert "…" not in out

    def test_a_narrow_terminal_folds_cells_and_never_truncates(self, tmp_path, capsys, monkeypatch):
        folder = stored(tmp_path, {"beta": [{"kind": "beta_vae", "beta": 0.55}]})
        monkeypatch.setattr(compare_output, "console_of_stdout", lambda: Console(width=70, force_terminal=True))
        compare_output.print_comparison(folder, "he2019", "yahoo", "table", everything=False)
        assert "…" not in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "fragments"),
        [
            (("tiny", "--paper", "bowman2016"), ("--paper: ", "he2019, song2024", "'bowman2016'")),
            (("tiny", "--paper", "he2019", "--dataset", "mnist"), ("--dataset: ", "yahoo, yelp, omniglot, synthetic")),
            (("absent", "--paper", "he2019"), ("SWEEP: ", "tiny.")),
        ],
    )
    def test_invalid_input_is_rejected_and_changes_nothing(self, call, tmp_path, arguments, fragments):
        stored(tmp_path)
        before = files_below(tmp_path)
        check_rejected(call("results", "compare", *arguments), *fragments)
        assert files_below(tmp_path) == before

    def test_the_paper_is_required(self, compare, tmp_path):
        stored(tmp_path)
        ended = compare()
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "--paper" in ended.stderr

    def test_the_help_names_every_paper(self, compare):
        ended = compare("--help")
        assert ended.returncode == 0
        assert all(name in ended.stdout for name in paper_names())

    def test_a_sweep_without_runs_is_rejected(self, compare, tmp_path):
        ResultsFolder(str(tmp_path / "results"), "tiny").prepare()
        check_rejected(compare("--paper", "he2019"), "SWEEP: ", "'tiny'")


def test_runs_of_an_earlier_version_of_the_sweep_are_told_apart(call, tmp_path):
    first = {"vae": [], "beta": [{"kind": "beta_vae", "beta": 0.6}]}
    folder = stored(tmp_path, first)
    compare = ["results", "compare", "tiny", "--paper", "he2019", "--dataset", "yahoo"]
    assert "version" not in call(*compare).stdout
    later = stored(tmp_path, first | {"beta": [{"kind": "beta_vae", "beta": 0.8}]})
    rows = rows_of(compared(later), "Table 1")
    assert {(row["arm"], row["earlier"]) for row in rows} == {("vae", False), ("beta", False), ("beta", True)}
    assert len(folder.runs()) == 6
    lines = call(*compare).stdout.splitlines()
    versions = [line.split()[0] for line in lines if "earlier" in line.split() and "current" not in line]
    assert set(versions) == {"beta", "2"}  # the rows of the tables, and the number of earlier runs
    headings = [line for line in call(*compare, "--markdown").stdout.splitlines() if line.startswith("| arm")]
    assert any("| version |" in heading for heading in headings)
