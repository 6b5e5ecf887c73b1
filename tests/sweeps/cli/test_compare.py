"""A sweep beside a paper: which arm is which row, which column is which number, and what differs."""

import json

import pytest
from rich.console import Console
from worlds import TINY_TRIAL, play, spec_of

from lagvae_core.config.trial import parse_trial
from lagvae_core.errors import ConfigError
from sweeps.cli import app as cli
from sweeps.cli import compare as compare_tables
from sweeps.papers import find_paper, paper_names
from sweeps.papers.comparison import compare
from sweeps.papers.setups import Configuration, dataset_of, setup_differences
from sweeps.spec.sweep import load_spec
from sweeps.storage.table import ResultsFolder

LAGGING = {"kind": "aggressive", "budget": "converge"}
ANNEAL = {"kind": "kl_linear_epoch", "warm_up": 10}
SCALE = {"kind": "scale_vae", "des_std": 0.7, "f_epo": 1}
BN = {"kind": "bn_vae", "gamma": 0.6}
ARMS = {"vae": [], "lagging": [LAGGING], "both": [LAGGING, ANNEAL]}
TEXT = {"kind": "text", "path": "/corpora/yelp"}


def numbers(run):
    """Columns that all differ, and with the seed, so that no two can be taken for each other."""
    names = ("nll_iw", "nll_elbo", "kl", "kl_train", "mi", "mi_batch", "mi_q", "nll_iw_paper", "nll_elbo_paper")
    values = {name: 10.0 * (place + 1) + run.seed for place, name in enumerate(names)}
    train = 30.0 if run.config.strategies else 10.0
    values |= {"au": 1, "au_hat": 2, "n": 50, "tokens": 550, "seconds_train": train, "device": "cuda:0"}
    return values | {"config": run.config.model_dump_json()}


def stored(tmp_path, arms=ARMS, answer=numbers, **trial):
    """The folder of a finished sweep of one configuration an arm and two seeds."""
    search = {"sampler": "random", "configurations": 1, "seeds": 2, "seed": 0}
    spec = spec_of(arms=arms, search=search, trial=TINY_TRIAL | trial)
    folder = ResultsFolder(str(tmp_path / "results"), "tiny")
    folder.prepare()
    folder.write("spec.yaml", spec.source.encode())
    for row in play(spec, answer=answer)[0]:
        folder.write_run(row)
    return folder


def compared(folder, paper="he2019", dataset="yahoo", everything=False):
    return compare(folder, find_paper(paper), dataset, everything=everything).to_json()


def rows_of(comparison, table):
    """The lines of a table; of an empty one, those of the arms without a counterpart."""
    return [row for section in comparison["tables"] if section["table"] == table for row in section["rows"]]


def pairs(comparison, table):
    found = rows_of(comparison, table)
    return {row["arm"]: (row["published"]["model"], row["published"]["hyperparameters"]) for row in found}


def metric_of(row, name):
    (found,) = (metric for metric in row["metrics"] if metric["metric"] == name)
    return found


class TestMatching:
    def test_a_stack_is_the_model_that_the_paper_made_of_it(self, tmp_path):
        found = pairs(compared(stored(tmp_path)), "Table 1")
        assert found == {"vae": ("VAE", ""), "lagging": ("Ours", ""), "both": ("Ours + anneal", "")}

    def test_the_order_of_a_stack_is_nothing(self, tmp_path):
        folder = stored(tmp_path, {"both": [ANNEAL, LAGGING]})
        assert pairs(compared(folder), "Table 1") == {"both": ("Ours + anneal", "")}

    def test_an_equal_setting_is_exact(self, tmp_path):
        (row,) = rows_of(compared(stored(tmp_path, {"beta": [{"kind": "beta_vae", "beta": 0.6}]})), "Table 1")
        assert row["published"]["hyperparameters"] == "beta=0.6"
        assert row["exact"]
        assert row["settings"] == []

    def test_the_nearest_setting_stands_beside_with_both_values(self, tmp_path):
        (row,) = rows_of(compared(stored(tmp_path, {"beta": [{"kind": "beta_vae", "beta": 0.55}]})), "Table 1")
        assert row["published"]["hyperparameters"] == "beta=0.6"
        assert not row["exact"]
        assert row["settings"] == [{"key": "beta_vae.beta", "here": 0.55, "there": 0.6, "source": "published"}]

    def test_numbers_are_nearer_than_words(self, tmp_path):
        folder = stored(tmp_path, {"few": [{"kind": "aggressive", "budget": 1000}]})
        assert pairs(compared(folder, dataset="yelp"), "Table 4") == {"few": ("Ours", "inner_iterations=70")}
        (row,) = rows_of(compared(folder, dataset="yelp"), "Table 1")
        assert row["settings"] == [
            {"key": "aggressive.budget", "here": 1000, "there": "converge", "source": "published"}
        ]

    def test_a_field_that_the_paper_does_not_state_is_compared_with_the_default(self, tmp_path):
        folder = stored(tmp_path, {"own": [LAGGING | {"clip_scope": "per_module"}]})
        (row,) = rows_of(compared(folder), "Table 1")
        assert row["exact"]
        assert row["settings"] == [
            {"key": "aggressive.clip_scope", "here": "per_module", "there": "all", "source": "default"}
        ]

    def test_annealing_that_the_paper_probably_has_is_told(self, tmp_path):
        arms = {"bn": [BN], "bn+anneal": [BN, ANNEAL]}
        plain, annealed = rows_of(compared(stored(tmp_path, arms), "song2024"), "Table 1")
        assert [item["source"] for item in plain["settings"]] == ["probable"]
        assert annealed["settings"] == []

    def test_scale_vae_with_and_without_annealing_are_two_rows(self, tmp_path):
        arms = {"scale": [SCALE], "scale+anneal": [SCALE, ANNEAL]}
        found = pairs(compared(stored(tmp_path, arms), "song2024"), "Table 1")
        assert found == {"scale": ("Scale-VAE*", "0.7, 1"), "scale+anneal": ("Scale-VAE", "0.7, 1")}

    def test_an_arm_without_a_counterpart_has_empty_published_cells(self, tmp_path):
        comparison = compared(stored(tmp_path, {"vae": [], "bits": ["free_bits"]}))
        (row,) = rows_of(comparison, None)
        assert row["arm"] == "bits"
        assert row["published"] is None
        assert all(metric["published"] is None for metric in row["metrics"])
        assert metric_of(row, "NLL")["here"]["nll_iw"]["mean"] == 10.5

    def test_published_rows_without_an_arm_are_listed_on_demand(self, tmp_path):
        folder = stored(tmp_path)
        assert len(rows_of(compared(folder), "Table 1")) == 3
        whole = rows_of(compared(folder, everything=True), "Table 1")
        assert (
            len(whole) == len({(row["published"]["model"], row["published"]["hyperparameters"]) for row in whole}) == 13
        )
        assert [row["arm"] for row in whole].count(None) == 10
        assert {row["arm"] for row in rows_of(compared(folder, everything=True), "Table 3")} == {"vae", "lagging", None}

    def test_a_row_that_holds_no_configuration_has_no_counterpart(self, tmp_path):
        folder = stored(tmp_path, answer=lambda run: numbers(run) | {"config": None})
        comparison = compared(folder)
        assert [row["arm"] for row in rows_of(comparison, None)] == ["vae", "lagging", "both"]
        assert {difference["key"] for difference in comparison["differences"]} == {
            "seeds",
            "test_examples",
            "tokens_per_example",
        }


class TestNumbers:
    def test_mean_and_standard_error_beside_what_is_printed(self, tmp_path):
        row = rows_of(compared(stored(tmp_path)), "Table 1")[-1]
        assert row["arm"] == "lagging"
        found = metric_of(row, "NLL")
        assert found["published"] == {"mean": 328.2, "std": 0.2}
        assert found["here"] == {"nll_iw": {"mean": 10.5, "se": pytest.approx(0.5), "n": 2}}
        assert row["runs"] == {"finished": 2}

    def test_a_likelihood_that_is_minus_the_elbo_stands_beside_nll_elbo(self, tmp_path):
        arms = {"cnn": ["cnn_decoder"], "vae": []}
        cnn, vae = rows_of(compared(stored(tmp_path, arms)), "Table 1")
        assert metric_of(cnn, "NLL")["here"].keys() == {"nll_elbo"}
        assert metric_of(vae, "NLL")["here"].keys() == {"nll_iw"}
        in_appendix = rows_of(compared(stored(tmp_path, arms)), "Table 5 (App. C)")[-1]
        assert metric_of(in_appendix, "-ELBO")["here"].keys() == {"nll_elbo"}
        assert metric_of(in_appendix, "IW")["here"].keys() == {"nll_iw"}

    @pytest.mark.parametrize("everything", [False, True])
    @pytest.mark.parametrize("dataset", ["yahoo", "yelp", "omniglot", "synthetic"])
    def test_information_within_batches_never_stands_beside_mi(self, tmp_path, dataset, everything):
        comparison = compared(stored(tmp_path), dataset=dataset, everything=everything)
        beside = [
            m["here"].keys()
            for s in comparison["tables"]
            for r in s["rows"]
            for m in r["metrics"]
            if m["metric"] == "MI"
        ]
        assert beside
        assert all(columns == {"mi_batch"} for columns in beside)

    def test_quoted_information_stands_beside_mi_batch(self, tmp_path):
        both, vae = rows_of(compared(stored(tmp_path, {"vae": [], "both": ARMS["both"]}), "song2024"), "Table 1")[::-1]
        assert (both["published"]["model"], vae["published"]["model"]) == ("Agg-VAE*", "VAE")
        assert metric_of(both, "MI")["here"].keys() == {"mi_batch"}
        assert metric_of(vae, "MI")["here"].keys() == {"mi"}

    def test_the_protocol_of_scale_vae_has_columns_of_its_own(self, tmp_path):
        (row,) = rows_of(compared(stored(tmp_path, {"scale": [SCALE]}), "song2024"), "Table 1")
        means = {name: value["mean"] for metric in row["metrics"] for name, value in metric["here"].items()}
        expected = {"nll_iw_paper": 80.5, "nll_elbo_paper": 90.5, "kl_train": 40.5, "mi": 50.5, "mi_q": 70.5}
        assert means == expected | {"au": 1, "au_hat": 2}

    def test_time_is_in_units_of_the_plain_vae(self, tmp_path):
        vae, lagging = rows_of(compared(stored(tmp_path)), "Table 3")
        name = "training time relative to VAE"
        assert metric_of(vae, name)["here"]["time"]["mean"] == 1.0
        assert metric_of(lagging, name)["here"]["time"]["mean"] == 3.0
        assert metric_of(lagging, name)["published"]["mean"] == 2.2

    def test_without_a_plain_vae_there_is_no_time(self, tmp_path):
        (row,) = rows_of(compared(stored(tmp_path, {"lagging": [LAGGING]})), "Table 3")
        assert metric_of(row, "training time relative to VAE")["here"] == {"time": None}

    def test_runs_that_did_not_finish_are_told_and_no_replicates(self, tmp_path):
        def one_diverges(run):
            ended = {"status": "diverged"} if run.seed == 1 else {}
            return numbers(run) | ended

        row = rows_of(compared(stored(tmp_path, answer=one_diverges)), "Table 1")[0]
        assert row["runs"] == {"finished": 1, "diverged": 1}
        assert metric_of(row, "KL")["here"]["kl"] == {"mean": 30.0, "se": None, "n": 1}

    def test_what_generated_sentences_are_worth_is_beside_nothing(self, tmp_path):
        folder = stored(tmp_path, {"bn": [BN]})
        assert rows_of(compared(folder, "song2024"), "Table 5") == []
        row = rows_of(compared(folder, "song2024", everything=True), "Table 5")[0]
        assert metric_of(row, "PPL")["here"] == {}


class TestSetup:
    def test_every_value_that_differs_is_told(self, tmp_path):
        found = {d["key"]: (d["here"], d["there"], d["origin"]) for d in compared(stored(tmp_path))["differences"]}
        assert found["data.kind"] == ("synthetic", "text", "paper")
        assert found["model.hidden"] == (8, 1024, "paper")
        assert found["training.batch_size"] == (16, 32, "code")
        assert found["evaluation.iw_samples"] == (10, 500, "paper")
        assert found["test_examples"] == (50, 10000, "code")
        assert found["tokens_per_example"] == (11.0, 79.9, "inferred")
        assert found["seeds"] == (2, 5, "paper")
        assert "training.optimiser" not in found

    def test_a_value_of_some_configurations_is_counted(self, tmp_path):
        one = {"config": {"training": {"optimiser": "adam"}}, "finished": []}
        two = {"config": {"training": {"optimiser": "sgd"}}, "finished": []}
        found = setup_differences(find_paper("he2019"), "yahoo", [Configuration(**one), Configuration(**two)])
        assert [d.text() for d in found] == ["training.optimiser: adam here in 1 of 2 configurations, sgd in the paper"]

    def test_none_is_a_value(self, tmp_path):
        one = Configuration({"data": {"limit": 20000}, "evaluation": {"limit": None}}, [])
        (found,) = setup_differences(find_paper("he2019"), "yelp", [one])
        assert found.text() == "data.limit: 20000 here, none in the paper"

    def test_the_length_of_texts_is_compared_as_it_is_printed(self):
        def lengths(tokens):
            one = Configuration({}, [{"n": 10000, "tokens": tokens}] * 5)
            return [d.key for d in setup_differences(find_paper("he2019"), "yelp", [one])]

        assert lengths(966_600) == lengths(970_000) == []
        assert lengths(990_000) == ["tokens_per_example"]

    @pytest.mark.parametrize("dataset", ["yahoo", "yelp"])
    def test_the_defaults_for_text_are_the_papers(self, dataset):
        config = parse_trial({"data": TEXT}).model_dump(mode="json")
        assert setup_differences(find_paper("he2019"), dataset, [Configuration(config, [])]) == []

    def test_the_shipped_sweep_of_the_paper_differs_in_what_it_says(self):
        spec = load_spec("he2019_synthetic")
        config = spec.trial_config(spec.arms[-1], {}, 0).model_dump(mode="json")
        found = setup_differences(find_paper("he2019"), "synthetic", [Configuration(config, [])])
        assert [(d.key, d.here, d.there) for d in found] == [("evaluation.mi_batch_size", 32, 16)]


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
    def test_kind_and_folder_tell_it(self, paper, data, expected):
        assert dataset_of(find_paper(paper), [Configuration({"data": data}, [])], None) == expected

    @pytest.mark.parametrize(
        "paths", [("/yahoo/old/corpus",), ("/corpora/yahoo", "/corpora/yelp"), ("/corpora/yelp", "/corpora/mine")]
    )
    def test_none_or_many_are_refused_with_the_list(self, paths):
        found = [Configuration({"data": {"kind": "text", "path": path}}, []) for path in paths]
        with pytest.raises(ConfigError, match="One of: yahoo, yelp, omniglot, synthetic") as caught:
            dataset_of(find_paper("he2019"), found, None)
        assert "--dataset must be given" in str(caught.value)

    def test_the_option_wins(self):
        found = [Configuration({"data": TEXT}, [])]
        assert dataset_of(find_paper("he2019"), found, "yahoo") == "yahoo"

    def test_an_unknown_one_is_refused_with_the_list(self):
        with pytest.raises(
            ConfigError, match=r"a data set of song2024, but is 'omniglot'. One of: yahoo, yelp, yelp_short"
        ):
            dataset_of(find_paper("song2024"), [], "omniglot")


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """`lagvae results compare tiny ARGUMENTS` in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["lagvae", "results", "compare", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code or 0, *capsys.readouterr()

    return call


class TestCommand:
    def test_a_table_for_people(self, call, tmp_path):
        stored(tmp_path)
        code, out, _ = call("tiny", "--paper", "he2019", "--dataset", "yahoo")
        assert code == 0
        lines = [" ".join(line.split()) for line in out.splitlines()]
        assert "Table 1, Yahoo" in lines
        heads = "arm runs published as nll_iw published NLL kl published KL mi_batch published MI au published AU"
        assert heads in lines
        (first,) = (line for line in lines if line.startswith("lagging 2 Ours 10.50 ± 0.50 328.2 (0.2)"))
        assert first.startswith("lagging 2 Ours 10.50 ± 0.50 328.2 (0.2) 30.50 ± 0.50 5.6 (0.2) 60.50 ± 0.50 3.0 (0.0)")
        assert "- model.hidden: 8 here, 1024 in the paper" in lines
        assert "- NLL, beside nll_iw: importance-weighted, 500 samples" in lines

    def test_markdown(self, call, tmp_path):
        stored(tmp_path, {"beta": [{"kind": "beta_vae", "beta": 0.55}]})
        code, out, _ = call("tiny", "--paper", "he2019", "--dataset", "yelp", "--markdown")
        assert code == 0
        (line,) = (line for line in out.splitlines() if "10.50 ± 0.50 | 357.9 (0.1) | 30.50" in line)
        assert line.startswith("| beta | 2 | beta-VAE (beta=0.6) |")
        assert line.endswith("| beta_vae.beta 0.55, published 0.6 |")
        assert "- seeds: 2 here, 5 in the paper" in out

    def test_json_is_lawful(self, call, tmp_path):
        stored(tmp_path, answer=lambda run: numbers(run) | {"kl": None})
        code, out, _ = call("tiny", "--paper", "he2019", "--dataset", "yahoo", "--json", "--all")
        assert code == 0
        found = json.loads(out, parse_constant=pytest.fail)
        assert (found["sweep"], found["paper"], found["dataset"]) == ("tiny", "he2019", "yahoo")
        assert metric_of(rows_of(found, "Table 1")[-1], "KL")["here"] == {"kl": None}

    def test_data_without_published_numbers(self, call, tmp_path):
        stored(tmp_path)
        code, out, _ = call("tiny", "--paper", "he2019")
        assert code == 0
        assert "data set synthetic" in out
        assert "Table" not in out.replace("Tables", "")
        assert "data.examples: 64 here, 16000 in the paper" in out
        assert "The paper prints no numbers for the synthetic set" in out

    def test_several_configurations_of_an_arm_are_told_apart(self, call, tmp_path):
        stored(tmp_path, {"beta": [{"kind": "beta_vae", "beta": {"choices": [0.3]}}]})
        _, out, _ = call("tiny", "--paper", "he2019", "--dataset", "yahoo")
        assert "beta=0.3" in out
        assert "beta_vae.beta 0.3, published 0.4" in out

    def test_a_pipe_is_never_cut(self, call, tmp_path):
        stored(tmp_path, {"long" * 20: [SCALE], "bn": [{"kind": "bn_vae", "gamma": 0.5, "learn_beta": False}]})
        _, out, _ = call("tiny", "--paper", "song2024", "--dataset", "yahoo")
        assert "long" * 20 in out
        assert "bn_vae.gamma 0.5, published 0.6; bn_vae.learn_beta False, default True" in out
        assert "…" not in out

    def test_a_narrow_terminal_folds_and_never_cuts(self, tmp_path, capsys, monkeypatch):
        stored(tmp_path, {"beta": [{"kind": "beta_vae", "beta": 0.55}]})
        monkeypatch.setattr(compare_tables, "console_of_stdout", lambda: Console(width=70, force_terminal=True))
        folder = ResultsFolder(str(tmp_path / "results"), "tiny")
        compare_tables.print_comparison(folder, "he2019", "yahoo", "table", everything=False)
        assert "…" not in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("tiny", "--paper", "bowman2016"), "--paper must be one of he2019, song2024, but is 'bowman2016'."),
            (("tiny", "--paper", "he2019", "--dataset", "mnist"), "One of: yahoo, yelp, omniglot, synthetic."),
            (("absent", "--paper", "he2019"), "Stored there: tiny."),
            (("tiny",), "--paper"),
        ],
    )
    def test_wrong_input_ends_with_2_and_changes_nothing(self, call, tmp_path, arguments, said):
        stored(tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        code, out, err = call(*arguments)
        assert code == 2
        assert said in err
        assert out == ""
        assert "Traceback" not in err
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    def test_the_help_names_every_paper(self, call):
        code, out, _ = call("--help")
        assert code == 0
        assert all(name in out for name in paper_names())

    def test_a_sweep_without_runs_is_refused(self, call, tmp_path):
        ResultsFolder(str(tmp_path / "results"), "tiny").prepare()
        code, _, err = call("tiny", "--paper", "he2019")
        assert code == 2
        assert "must hold runs to compare" in err
