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
SETTING = EvaluationConfig(iw_samples=20, mi_batch_size=8)


def ragged_split(examples=30):
    """Sentences of one to six words."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 7, (examples,), generator=generator).tolist()
    words = (torch.randint(4, VOCABULARY, (length,), generator=generator).tolist() for length in lengths)
    return TokenSplit.of([BOS, *row, EOS] for row in words)


def measured(trial, split, setting=SETTING, **options):
    return evaluate(trial.model, trial.components, trial.dataset, split, setting, torch.device("cpu"), **options)


def weights_zeroed(trial, *modules):
    with torch.no_grad():
        for module in modules:
            module.weight.zero_()
    return trial


class TestUniformDecoder:
    @pytest.fixture
    def columns(self):
        """All logits 0, and a posterior that is the prior: every number is known."""
        trial = trial_of(tiny())
        weights_zeroed(trial, trial.model.decoder.output, trial.model.encoder.to_latent)
        return measured(trial, ragged_split())

    def test_its_perplexity_is_the_size_of_the_vocabulary(self, columns):
        assert columns["ppl"] == pytest.approx(VOCABULARY, rel=1e-6)

    def test_every_other_number(self, columns):
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
    def test_the_perplexity_is_that_of_the_corpus_and_not_of_its_sentences(self):
        trial, split = trial_of(tiny()), ragged_split()
        columns = measured(trial, split)
        weight = {"nll_iw": proposal_weight(trial.model)}
        values = importance_weighted(trial.model, split.batches(1), 20, SETTING.seed, weight)["nll_iw"].value_N
        lengths = torch.from_numpy(split.lengths) - 1
        assert columns["ppl"] == pytest.approx(math.exp(-float(values.sum() / lengths.sum())), rel=1e-5)
        by_sentence = float((-values / lengths).exp().mean())
        assert abs(columns["ppl"] - by_sentence) > 1e-3 * columns["ppl"]

    def test_the_limit_takes_the_first_examples(self):
        trial, split = trial_of(tiny()), ragged_split()
        limited = measured(trial, split, SETTING.model_copy(update={"limit": 10}))
        first = measured(trial, split.limit(10))
        assert limited == first
        assert limited["n"] == 10

    def test_the_group_size_touches_only_the_grouped_information(self):
        trial, split = trial_of(tiny()), ragged_split()
        one, other = (measured(trial, split, SETTING.model_copy(update={"mi_batch_size": size})) for size in (4, 16))
        changed = {name for name in one if one[name] != other[name]}
        assert changed == {"mi_batch", "mi_batch_cap"}

    def test_the_training_batch_size_touches_nothing(self):
        split = ragged_split()
        found = [measured(trial_of(tiny(training={"batch_size": size})), split) for size in (4, 32)]
        assert found[0] == found[1]

    def test_measuring_leaves_dropout_and_the_streams_alone(self):
        trial, split = trial_of(tiny()), ragged_split()
        trial.model.train()
        before = {name: value.clone() for name, value in trial.streams.state_dict().items()}
        once, twice = measured(trial, split), measured(trial.model.train() and trial, split)
        assert once == twice
        assert not trial.model.training
        after = trial.streams.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())

    def test_progress_is_told_by_phase(self):
        heard = []
        measured(trial_of(tiny()), ragged_split(), report=lambda *given: heard.append(given))
        assert heard[-1] == ("nll_iw", 30, 30)
        assert [done for phase, done, _ in heard if phase == "nll_iw"] == list(range(1, 31))
        assert max(done for phase, done, _ in heard if phase == "encode") == 30

    def test_columns_of_a_protocol_are_added(self):
        class Twice:
            def log_weights(self, encoded_train):
                return {"doubled": lambda inference, draw: torch.zeros_like(draw.z_BSZ[..., 0])}

            def measure(self, measurement):
                whole = measurement.importance_weighted(measurement.encoded.infer)
                found = {"examples": len(measurement.encoded.rec_N), "again": whole.nll}
                return found | {"train_examples": len(measurement.encoded_train().rec_N)}

        trial = trial_of(tiny())
        trial.components = replace(trial.components, extra_metrics=(Twice(),))
        columns = measured(trial, ragged_split())
        assert (columns["examples"], columns["train_examples"]) == (30, 64)
        assert math.isfinite(columns["doubled"])
        assert columns["again"] == columns["nll_iw"]
