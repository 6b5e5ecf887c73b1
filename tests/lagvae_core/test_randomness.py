import itertools

import pytest
import torch

from lagvae_core import randomness
from lagvae_core.randomness import HOST_STREAMS, Streams, derive_seed, example_noise

NAMES = ("data_order", "posterior", "dropout", "corruption", "inner_batches", "auxiliary", "variance_dropout")


def draws(streams, name, count=5):
    return torch.rand(count, generator=streams[name])


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_does_not_depend_on_the_use_of_other_streams(name):
    alone = draws(Streams(3), name)
    crowded = Streams(3)
    for other in NAMES:
        if other != name:
            draws(crowded, other, 1000)
    assert torch.equal(draws(crowded, name), alone)


def test_streams_do_not_depend_on_the_order_in_which_they_are_first_used():
    reference = Streams(3)
    expected = {name: draws(reference, name) for name in NAMES}
    for order in itertools.islice(itertools.permutations(NAMES), 0, None, 97):
        streams = Streams(3)
        for name in order:
            assert torch.equal(draws(streams, name), expected[name])


def test_streams_differ_by_name_and_by_seed():
    seen = {tuple(draws(Streams(seed), name).tolist()) for seed in range(5) for name in NAMES}
    assert len(seen) == 5 * len(NAMES)


def test_streams_neither_use_nor_change_the_global_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draws(Streams(3), "posterior")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(draws(Streams(3), "posterior"), first)


def test_a_restored_state_continues_the_draws():
    streams = Streams(3)
    for name in ("posterior", "dropout"):
        draws(streams, name, 7)
    state = {name: value.clone() for name, value in streams.state_dict().items()}
    expected = {name: draws(streams, name) for name in NAMES}
    fresh = Streams(3)
    draws(fresh, "corruption", 11)  # used here, but unused when the state was taken
    fresh.load_state_dict(state)
    assert {name: draws(fresh, name).tolist() for name in NAMES} == {n: v.tolist() for n, v in expected.items()}


def test_restoring_changes_generators_that_are_already_in_use():
    streams = Streams(3)
    draws(streams, "dropout", 7)
    state = {name: value.clone() for name, value in streams.state_dict().items()}
    expected = draws(streams, "dropout")
    fresh = Streams(3)
    held, unused = fresh["dropout"], fresh["corruption"]
    torch.rand(3, generator=unused)
    fresh.load_state_dict(state)
    assert torch.equal(torch.rand(5, generator=held), expected)
    assert torch.equal(torch.rand(5, generator=unused), draws(Streams(3), "corruption"))


def test_host_streams_live_on_the_cpu_and_the_others_on_the_device(monkeypatch):
    devices = {}

    class Recorder:
        def __init__(self, device):
            self.device = device

        def manual_seed(self, seed):
            devices[seed] = str(self.device)

    monkeypatch.setattr(randomness.torch, "Generator", Recorder)
    streams = Streams(3, "cuda:1")
    for name in NAMES:
        streams[name]
    by_name = {name: devices[derive_seed(3, name)] for name in NAMES}
    assert {name for name, device in by_name.items() if device == "cpu"} == {"data_order", "inner_batches"}
    assert set(HOST_STREAMS) == {"data_order", "inner_batches"}
    assert {device for name, device in by_name.items() if name not in HOST_STREAMS} == {"cuda:1"}


def test_initialising_is_seeded_and_restores_the_global_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with Streams(3).initialising():
        first = torch.randn(4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    with Streams(3).initialising():
        again = torch.randn(4)
    with Streams(4).initialising():
        other = torch.randn(4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_initialising_restores_the_global_generator_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), Streams(3).initialising():
        torch.randn(4) / (1 // 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_example_noise_depends_only_on_the_number_of_the_example():
    whole = example_noise(0, "sample", torch.arange(6), 3, 2)
    assert whole.shape == (6, 3, 2)
    shuffled = torch.tensor([4, 0, 5, 2])
    assert torch.equal(example_noise(0, "sample", shuffled, 3, 2), whole[shuffled])
    for number in range(6):
        assert torch.equal(example_noise(0, "sample", torch.tensor([number]), 3, 2)[0], whole[number])


def test_example_noise_differs_by_seed_column_and_example():
    rows = [
        tuple(example_noise(seed, column, torch.tensor([number]), 1, 3).flatten().tolist())
        for seed in (0, 1)
        for column in ("sample", "nll_iw")
        for number in (0, 1, 10)
    ]
    assert len(set(rows)) == len(rows)


def test_example_noise_of_no_examples_is_empty_and_keeps_the_global_generator():
    before = torch.get_rng_state()
    assert example_noise(0, "sample", torch.arange(0), 3, 2).shape == (0, 3, 2)
    example_noise(0, "sample", torch.arange(2), 3, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_example_noise_is_standard_normal():
    draws = example_noise(0, "sample", torch.arange(2000), 1, 8).flatten()
    se = len(draws) ** -0.5
    assert abs(float(draws.mean())) < 4 * se
    assert abs(float(draws.var()) - 1) < 4 * 2**0.5 * se


@pytest.mark.parametrize(
    ("parts", "seed"),
    [
        ((), 8_203_414_616_412_130_826),
        ((0, "data_order"), 264_021_035_198_457_517),
        ((0, "initialise"), 3_183_481_605_567_529_090),
        ((783435, "posterior"), 3_504_878_568_838_804_833),
        ((0, "sample", 17), 654_675_744_941_604_622),
    ],
)
def test_derived_seeds_never_change(parts, seed):
    assert derive_seed(*parts) == seed


def test_derived_seeds_separate_their_parts_and_have_63_bits():
    assert derive_seed("ab", "c") != derive_seed("a", "bc")
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert all(0 <= derive_seed(number) < 2**63 for number in range(1000))
