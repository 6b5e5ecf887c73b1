import math
from dataclasses import replace

import pytest
import torch
from helpers import tiny, trial_of

from lagvae_core.data import BOS, EOS, TokenSplit
from lagvae_core.evaluation.evaluate import evaluate
from lagvae_core.metrics.likelihood import importance_weighted, proposal_weight
from lagvae_core.settings import EvaluationConfig

VOCABULARY = 24
CONFIG = EvaluationConfig(iw_samples=20, mi_batch_size=8)


def ragged_split(examples=30):
    """Return sentences of one to six words."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 7, (examples,), generator=generator).tolist()
    words = (torch.randint(4, VOCABULARY, (length,), generator=generator).tolist() for length in lengths)
    return TokenSplit.of([BOS, *row, EOS] for row in words)


def measured(trial, split, config=CONFIG, **options):
    return evaluate(trial.model, trial.components, trial.dataset, split, config, torch.device("cpu"), **options)


def weights_zeroed(trial, *modules):
    with torch.no_grad():
        for module in modules:
            module.weight.zero_()
    return trial


class TestUniformDecoder:
    @pytest.fixture
    def columns(self):
        """Return the metrics of a model with zero logits whose posterior is the prior, so that all values are known."""
        trial = trial_of(tiny())
        weights_zeroed(trial, trial.model.decoder.output, trial.model.encoder.to_latent)
        return measured(trial, ragged_split())

    def test_the_perplexity_is_the_size_of_the_vocabulary(self, columns):
        assert columns["ppl"] == pytest.approx(VOCABULARY, rel=1e-6)

    def test_all_other_metrics_have_known_values(self, columns):
        exact = ragged_split().units * math.log(VOCABULARY) / 30
        for name in ("nll_iw", "nll_elbo", "rec"):
            assert columns[name] == pytest.approx(exact, rel=1e-6)
        for name in ("kl", "kl_train", "mi", "mi_batch", "kl_agg", "mi_se"):
            assert columns[name] == pytest.approx(0.0, abs=1e-9)
        assert columns["au"] == 0
        assert columns["iw_ess"] == pytest.approx(20.0)
        assert columns["nll_iw_mc_se"] == pytest.approx(0.0, abs=1e-9)
        assert (columns["n"], columns["iw_k"]) == (30, 20)
        assert columns["tokens"] == ragged_split().units


class TestAnyModel:
    def test_the_perplexity_is_computed_over_the_corpus_and_not_per_sentence(self):
        trial, split = trial_of(tiny()), ragged_split()
        columns = measured(trial, split)
        weight = {"nll_iw": proposal_weight(trial.model)}
        values = importance_weighted(trial.model, split.batches(1), 20, CONFIG.seed, weight)["nll_iw"].value_N
        lengths = torch.from_numpy(split.lengths) - 1
        assert columns["ppl"] == pytest.approx(math.exp(-float(values.sum() / lengths.sum())), rel=1e-5)
        by_sentence = float((-values / lengths).exp().mean())
        assert abs(columns["ppl"] - by_sentence) > 1e-3 * columns["ppl"]

    def test_the_limit_selects_the_first_examples(self):
        trial, split = trial_of(tiny()), ragged_split()
        limited = measured(trial, split, CONFIG.model_copy(update={"limit": 10}))
        first = measured(trial, split.limit(10))
        assert limited == first
        assert limited["n"] == 10

    def test_the_group_size_affects_only_mi_batch(self):
        trial, split = trial_of(tiny()), ragged_split()
        one, other = (measured(trial, split, CONFIG.model_copy(update={"mi_batch_size": size})) for size in (4, 16))
        changed = {name for name in one if one[name] != other[name]}
        assert changed == {"mi_batch", "mi_batch_cap"}

    def test_the_training_batch_size_has_no_effect(self):
        split = ragged_split()
        one, other = (measured(trial_of(tiny(training={"batch_size": size})), split) for size in (4, 32))
        assert one == other

    def test_evaluation_disables_dropout_and_does_not_advance_the_streams(self):
        trial, split = trial_of(tiny()), ragged_split()
        trial.model.train()
        before = {name: value.clone() for name, value in trial.streams.state_dict().items()}
        once, twice = measured(trial, split), measured(trial.model.train() and trial, split)
        assert once == twice
        assert not trial.model.training
        after = trial.streams.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())

    def test_progress_is_reported_by_phase(self):
        reported = []
        measured(trial_of(tiny()), ragged_split(), report=lambda *args: reported.append(args))
        assert reported[-1] == ("nll_iw", 30, 30)
        assert [done for phase, done, _ in reported if phase == "nll_iw"] == list(range(1, 31))
        assert max(done for phase, done, _ in reported if phase == "encode") == 30

    def test_extra_metrics_are_added(self):
        class Extra:
            def log_weights(self, encoded_train):
                return {"doubled": lambda inference, draw: torch.zeros_like(draw.z_BSZ[..., 0])}

            def measure(self, measurement):
                whole = measurement.importance_weighted(measurement.encoded.infer)
                train_examples = len(measurement.encoded_train().rec_N)
                return {
                    "examples": len(measurement.encoded.rec_N),
                    "again": whole.nll,
                    "train_examples": train_examples,
                }

        trial = trial_of(tiny())
        trial.components = replace(trial.components, extra_metrics=(Extra(),))
        columns = measured(trial, ragged_split())
        assert (columns["examples"], columns["train_examples"]) == (30, 64)
        assert math.isfinite(columns["doubled"])
        assert columns["again"] == columns["nll_iw"]
