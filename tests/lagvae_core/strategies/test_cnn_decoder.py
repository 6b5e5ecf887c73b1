import itertools
import math
from dataclasses import replace

import pytest
import torch
from helpers import rejects, run, tiny, trial_of
from torch.nn import functional

from lagvae_core.config.trial import parse_trial
from lagvae_core.data import BOS, EOS, History, TextDomain, TokenBatch
from lagvae_core.models.decoder import DecoderOptions, UnitDropout
from lagvae_core.models.dilated_cnn import CausalConvolution, DilatedCnn
from lagvae_core.models.lstm import LstmModel
from lagvae_core.strategies.base import BuildContext
from lagvae_core.strategies.cnn_decoder import SIZES, CnnDecoder

VOCABULARY = 6
MODEL = LstmModel(latent_dim=2, hidden=7, embedding=5, init_embedding=1.0)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=stream(seed), dtype=torch.float64)


def decoder(*, dilations=(1, 2), kernel=3, channels=8, rate=0.5, vocabulary=VOCABULARY, config=MODEL, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = DecoderOptions(UnitDropout(config.dropout_in))
        sizes = {"dilations": dilations, "kernel": kernel, "channels": channels, "rate": rate}
        return DilatedCnn(config, vocabulary, stream(), options, **sizes).double().eval()


def sentences(batch=3, steps=6):
    tokens = torch.randint(3, VOCABULARY, (batch, steps + 1), generator=stream())
    tokens[:, 0], tokens[:, -1] = BOS, EOS
    return TokenBatch(tokens, torch.arange(batch))


# --- the convolution -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (2, 1), (3, 1), (3, 2), (3, 4), (5, 3), (3, 50)])
def test_the_convolution_equals_torchs_with_zeros_before_the_first_position(kernel, dilation):
    layer, x = CausalConvolution(4, kernel, dilation).double(), draws(9, 3, 4).requires_grad_()
    padded = functional.pad(x.permute(1, 2, 0), ((kernel - 1) * dilation, 0))
    weight = layer.weight.flip(0).permute(2, 1, 0)  # ours counts from the present back
    exact = functional.conv1d(padded, weight, layer.bias, dilation=dilation).permute(2, 0, 1)
    result = layer(x)
    torch.testing.assert_close(result, exact, rtol=0, atol=1e-12)
    direction, inputs = draws(9, 3, 4, seed=1), (x, layer.weight, layer.bias)
    ours, torchs = (torch.autograd.grad((y * direction).sum(), inputs, retain_graph=True) for y in (result, exact))
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_gradient_of_the_convolution_matches_finite_differences():
    layer, x = CausalConvolution(2, 3, 2).double(), draws(6, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *parameters: layer(x), (x, *layer.parameters()))


def test_it_is_initialised_like_torchs_convolutions():
    layer = CausalConvolution(50, 3, 1)
    bound = 1 / math.sqrt(150)
    for parameter in (layer.weight, layer.bias):
        largest = float(parameter.detach().abs().max())
        assert 0.9 * bound < largest <= bound
    assert float(layer.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)


# --- receptive field -------------------------------------------------------------------------------------------------


def logits_and_words(model, steps):
    """Logits [T, V] of one sentence, and its embeddings [T, 1, E] as a leaf of the graph."""
    leaves = []

    def cut(module, inputs, output):
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    hook = model.reader.embedding.register_forward_hook(cut)
    features = model.features(sentences(1, steps).history, draws(1, 1, 2))
    hook.remove()
    return features[:, 0] @ model.output.weight.T, leaves[0]


def seen_by_the_last(model, steps):
    """For each of the `steps` previous words, whether the last prediction depends on it, by gradient."""
    logits, words = logits_and_words(model, steps)
    (gradient,) = torch.autograd.grad(logits[-1] @ draws(VOCABULARY), words)
    return gradient[:, 0].abs().amax(1) > 0


@pytest.mark.parametrize("seed", [0, 1])
def test_no_step_sees_a_later_word(seed):
    steps = 7
    logits, words = logits_and_words(decoder(dilations=(1, 2, 1), seed=seed), steps)
    for step in range(steps):
        jacobian = torch.stack([torch.autograd.grad(unit, words, retain_graph=True)[0] for unit in logits[step]])
        seen = jacobian.abs().amax((0, 2, 3))
        assert torch.equal(seen[step + 1 :], torch.zeros(steps - step - 1).double())
        assert bool((seen[: step + 1] > 0).all())


@pytest.mark.parametrize(
    ("dilations", "kernel", "field"),
    [
        (SIZES["scnn"], 3, 15),
        (SIZES["mcnn"], 3, 63),
        (SIZES["lcnn"], 3, 125),
        (SIZES["vlcnn"], 3, 187),
        ((1,), 1, 1),
        ((4, 2), 1, 1),
        ((1,), 2, 2),
        ((1, 2, 4), 2, 8),
        ((1, 3), 4, 13),
    ],
)
def test_the_receptive_field(dilations, kernel, field):
    model = decoder(dilations=dilations, kernel=kernel, channels=16)
    assert field == 1 + (kernel - 1) * sum(dilations)
    seen = seen_by_the_last(model, field + 5)
    assert not bool(seen[:5].any())
    assert bool(seen[5])
    assert bool(seen[-1])
    if kernel > 1 and dilations[0] == 1:
        assert bool(seen[5:].all())


def test_a_large_dilation_skips_words():
    assert seen_by_the_last(decoder(dilations=(3,)), 9).nonzero().flatten().tolist() == [2, 5, 8]


def test_every_step_sees_z_through_the_first_layer_only():
    model, z = decoder(), draws(1, 1, 2).requires_grad_()
    features = model.features(sentences(1, 5).history, z)
    for step in range(5):
        (gradient,) = torch.autograd.grad(features[step, 0] @ draws(8), z, retain_graph=True)
        assert bool((gradient != 0).all())
    with torch.no_grad():
        model.from_z.weight.zero_()
    (gradient,) = torch.autograd.grad(model.features(sentences(1, 5).history, z).sum(), z)
    assert torch.equal(gradient, torch.zeros_like(gradient))


# --- the decoder -----------------------------------------------------------------------------------------------------


def test_the_decoder_matches_a_direct_implementation_of_its_equations():
    model, batch, z = decoder(dilations=(1, 2, 4)), sentences(), draws(3, 2, 2)
    nll = model(batch.history, batch.targets_BT, z)
    for row, sample in itertools.product(range(3), range(2)):
        words = model.reader.embedding.weight[batch.history.tokens_BT[row]]
        both = torch.cat([words, z[row, sample].expand(6, 2)], 1)
        weight = torch.cat([model.from_words.weight, model.from_z.weight], 1)
        x = both @ weight.T + model.from_words.bias
        for dilation, block in zip((1, 2, 4), model.blocks, strict=True):
            entered = (x @ block.enter.weight.T + block.enter.bias).relu()
            convolved = block.convolve.bias.expand(6, 8).clone()
            for step, tap in itertools.product(range(6), range(3)):
                if step >= tap * dilation:
                    convolved[step] = convolved[step] + entered[step - tap * dilation] @ block.convolve.weight[tap]
            x = x + convolved.relu() @ block.leave.weight.T + block.leave.bias
        log_p = (x @ model.output.weight.T).log_softmax(1)
        exact = -log_p[torch.arange(6), batch.targets_BT[row]].sum()
        torch.testing.assert_close(nll[row, sample], exact, rtol=0, atol=1e-12)


def test_shapes_and_parameters():
    model, batch = decoder(dilations=(1, 2, 4), channels=11), sentences(4)
    for samples in (1, 3):
        features = model.features(batch.history, draws(4, samples, 2))
        assert features.shape == (6, 4 * samples, 11)
        assert model(batch.history, batch.targets_BT, draws(4, samples, 2)).shape == (4, samples)
    assert model.output.bias is None
    vocabulary, embedding, z, c = VOCABULARY, 5, 2, 11
    blocks = 3 * (2 * (c * c + c) + 3 * c * c + c)
    exact = vocabulary * embedding + (embedding * c + c) + z * c + blocks + c * vocabulary
    assert sum(parameter.numel() for parameter in model.parameters()) == exact


def test_every_kernel_is_a_parameter_of_the_model_and_is_trained():
    trial = trial_of(tiny("cnn_decoder"))
    before = {name: value.detach().clone() for name, value in trial.model.decoder.named_parameters()}
    assert [f"blocks.{n}.convolve.weight" in before for n in range(6)] == [True] * 5 + [False]
    learned = {id(parameter) for parameter in trial.model.decoder_parameters()}
    trial.model.train()
    trial.train_batch(trial.train_batches[0])
    for name, value in trial.model.decoder.named_parameters():
        assert id(value) in learned
        assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize("steps", [1, 3])
def test_at_a_fixed_z_it_is_a_language_model(steps):
    """The probabilities of all sequences of one length sum to 1 for each z; without weights on z they do not differ."""
    model = decoder(vocabulary=4)
    every = torch.tensor(list(itertools.product(range(4), repeat=steps)))
    history = History(torch.cat([torch.full((len(every), 1), BOS), every[:, :-1]], 1))
    z = 3.0 * draws(1, 3, 2).expand(len(every), -1, -1)
    with torch.no_grad():
        probability = (-model(history, every, z)).exp()
        torch.testing.assert_close(probability.sum(0), torch.ones(3).double(), rtol=0, atol=1e-12)
        assert float(probability.std(0).min()) > 0.01 / len(every)
        assert not torch.allclose(probability[:, 0], probability[:, 1], atol=1e-4)
        model.from_z.weight.zero_()
        fixed = (-model(history, every, z)).exp()
    assert torch.equal(fixed[:, 0], fixed[:, 1])
    assert torch.equal(fixed[:, 0], fixed[:, 2])


def test_many_samples_and_sentences_in_one_call_equal_single_calls():
    model, batch, z = decoder(), sentences(4), draws(4, 3, 2)
    together = model(batch.history, batch.targets_BT, z)
    for row, sample in itertools.product(range(4), range(3)):
        alone = model(
            History(batch.history.tokens_BT[row : row + 1]),
            batch.targets_BT[row : row + 1],
            z[row : row + 1, sample : sample + 1],
        )
        torch.testing.assert_close(alone[0, 0], together[row, sample], rtol=0, atol=1e-12)


def test_it_is_the_same_with_and_without_gradients():
    model, batch, z = decoder(), sentences(), draws(3, 2, 2)
    with_gradient = model(batch.history, batch.targets_BT, z)
    with torch.no_grad():
        without = model(batch.history, batch.targets_BT, z)
    torch.testing.assert_close(without, with_gradient.detach(), rtol=0, atol=1e-12)


def test_teacher_forced_and_step_by_step_decoding_agree():
    model, batch, z = decoder(), sentences(), draws(3, 2, 2)
    whole = model.features(batch.history, z)
    for step in range(6):
        alone = model.features(History(batch.history.tokens_BT[:, : step + 1]), z)[-1]
        torch.testing.assert_close(alone, whole[step], rtol=0, atol=1e-12)


def test_the_initialisation():
    config = LstmModel(hidden=50, embedding=50, latent_dim=4, init_range=0.01, init_embedding=0.1)
    model = decoder(config=config, channels=50, vocabulary=200)
    for name, parameter in model.named_parameters():
        bound = 0.1 if "embedding" in name else 1 / math.sqrt(4 if "from_z" in name else 150 if "conv" in name else 50)
        assert 0.7 * bound < float(parameter.detach().abs().max()) <= bound * (1 + 1e-6), name


# --- dropout ---------------------------------------------------------------------------------------------------------


def test_dropout_is_off_in_evaluation():
    model, batch, z = decoder(), sentences(), draws(3, 2, 2)
    before = model._stream.get_state()
    first = model(batch.history, batch.targets_BT, z)
    assert torch.equal(model(batch.history, batch.targets_BT, z), first)
    assert torch.equal(model._stream.get_state(), before)
    no_dropout = MODEL.model_copy(update={"dropout_in": 0.0, "dropout_out": 0.0})
    without = decoder(rate=0.0, config=no_dropout).train()
    assert torch.equal(without(batch.history, batch.targets_BT, z), first)
    assert torch.equal(without._stream.get_state(), before)


@pytest.mark.parametrize("place", ["dropout_in", "dropout_out", "blocks"])
def test_each_dropout_is_active_in_training(place):
    rates = {"dropout_in": 0.0, "dropout_out": 0.0} | ({place: 0.5} if place != "blocks" else {})
    model = decoder(rate=0.5 if place == "blocks" else 0.0, config=MODEL.model_copy(update=rates))
    batch, z = sentences(), draws(3, 1, 2)
    whole = model(batch.history, batch.targets_BT, z)
    model.train()
    dropped = [model(batch.history, batch.targets_BT, z) for _ in range(2)]
    assert not torch.equal(dropped[0], whole)
    assert not torch.equal(dropped[0], dropped[1])


def test_the_dropout_of_a_block_does_not_apply_to_its_skip_connection():
    block, x = decoder(rate=0.5).blocks[0], draws(6, 3, 8)
    added = block(x, draws(3, 2), None) - x
    dropped = block(x, draws(3, 2), stream()) - x
    kept = dropped != 0
    assert 0.3 < float(kept.double().mean()) < 0.7
    torch.testing.assert_close(dropped[kept], 2.0 * added[kept], rtol=0, atol=1e-12)


def test_the_samples_of_an_example_share_the_mask_of_their_words():
    model = decoder(rate=0.0, config=MODEL.model_copy(update={"dropout_out": 0.0})).train()
    batch = sentences()
    nll = model(batch.history, batch.targets_BT, draws(3, 1, 2).expand(3, 4, 2))
    torch.testing.assert_close(nll, nll[:, :1].expand(3, 4), rtol=0, atol=1e-12)


# --- the strategy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "blocks"), [("scnn", 3), ("mcnn", 5), ("lcnn", 10), ("vlcnn", 15)])
def test_the_sizes(size, blocks):
    build = CnnDecoder(size=size).build(BuildContext(2, 4, model=MODEL))["decoder"]
    model = build(MODEL, TextDomain(VOCABULARY), stream(), DecoderOptions())
    assert len(model.blocks) == blocks
    assert model.output.in_features == model.blocks[0].convolve.weight.shape[1] == MODEL.hidden


def test_custom_dilations_and_channels():
    strategy = CnnDecoder(size=None, dilations=(1, 5), kernel=2, channels=9)
    model = strategy.build(BuildContext(2, 4, model=MODEL))["decoder"](
        MODEL, TextDomain(VOCABULARY), stream(), DecoderOptions()
    )
    assert [block.convolve._dilation for block in model.blocks] == [1, 5]
    assert model.blocks[0].convolve.weight.shape == (2, 9, 9)
    record = run(tiny({"kind": "cnn_decoder", "size": None, "dilations": [1, 5], "kernel": 2, "channels": 9}))
    assert record.status == "finished"


@pytest.mark.parametrize(
    ("code", "fields"), [("E18", {"dilations": [1, 2]}), ("E-RANGE", {"size": None})], ids=["both", "none"]
)
def test_exactly_one_of_size_and_dilations_is_required(code, fields):
    with rejects("strategies") as issues:
        parse_trial({"strategies": [{"kind": "cnn_decoder", **fields}]})
    assert issues[0].code == code


@pytest.mark.parametrize(
    ("dilations", "where"), [([], "dilations"), ([0], "dilations[0]"), ([1, -2], "dilations[1]")], ids=str
)
def test_dilations_must_be_positive(dilations, where):
    with rejects(f"strategies[0].{where}"):
        parse_trial({"strategies": [{"kind": "cnn_decoder", "size": None, "dilations": dilations}]})


def test_another_decoder_is_refused_by_name():
    for stack in (["cnn_decoder", "lstm_lm"], ["lstm_lm", "cnn_decoder"]):
        with rejects("strategies") as issues:
            parse_trial({"strategies": stack})
        assert issues[0].code == "E-SLOT"
        for word in (*stack, "decoder"):
            assert word in issues[0].message


def test_it_is_refused_on_images():
    (incompatibility,) = CnnDecoder().incompatibilities(replace(tiny("cnn_decoder").context, data_kind="images"))
    assert incompatibility.code == "E09"
    assert "cnn_decoder" in incompatibility.message
