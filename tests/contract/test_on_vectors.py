"""Every strategy on vectors: it trains with finite numbers, or is refused with a code before data are read."""

import pytest
import torch
from helpers import SHORT_AGGRESSIVE, essence, rejects, run, run_interrupted, tiny_vectors, trained_of, trial_of

from lagvae_core.config.trial import parse_trial
from lagvae_core.errors import ConfigError
from lagvae_core.strategies import CATALOGUE
from lagvae_core.strategies.rules import Trait
from lagvae_core.studies.latent_plane import LatentPlane
from lagvae_core.studies.probe import Probe
from lagvae_core.studies.tsne import Tsne
from lagvae_core.studies.uncertainty import Uncertainty

OTHER_DATA = sorted(k for k, s in CATALOGUE.items() if {Trait.TEXT_ONLY, Trait.IMAGES_ONLY} & s.traits)
TRAINED = [
    *sorted(set(CATALOGUE) - set(OTHER_DATA) - {"aggressive"}),
    SHORT_AGGRESSIVE,
    {**SHORT_AGGRESSIVE, "inner_batches": "fresh", "clip_scope": "per_module"},
    {"kind": "skip_vae", "path": "add", "to": "output"},
    {"kind": "vamp_prior", "init_from_data": True, "components": 100},
    *({"kind": "sa_vae", "refinement_steps": 2, "backward": backward} for backward in ("autograd", "none")),
]


@pytest.mark.parametrize("name", OTHER_DATA)
def test_a_strategy_for_words_or_pixels_is_refused(name):
    with pytest.raises(ConfigError) as caught:
        tiny_vectors(name)
    assert any(issue.code == "E09" and name in issue.hint for issue in caught.value.issues)


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("strategy", TRAINED, ids=str)
def test_every_other_strategy_trains_all_its_networks(strategy, norm):
    trial = trial_of(tiny_vectors(strategy, model={"norm": norm}))
    trial.model.train()
    before = {name: value.clone() for name, value in trial.model.named_parameters()}
    for batch in trial.train_batches[:2]:
        trial.train_batch(trial.learner.observed(batch))
    assert len(trial.history) == 2
    assert all(torch.isfinite(entry).all() for entry in trial.history)
    changed = {name.split(".")[0] for name, value in trial.model.named_parameters() if not value.equal(before[name])}
    in_closed_form = any(s.has(Trait.CLOSED_FORM) for s in trial.config.strategies)
    assert changed == (set() if in_closed_form else {name.split(".")[0] for name in before})


@pytest.mark.parametrize("stack", [(), (SHORT_AGGRESSIVE,), ("vamp_prior", "bn_vae", "sigma_vae")], ids=str)
def test_a_trial_resumes_bit_for_bit(stack):
    config = tiny_vectors(*stack, model={"norm": "batch"}, training={"epochs": 2})
    record, places = run_interrupted(
        config, lambda place: (place.phase, place.epoch, place.done) in {("train", 1, 3), ("train", 2, 2)}
    )
    assert len(places) == 2
    assert essence(record) == essence(run(config))


@pytest.mark.parametrize(
    "study", [Probe(labels=(40,), draws=1), Tsne(perplexity=5), Uncertainty(seeds=2, iw_samples=5), LatentPlane()]
)
def test_studies_measure_a_model_of_vectors(study):
    data = {"kind": "vectors", "path": "sklearn:iris"}
    model = {"latent_dim": 2, "layers": 1, "width": 8}
    trained = trained_of(parse_trial({"data": data, "model": model, "training": {"epochs": 1}}))
    assert [*study.unsupported_data(trained.config), *study.issues(trained.config, trained.dataset)] == []
    values = study.measure(trained, lambda phase, done, total: None).values
    assert set(values) == {column.name for column in study.columns}
    assert any(value is not None for value in values.values())


def test_a_skip_connection_without_hidden_layers_is_refused():
    with rejects("strategies") as issues:
        tiny_vectors("skip_vae", model={"layers": 0})
    assert issues[0].code == "E18"
