"""Every strategy on morphological reinflection: it trains, or is refused with a code before any data are read."""

import json
import math

import inflections
import pytest
import torch
from helpers import MemoryCheckpoint, essence, rejects
from inflections import run, tiny, trial_of

from lagvae_core.config.trial import parse_trial
from lagvae_core.errors import ConfigError
from lagvae_core.evaluation.data_specific_metrics import DATA_SPECIFIC_METRICS
from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.rules import Trait
from lagvae_core.training.record import METRIC_COLUMNS
from sweeps.formatting import describe_data
from sweeps.storage.schema import metric_columns, runs_schema

TOO_FEW_SAMPLES = ("iw_khat", "iw_unreliable")
"""Columns that are null with the few importance samples of these tests."""


def expected_code(name):
    """Return the code with which a strategy is refused, or None if it trains."""
    if name == "fraternal_dropout":  # the decoder of the default model has no dropout
        return "E11"
    strategy = CATALOGUE[name]()
    refused = (Trait.IMAGES_ONLY, Trait.GAUSSIAN_LIKELIHOOD)
    supported = not strategy.models or "gru_attention" in strategy.models
    return None if supported and not any(map(strategy.has, refused)) else "E09"


@pytest.mark.parametrize(
    ("name", "start"),
    [*((name, "z") for name in CATALOGUE), *((name, "encoder") for name in ("aggressive", "sa_vae", "ae_pretrain"))],
)
def test_it_trains_or_is_refused_with_a_code(name, start):
    if code := expected_code(name):
        with pytest.raises(ConfigError) as caught:
            tiny(name, start=start)
        assert {issue.code for issue in caught.value.issues} == {code}
        assert all(issue.where == "strategies" and name in issue.hint for issue in caught.value.issues)
        return
    trial = trial_of(tiny(name, start=start))
    trial.model.train()
    before = {key: value.clone() for key, value in trial.model.named_parameters()}
    for batch in trial.train_batches[:2]:
        trial.train_batch(batch)
    assert len(trial.history) == 2
    assert all(torch.isfinite(entry).all() for entry in trial.history)
    changed = {key for key, value in trial.model.named_parameters() if not torch.equal(before[key], value)}
    assert any(key.startswith("encoder") for key in changed)
    if name != "aggressive":
        assert any(key.startswith("decoder") for key in changed)


@pytest.mark.parametrize("stack", [["fraternal_dropout", "word_dropout"], ["fraternal_dropout"]])
def test_fraternal_dropout_trains_if_the_decoder_has_dropout(stack):
    trial = trial_of(tiny(*stack, dropout_out=0.3 if len(stack) == 1 else 0.0))
    trial.model.train()
    trial.train_batch(trial.train_batches[0])
    assert torch.isfinite(trial.history[0]).all()


@pytest.mark.parametrize(
    ("stack", "model"),
    [
        ([], {}),
        ([], {"start": "encoder"}),
        ([], {"feed": "self"}),
        (["word_dropout", "multitask_bow", "mdr"], {}),
        (["vamp_prior", "contiguous_dropout"], {}),
        (["scale_vae", "historyless"], {}),
        (["iaf_posterior", "skip_vae"], {}),
        ([{"kind": "sa_vae", "refinement_steps": 2}], {}),
    ],
    ids=lambda value: "+".join(str(item)[:24] for item in value) or "vae",
)
def test_a_trial_measures_every_column_within_its_bounds(stack, model):
    metrics = run(tiny(*stack, **model)).metrics
    unmeasured = {column for name in stack if isinstance(name, str) for column in CATALOGUE[name].unmeasured}
    for column in (*METRIC_COLUMNS, *DATA_SPECIFIC_METRICS["reinflection"].columns):
        if column.name not in {*unmeasured, "bits_per_dim", "nats_per_feature", *TOO_FEW_SAMPLES}:
            assert metrics[column.name] is not None, column.name
    assert set(metrics) <= {column.name for column in metric_columns()} <= set(runs_schema().names)
    assert metrics["n"] == 12
    assert metrics["tokens"] == inflections.dataset().test.units
    assert metrics["ppl"] == pytest.approx(math.exp(metrics["nll_iw"] * 12 / metrics["tokens"]))
    for column in ("accuracy", "accuracy_sampled", "accuracy_swapped"):
        assert 0 <= metrics[column] <= 1
    assert metrics["levenshtein"] >= 0


class InterruptionError(Exception):
    """A deliberate interruption."""


@pytest.mark.parametrize("stack", [[], ["multitask_bow", "word_dropout"]], ids=["vae", "stack"])
def test_an_interrupted_trial_ends_with_the_same_record(stack):
    config, store, interrupted = tiny(*stack), MemoryCheckpoint(), []

    def interrupt(progress):
        if (progress.phase, progress.epoch, progress.done) in {("train", 1, 3), ("train", 2, 2)} - set(interrupted):
            interrupted.append((progress.phase, progress.epoch, progress.done))
            raise InterruptionError

    record = None
    while record is None:
        try:
            record = run(config, checkpoint=store, checkpoint_seconds=0.0, progress=interrupt)
        except InterruptionError:
            continue
    assert len(interrupted) == 2
    assert essence(record) == essence(run(config))
    assert json.loads(json.dumps(record.to_json(), allow_nan=False))["metrics"]["accuracy"] is not None


def test_a_path_around_z_gives_a_warning():
    plain, around, own = tiny(), tiny(start="encoder"), tiny(feed="self")
    assert plain.warnings() == ()
    assert "model.start = encoder" in around.warnings()[0].message
    assert "model.feed = self" in own.warnings()[0].message


def test_the_description_of_the_data_counts_characters():
    description = describe_data(inflections.dataset().report)
    assert description.startswith(
        "data: 48/12/12 train/valid/test examples of 2 to 6 characters (mean 3.9), vocabulary 13"
    )


def test_the_kind_of_data_decides_the_defaults():
    config = parse_trial({"data": {"kind": "reinflection", "path": "somewhere", "language": "turkish"}})
    model, training = config.model, config.training
    assert (model.kind, model.latent_dim, model.hidden, model.embedding) == ("gru_attention", 150, 512, 300)
    assert (training.optimiser, training.learning_rate, training.batch_size) == ("adam", 1e-3, 64)


def test_models_for_other_kinds_of_data_are_refused():
    data = {"kind": "reinflection", "path": "somewhere", "language": "turkish"}
    with rejects("model.kind") as issues:
        parse_trial({"data": data, "model": {"kind": "lstm"}})
    assert issues[0].value == "lstm"
    with rejects("model.kind") as issues:
        parse_trial({"model": {"kind": "gru_attention"}})
    assert issues[0].value == "gru_attention"
