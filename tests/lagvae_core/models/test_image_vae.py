"""ResNet encoder and PixelCNN decoders: sizes, dependencies, probabilities by enumeration."""

import itertools
import math

import pytest
import torch
from torch import nn

from lagvae_core.data import ImageBatch, ImageDomain
from lagvae_core.models.decoder import DecoderOptions, Skip
from lagvae_core.models.gated_pixelcnn import _Layer, gate
from lagvae_core.models.image_vae import DECODERS, ResNetPixelCnn
from lagvae_core.models.resnet import running_statistics, start_normally

EVERY = list(DECODERS)
OMNIGLOT = ImageDomain(28, 28)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def decoder(variant, height, width, latent_dim=2, options=None, seed=0, **sizes):
    """Return a small decoder in float64 and eval mode whose running statistics have been updated once."""
    config = ResNetPixelCnn(variant=variant, **{"kernels": (5, 3, 3, 3), "maps": 6, **sizes})
    config = config.model_copy(update={"latent_dim": latent_dim})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = config.decoder(ImageDomain(height, width), torch.Generator(), options or DecoderOptions()).double()
        images = (torch.rand(20, height, width) < 0.5).double()
        with torch.no_grad():
            made(images, images, torch.randn(20, 1, latent_dim).double())
    return made.eval()


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bits(*shape, seed=0):
    return (draws(*shape, seed=seed) > 0).double()


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_the_encoder_has_the_published_size_and_initialisation():
    encoder = ResNetPixelCnn().encoder(OMNIGLOT, None)
    assert count(encoder) == 752_448
    assert not encoder.to_latent.bias.any()
    bound = math.sqrt(6 / (512 + 64))
    assert 0.95 * bound < float(encoder.to_latent.weight.detach().abs().max()) <= bound
    for layer in encoder.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None
            std = math.sqrt(2 / (math.prod(layer.kernel_size) * layer.out_channels))
            weights = layer.weight.detach()
            n = weights.numel()
            assert abs(float(weights.mean())) < 4 * std / math.sqrt(n)
            assert float(weights.std()) == pytest.approx(std, rel=4 / math.sqrt(2 * n))


@pytest.mark.parametrize(
    ("variant", "whole", "without_z"),
    [("v2", 894_400, 778_368), ("gated13", 2_296_769, 2_176_897), ("gated12_kim", 744_801, 628_513)],
)
def test_the_decoders_have_the_published_sizes(variant, whole, without_z):
    config = ResNetPixelCnn(variant=variant)
    made = config.decoder(OMNIGLOT, torch.Generator(), DecoderOptions())
    assert count(made) == whole
    assert count(made.to_maps) == 103_488
    assert (
        count(config.model_copy(update={"latent_dim": 0}).decoder(OMNIGLOT, torch.Generator(), DecoderOptions()))
        == without_z
    )


def test_v2_has_the_published_masks_and_initialisation():
    made = ResNetPixelCnn().decoder(OMNIGLOT, torch.Generator(), DecoderOptions())
    masked = {name: layer for name, layer in made.named_modules() if hasattr(layer, "mask_kk")}
    masked_weights = sum(
        int((layer.mask_kk == 0).sum()) * layer.out_channels * (1 if name == "entry" else layer.in_channels)
        for name, layer in masked.items()
    )
    assert masked_weights == 325_184
    small = ResNetPixelCnn(kernels=(7, 7, 7, 5, 5, 3, 3)).decoder(OMNIGLOT, torch.Generator(), DecoderOptions())
    assert count(small) == 502_208
    for name, layer in masked.items():
        std = math.sqrt(2 / (math.prod(layer.kernel_size) * layer.out_channels))
        assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.1), name
    assert float(made.head[3].weight.detach().abs().max()) <= 1 / math.sqrt(64)


def test_start_normally_changes_only_convolutions():
    module = nn.Sequential(nn.Linear(2, 2), nn.Conv2d(1, 1, 1))
    linear, convolution = (parameter.detach().clone() for parameter in (module[0].weight, module[1].weight))
    start_normally(module)
    assert torch.equal(module[0].weight, linear)
    assert not torch.equal(module[1].weight, convolution)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (6, 6), (1, 1), (3, 17)])
@pytest.mark.parametrize("variant", EVERY)
def test_any_image_size_and_any_number_of_samples_is_accepted(variant, height, width):
    config = ResNetPixelCnn(variant=variant, size="reduced", latent_dim=3)
    domain = ImageDomain(height, width)
    batch = ImageBatch(torch.zeros(2, height, width, dtype=torch.uint8), torch.arange(2))
    q = config.encoder(domain, None).eval()(batch)
    assert q.mean_BZ.shape == q.logvar_BZ.shape == (2, 3)
    made = config.decoder(domain, torch.Generator(), DecoderOptions()).eval()
    for samples in (1, 3):
        assert made(batch.history, batch.targets, torch.zeros(2, samples, 3)).shape == (2, samples)


# --- dependencies ----------------------------------------------------------------------------------------------------


def jacobian(made, height, width, seed=0):
    """Return d logit of pixel i / d pixel j, [H * W, H * W]."""
    maps = made.maps_of(draws(1, 2, seed=seed)) if made.to_maps is not None else None

    def logits(pixels):
        return made.logits(pixels.view(1, height, width), maps).flatten()

    return torch.autograd.functional.jacobian(logits, bits(height * width, seed=seed))


@pytest.mark.parametrize("latent_dim", [0, 2])
@pytest.mark.parametrize("variant", EVERY)
def test_a_pixel_depends_only_on_previous_pixels(variant, latent_dim):
    slopes = jacobian(decoder(variant, 6, 5, latent_dim), 6, 5)
    later = torch.ones(30, 30).triu().bool()
    assert (slopes[later] == 0).all()
    assert (slopes[1:, 0] != 0).any()
    neighbours = slopes.diagonal(-1).view(-1)[[n for n in range(29) if n % 5 != 4]]
    assert (neighbours != 0).all(), "each pixel depends on the one on its left"


def test_in_train_mode_batch_normalisation_of_v2_leaks_later_pixels():
    made = decoder("v2", 6, 5).train()
    slopes = jacobian(made, 6, 5)
    assert (slopes[torch.ones(30, 30).triu(1).bool()] != 0).any()


@pytest.mark.parametrize(("variant", "read"), [("v2", 384), ("gated13", 384), ("gated12_kim", 391)])
def test_the_full_decoders_depend_on_most_of_the_previous_pixels(variant, read):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = (
            ResNetPixelCnn(variant=variant, maps=2)
            .decoder(OMNIGLOT, torch.Generator(), DecoderOptions())
            .double()
            .eval()
        )
    pixels = bits(1, 28, 28).requires_grad_()
    made.logits(pixels, made.maps_of(draws(1, 32)))[0, 14, 14].backward()
    before = 14 * 28 + 14
    assert int((pixels.grad.flatten()[:before] != 0).sum()) == read
    assert not pixels.grad.flatten()[before:].any()


def z_reaches(made, height, width):
    """Return whether the logit of each pixel depends on z, [H, W]."""

    def logits(z_Z):
        return made.logits(bits(1, height, width), made.maps_of(z_Z[None])).flatten()

    slopes = torch.autograd.functional.jacobian(logits, draws(2))
    return (slopes != 0).any(1).view(height, width)


@pytest.mark.parametrize("variant", EVERY)
def test_z_reaches_every_pixel_except_the_first_if_its_maps_are_masked(variant):
    reached = z_reaches(decoder(variant, 5, 4), 5, 4)
    assert bool(reached[0, 0]) == (variant != "gated12_kim")
    assert reached.flatten()[1:].all()


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("variant", EVERY)
def test_skip_connections_reach_every_pixel_and_keep_the_order_of_dependence(variant, everywhere):
    made = decoder(variant, 5, 4, options=DecoderOptions(skip=Skip("add", everywhere)))
    assert z_reaches(made, 5, 4).all()
    assert (jacobian(made, 5, 4)[torch.ones(20, 20).triu().bool()] == 0).all()
    assert len(made.skips_of_z.paths) == (4 if everywhere else 1)
    plain = decoder(variant, 5, 4)
    assert count(made) == count(plain) + len(made.skips_of_z.paths) * 4 * 6


def test_additional_blocks_of_v2_bypass_two_layers():
    made = decoder("v2", 5, 4, kernels=(3,) * 7)
    inputs_of, outputs_of = {}, {}
    components = {"entered": made.entered, **{f"layer {n + 1}": layer for n, layer in enumerate(made.layers)}}
    components |= {f"around {n}": block for n, block in enumerate(made.around)} | {"head": made.head}
    for name, part in components.items():

        def keep(module, inputs, output, name=name):
            inputs_of[name], outputs_of[name] = inputs[0], output

        part.register_forward_hook(keep)
    made.logits(bits(2, 5, 4), made.maps_of(draws(2, 2)))
    output = [outputs_of["entered"], *(outputs_of[f"layer {n}"] for n in range(1, 7))]
    assert len(made.around) == 5
    for j in range(5):
        assert torch.equal(inputs_of[f"around {j}"], output[j])
    for i in range(1, 7):
        expected = output[i - 1] + outputs_of[f"around {i - 3}"] if i >= 3 else output[i - 1]
        assert torch.equal(inputs_of[f"layer {i}"], expected)
    assert torch.equal(inputs_of["head"], output[6] + outputs_of["around 4"])


def test_a_gated_layer_reads_the_rows_above_and_the_same_row_to_the_left():
    layer = _Layer(1, 2, 3, zero_border=False).double()
    v, h = draws(1, 1, 5, 5, seed=1).requires_grad_(), draws(1, 1, 5, 5, seed=2).requires_grad_()

    def positions_read(output, source):
        (gradient,) = torch.autograd.grad(output, source, retain_graph=True, allow_unused=True)
        return [] if gradient is None else gradient[0, 0].nonzero().tolist()

    vertical, horizontal = layer(v, h)
    above = [[row, column] for row in (1, 2) for column in (1, 2, 3)]
    assert positions_read(vertical[0, 0, 3, 2], v) == above
    assert positions_read(vertical[0, 0, 3, 2], h) == []
    assert positions_read(horizontal[0, 0, 3, 2], v) == above
    assert positions_read(horizontal[0, 0, 3, 2], h) == [[3, 1], [3, 2]]
    first = _Layer(2, 2, 3, zero_border=False).double()
    for shift, same_row in ((0, [[3, 1], [3, 2]]), (1, [[3, 0], [3, 1]])):
        maps = draws(1, 1, 5, 5, seed=3).requires_grad_()
        _, horizontal = first.enter(v[:, 0], maps, shift)
        rows = (1, 2) if shift else (2, 3)
        expected = sorted([[row, column] for row in rows for column in (1, 2, 3)] + same_row)
        assert positions_read(horizontal[0, 0, 3, 2], maps) == [
            position for n, position in enumerate(expected) if position not in expected[:n]
        ]
        assert positions_read(horizontal[0, 0, 3, 2], v) == [*above, [3, 0], [3, 1]]


def test_a_zero_border_fills_shifted_outputs_with_0_instead_of_the_bias():
    """The published code of Kim et al. pads the output of the convolution: v_pad2(v_conv(x))[:, :, :-1]."""
    made = {border: decoder("gated12_kim", 5, 5, border=border) for border in ("bias", "zero")}
    pixels, maps = bits(2, 5, 5), draws(2, 4, 5, 5)
    entry = made["zero"].entry
    read = torch.cat([pixels[:, None], maps], 1)
    reach = entry.reach
    below = entry.vertical(nn.functional.pad(read, (reach, reach, reach, 0)))
    vertical = torch.cat([torch.zeros_like(below[:, :, :1]), below[:, :, :-1]], 2)
    right = entry.horizontal(nn.functional.pad(read, (reach, 0, 0, 0)))
    horizontal = torch.cat([torch.zeros_like(right[..., :1]), right[..., :-1]], 3)
    v, h = entry.enter(pixels, maps, 1)
    torch.testing.assert_close(v, gate(vertical))
    torch.testing.assert_close(h, entry.leave(gate(horizontal + entry.across(vertical))))

    one, other = (made[border].logits(pixels, maps) for border in made)
    assert not torch.allclose(one, other, atol=1e-6)
    with torch.no_grad():
        for model in made.values():
            for layer in (model.entry, *model.layers):
                layer.vertical.bias.zero_()
            model.entry.horizontal.bias.zero_()
    one, other = (made[border].logits(pixels, maps) for border in made)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_zero_border_keeps_the_order_of_dependence_and_the_probabilities():
    slopes = jacobian(decoder("gated12_kim", 6, 5, border="zero"), 6, 5)
    assert (slopes[torch.ones(30, 30).triu().bool()] == 0).all()
    made, images = decoder("gated12_kim", 3, 2, border="zero"), every_image(3, 2)
    with torch.no_grad():
        mass = (-made(images, images, draws(1, 1, 2).expand(len(images), -1, -1))).exp().sum()
    assert float(mass) == pytest.approx(1.0)


@pytest.mark.parametrize("variant", sorted(set(EVERY) - {"gated12_kim"}))
def test_a_zero_border_is_refused_for_other_variants(variant):
    with pytest.raises(ValueError, match="gated12_kim only"):
        ResNetPixelCnn(variant=variant, border="zero")


# --- probabilities ---------------------------------------------------------------------------------------------------


def every_image(height, width):
    rows = list(itertools.product((0.0, 1.0), repeat=height * width))
    return torch.tensor(rows, dtype=torch.float64).view(-1, height, width)


@pytest.mark.parametrize("latent_dim", [0, 2])
@pytest.mark.parametrize("variant", EVERY)
def test_the_probabilities_of_all_images_sum_to_one(variant, latent_dim):
    made, images = decoder(variant, 3, 3, latent_dim), every_image(3, 3)
    z = draws(1, 4, latent_dim).expand(len(images), -1, -1)
    with torch.no_grad():
        mass_S = (-made(images, images, z)).exp().sum(0)
        single_S = (-made.float()(images.float(), images.float(), z.float())).exp().sum(0)
    torch.testing.assert_close(mass_S, torch.ones(4).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(single_S, torch.ones(4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", EVERY)
def test_samples_and_chunks_do_not_affect_each_other(variant, monkeypatch):
    made, images, z = decoder(variant, 5, 4), bits(7, 5, 4), draws(7, 6, 2)
    together = made(images, images, z).detach()
    for s in range(6):
        torch.testing.assert_close(together[:, s : s + 1], made(images, images, z[:, s : s + 1]), rtol=1e-9, atol=0)
    rows = []
    logits = made.logits
    monkeypatch.setattr(made, "logits", lambda pixels, maps: rows.append(len(maps)) or logits(pixels, maps))
    for values in (6 * 20 * 1, 6 * 20 * 4, 6 * 20 * 10, 2**22):
        monkeypatch.setattr("lagvae_core.models.pixel_decoder.CPU_VALUES", values)
        rows.clear()
        with torch.no_grad():
            chunked = made(images, images, z)
        torch.testing.assert_close(chunked, together, rtol=1e-9, atol=0)
        assert max(rows) * 6 * 20 <= values
        assert sum(rows) == 42


@pytest.mark.parametrize("variant", EVERY)
def test_sampled_images_have_the_frequencies_of_their_probabilities(variant):
    made, images, n = decoder(variant, 2, 2), every_image(2, 2), 4000
    z = draws(1, 2)
    with torch.no_grad():
        p = (-made(images, images, z.expand(16, 1, -1))).exp()[:, 0]
    drawn = made.sample(z.expand(n, -1), torch.rand(n, *made.size, generator=torch.Generator().manual_seed(0)))
    assert drawn.shape == (n, 2, 2)
    frequency = (drawn.double()[:, None] == images).all((2, 3)).double().mean(0)
    assert float(frequency.sum()) == pytest.approx(1.0, rel=1e-12)
    assert ((frequency - p).abs() <= 4 * (p * (1 - p) / n).sqrt() + 1e-9).all()
    assert float(p.max()) < 0.5, "a test of a single certain image shows nothing"


@pytest.mark.parametrize("variant", EVERY)
def test_without_draws_each_pixel_has_its_more_likely_value(variant):
    made, z = decoder(variant, 3, 3), draws(4, 2)
    images = made.sample(z)
    assert images.dtype == torch.float32
    with torch.no_grad():
        logits = made.logits(images.double(), made.maps_of(z))
    assert torch.equal(images, (logits > 0).float())
    assert torch.equal(made.sample(z[:2]), images[:2])


# --- batch normalisation ---------------------------------------------------------------------------------------------


def test_the_encoder_depends_on_the_batch_in_train_mode_only():
    encoder = ResNetPixelCnn(latent_dim=2, encoder_maps=4, encoder_hidden=8).encoder(ImageDomain(6, 6), None).double()
    images = bits(8, 6, 6)
    whole, part = encoder.read(images).mean_BZ, encoder.read(images[:4]).mean_BZ
    assert not torch.allclose(whole[:4], part)
    encoder.eval()
    torch.testing.assert_close(encoder.read(images).mean_BZ[:4], encoder.read(images[:4]).mean_BZ)


def test_running_statistics_are_used_and_not_updated():
    encoder = ResNetPixelCnn(latent_dim=2, encoder_maps=4, encoder_hidden=8).encoder(ImageDomain(6, 6), None).double()
    images = bits(8, 6, 6)
    encoder.read(images)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with running_statistics(encoder):
        inside = encoder.read(images).mean_BZ
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(module.training for module in encoder.modules())
    torch.testing.assert_close(inside, encoder.eval().read(images).mean_BZ)
    with running_statistics(encoder):
        pass
    assert not any(module.training for module in encoder.modules())
