import itertools

import pytest
import torch
from helpers import run, tiny, trial_of
from torch import nn

from lagvae_core.data import BOS, History, TextDomain
from lagvae_core.models.lstm import LstmModel
from lagvae_core.strategies.base import BuildContext, assemble
from lagvae_core.strategies.cnn_decoder import CnnDecoder
from lagvae_core.strategies.skip_vae import SkipVae

VOCABULARY = 6
MODEL = LstmModel(latent_dim=2, hidden=7, embedding=5, init_range=0.8, init_embedding=1.0)
CORES = {"lstm": (), "cnn": (CnnDecoder(size=None, dilations=(1, 2)),)}

each_core = pytest.mark.parametrize("core", CORES)
each_path = pytest.mark.parametrize("path", ["concat", "add"])
each_reach = pytest.mark.parametrize("to", ["output", "all"])


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def words(*shape, vocabulary=VOCABULARY):
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(0))


def decoder(core, *stack, vocabulary=VOCABULARY):
    context = BuildContext(2, 4, model=MODEL)
    components = assemble((*CORES[core], *stack), context)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (
            components.decoder(MODEL, TextDomain(vocabulary), torch.Generator(), components.options(MODEL))
            .double()
            .eval()
        )
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(0.5 * draws(*parameter.shape, seed=number))
    return model


def pair(core, path, to):
    """Return a decoder with skips, and one without that has the same other weights."""
    skipping, plain = decoder(core, SkipVae(path=path, to=to)), decoder(core)
    weights = {name: value for name, value in skipping.state_dict().items() if "skip" not in name}
    weights["output.weight"] = weights["output.weight"][:, :7]
    plain.load_state_dict(weights)
    return skipping, plain


def skips(model):
    """Return the linear layers of the skip paths."""
    return [m for name, m in model.named_modules() if name.endswith("skip") and isinstance(m, nn.Linear)]


@torch.no_grad()
def silence(model):
    for module in skips(model):
        module.weight.zero_()
    model.output.weight[:, 7:] = 0.0


def logits(model, history, z_BSZ):
    return model.features(History(history), z_BSZ) @ model.output.weight.T


@each_core
@each_path
@each_reach
def test_skips_with_zero_weights_have_no_effect(core, path, to):
    skipping, plain = pair(core, path, to)
    history, z = words(3, 5), draws(3, 2, 2)
    expected = logits(plain, history, z)
    assert not torch.allclose(logits(skipping, history, z), expected)
    silence(skipping)
    torch.testing.assert_close(logits(skipping, history, z), expected, rtol=0, atol=1e-12)


@each_path
def test_the_logits_follow_the_equations_of_the_output_skip(path):
    """W [h; z], or W (h + U z), with h the features of the decoder without the skip."""
    for core in CORES:
        skipping, plain = pair(core, path, "output")
        history, z = words(3, 5), draws(3, 2, 2)
        features = plain.features(History(history), z)
        z_TRZ = z.flatten(0, 1).expand(5, 6, 2)
        if path == "concat":
            expected = torch.cat([features, z_TRZ], 2) @ skipping.output.weight.T
        else:
            expected = (features + z_TRZ @ skipping.skip.weight.T) @ skipping.output.weight.T
        torch.testing.assert_close(logits(skipping, history, z), expected, rtol=0, atol=1e-12)


@each_path
def test_z_reaches_every_word_through_the_skip_alone(path):
    skipping, plain = pair("lstm", path, "all")
    for model in (skipping, plain):
        with torch.no_grad():
            for name in ("weight_ih_l0", "weight_hh_l0"):
                getattr(model.lstm, name).zero_()
            model.start.weight.zero_()
        z = draws(1, 1, 2).requires_grad_()
        logits_TRV = logits(model, words(1, 5), z)
        for step in range(5):
            (gradient,) = torch.autograd.grad(logits_TRV[step, 0] @ draws(VOCABULARY), z, retain_graph=True)
            assert bool((gradient != 0).all()) == (model is skipping)


@each_path
@pytest.mark.parametrize("block", [0, 1])
def test_each_block_of_convolutions_reads_z(path, block):
    model = decoder("cnn", SkipVae(path=path))
    with torch.no_grad():
        model.from_z.weight.zero_()
        for module in skips(model):
            if module is not model.blocks[block].skip:
                module.weight.zero_()
        model.output.weight[:, 7:] = 0.0
    z = draws(20, 1, 2).requires_grad_()  # 20 examples, because for one of them all units that read z can be inactive
    logits_TRV = logits(model, words(20, 5), z)
    for step in range(5):
        (gradient,) = torch.autograd.grad((logits_TRV[step] @ draws(VOCABULARY)).sum(), z, retain_graph=True)
        assert bool((gradient != 0).any())
    assert all(inner.skip is None for inner in decoder("cnn", SkipVae(path=path, to="output")).blocks)


@each_path
def test_the_input_of_a_block_includes_z(path):
    model, plain = pair("cnn", path, "all")
    block, plain_block, x, z = model.blocks[0], plain.blocks[0], draws(5, 3, 7), draws(3, 2)
    skip = z @ block.skip.weight.T
    if path == "concat":  # V [x; z] = V x + U z: z shifts the bias
        plain_block.enter.bias.data = plain_block.enter.bias + skip[0]
        expected = plain_block(x[:, :1], z[:1], None)
    else:
        expected = plain_block(x + skip, z, None)[:, :1] - skip[0]
    torch.testing.assert_close(block(x, z, None)[:, :1], expected, rtol=0, atol=1e-12)


@each_core
@each_path
@each_reach
def test_teacher_forced_and_step_by_step_decoding_agree(core, path, to):
    model, history, z = decoder(core, SkipVae(path=path, to=to)), words(3, 6), draws(3, 2, 2)
    whole = logits(model, history, z)
    for step in range(6):
        alone = logits(model, history[:, : step + 1], z)[-1]
        torch.testing.assert_close(alone, whole[step], rtol=0, atol=1e-12)


@each_core
@each_path
@each_reach
def test_all_sequences_of_one_length_sum_to_one(core, path, to):
    model, z = decoder(core, SkipVae(path=path, to=to), vocabulary=4), draws(1, 2, 2)
    every = torch.tensor(list(itertools.product(range(4), repeat=3)))
    history = History(torch.cat([torch.full((64, 1), BOS), every[:, :-1]], 1))
    with torch.no_grad():
        probability = (-model(history, every, z.expand(64, -1, -1))).exp()
    torch.testing.assert_close(probability.sum(0), torch.ones(2).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("core", "path", "to", "additional"),
    [
        ("lstm", "concat", "output", 2 * VOCABULARY),
        ("lstm", "concat", "all", 2 * VOCABULARY),
        ("lstm", "add", "output", 2 * 7),
        ("lstm", "add", "all", 2 * 7),
        ("cnn", "concat", "output", 2 * VOCABULARY),
        ("cnn", "concat", "all", 2 * VOCABULARY + 2 * 2 * 7),
        ("cnn", "add", "output", 2 * 7),
        ("cnn", "add", "all", 2 * 7 + 2 * 2 * 7),
    ],
)
def test_the_number_of_additional_parameters(core, path, to, additional):
    skipping, plain = (
        sum(parameter.numel() for parameter in model.parameters())
        for model in (decoder(core, SkipVae(path=path, to=to)), decoder(core))
    )
    assert skipping - plain == additional


@each_path
def test_in_the_lstm_all_equals_output(path):
    models = [decoder("lstm", SkipVae(path=path, to=to)) for to in ("output", "all")]
    assert models[0].state_dict().keys() == models[1].state_dict().keys()
    history, z = words(3, 5), draws(3, 2, 2)
    assert torch.equal(*(logits(model, history, z) for model in models))


@each_path
def test_dropout_does_not_apply_to_the_skip(path):
    model = decoder("lstm", SkipVae(path=path)).train()
    z = draws(1, 1, 2)
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            getattr(model.lstm, name).zero_()
        model.start.weight.zero_()
    actual = logits(model, words(1, 5), z)
    exact = z[0] @ (model.output.weight[:, 7:] if path == "concat" else model.output.weight @ model.skip.weight).T
    torch.testing.assert_close(actual, exact.expand(5, 1, VOCABULARY), rtol=0, atol=1e-12)


@each_core
@each_path
@each_reach
def test_every_skip_is_trained_and_a_run_finishes(core, path, to):
    stack = [{"kind": "skip_vae", "path": path, "to": to}]
    stack += [{"kind": "cnn_decoder", "size": "scnn"}] if core == "cnn" else []
    trial = trial_of(tiny(*stack))
    before = {name: value.clone() for name, value in trial.model.decoder.state_dict().items()}
    trial.model.train()
    trial.train_batch(trial.train_batches[0])
    for name, value in trial.model.decoder.named_parameters():
        assert not torch.equal(value, before[name]), name
    assert run(trial.config).status == "finished"
