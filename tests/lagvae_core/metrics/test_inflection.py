import functools
import itertools
from types import SimpleNamespace

import inflections
import pytest
import torch
from rapidfuzz.distance import Levenshtein

from lagvae_core.data import BOS, EOS, PAD, UNK
from lagvae_core.evaluation.evaluate import evaluate
from lagvae_core.metrics.encoding import encode_split
from lagvae_core.metrics.inflection import SAMPLES, edits, inflect, inflection_columns
from lagvae_core.settings import EvaluationConfig


def by_definition(one, other):
    """Return the unit-cost edit distance by its recursion."""

    @functools.cache
    def prefix_distance(i, j):
        if not i or not j:
            return i + j
        return min(
            prefix_distance(i - 1, j) + 1,
            prefix_distance(i, j - 1) + 1,
            prefix_distance(i - 1, j - 1) + (one[i - 1] != other[j - 1]),
        )

    return prefix_distance(len(one), len(other))


@pytest.mark.parametrize(
    ("generated", "true", "distance"),
    [("", "abc", 3), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ödü", "odu", 2), ("flaw", "lawn", 2)],
)
def test_known_distances(generated, true, distance):
    result = edits([ord(c) for c in generated], [ord(c) for c in true])
    assert result.distance == distance == by_definition(generated, true)
    assert result.relative == distance / len(true)


def test_the_distances_of_all_short_words_equal_the_definition():
    words = [word for length in range(4) for word in itertools.product((4, 5, 6), repeat=length)]
    for one, other in itertools.product(words, words[1:]):
        assert edits(one, other).distance == by_definition(one, other) == edits(other, one).distance


def test_a_generated_unknown_character_matches_nothing():
    assert edits([4, UNK], [4, UNK]).distance == 1
    assert Levenshtein.distance([4, UNK], [4, UNK]) == 0


class CopyModel(torch.nn.Module):
    """Decoder that copies the source and ignores z; its state is the position. Without `ends` it never emits `</s>`."""

    def __init__(self, vocabulary, ends=True):
        super().__init__()
        self.vocabulary, self.ends = vocabulary, ends
        self.eval()

    @property
    def decoder(self):
        return self

    def begin(self, z_RZ, context):
        assert len(z_RZ) == len(context.source.tokens_BL)
        return SimpleNamespace(source=context.source.tokens_BL, position=0)

    def step(self, state, tokens_R):
        source = torch.nn.functional.pad(state.source, (0, 1 + state.position), value=EOS)
        following = source[:, state.position + 1]
        following = following.masked_fill(following == PAD, EOS)
        if not self.ends:
            following = torch.full_like(following, 4)
        assert state.position or bool((tokens_R == BOS).all())
        logits_RV = torch.nn.functional.one_hot(following, self.vocabulary).float()
        return logits_RV, SimpleNamespace(source=state.source, position=state.position + 1)


def copied(tmp_path):
    """Return a data set whose targets are the sources."""
    lines = [f"{form}\tpos=N\t{form}" for form in inflections.STEMS]
    text = "\n".join(lines)
    return inflections.tiny(path=inflections.write(tmp_path, train=text, dev=text, test=text)).data.load()


def test_a_copying_model_is_correct_if_the_target_is_the_source(tmp_path):
    data = copied(tmp_path)
    model = CopyModel(len(data.characters))
    trial = inflections.trial_of(inflections.tiny())
    trial.model.eval()
    batches = data.test.batches(5)
    encoded = encode_split(inflections.Trial(trial.config, data, trial.device).model.eval(), batches, 0)
    assert inflection_columns(model, batches, encoded, 0) == {
        "accuracy": 1.0,
        "accuracy_sampled": 1.0,
        "accuracy_swapped": 1.0,
        "levenshtein": 0.0,
        "levenshtein_relative": 0.0,
    }
    other = inflections.dataset()
    batches = other.test.batches(5)
    encoded = encode_split(trial.model, batches, 0)
    columns = inflection_columns(CopyModel(len(other.characters)), batches, encoded, 0)
    pairs = [line.split("\t") for line in inflections.rows(inflections.STEMS[10:])]
    distances = [by_definition(source, target) for source, _, target in pairs]
    assert columns["accuracy"] == sum(d == 0 for d in distances) / len(pairs) == 0
    assert columns["levenshtein"] == pytest.approx(sum(distances) / len(pairs))
    relative = [d / len(target) for d, (_, _, target) in zip(distances, pairs, strict=True)]
    assert columns["levenshtein_relative"] == pytest.approx(sum(relative) / len(pairs))


def test_a_form_without_an_end_is_truncated(tmp_path):
    data = copied(tmp_path)
    (batch,) = data.test.batches(100)
    assert batch.index_B.tolist() == sorted(range(12), key=lambda n: len(inflections.STEMS[n]))
    generated = inflect(CopyModel(len(data.characters), ends=False), batch, torch.zeros(batch.size, 2, 1))
    for forms, number in zip(generated, batch.index_B.tolist(), strict=True):
        source = inflections.STEMS[number]
        assert [len(form) for form in forms] == 2 * [2 * (len(source) + 2) + 20]


def test_a_trained_decoder_emits_its_most_likely_next_character_in_any_batch():
    trial = inflections.trial_of(inflections.tiny())
    model = trial.model.double().eval()
    test = trial.dataset.test
    (batch,) = test.batches(100)
    z = torch.randn(batch.size, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    generated = inflect(model, batch, z)
    for row, sample in itertools.product(range(batch.size), range(3)):
        form = generated[row][sample]
        past = torch.tensor([[BOS, *form]])
        history = type(batch.history)(past, tags_BK=batch.tags_BK[row, None], source=batch.source)
        logits = model.decoder.output(model.decoder.features(history, z[row, sample][None, None]))[:, 0]
        logits[:, [PAD, BOS]] = -torch.inf
        best = logits.argmax(1).tolist()
        truncated = len(form) == 2 * int((batch.source.tokens_BL[row] != PAD).sum()) + 20
        assert best[: len(form) + (not truncated)] == [*form, EOS][: len(form) + (not truncated)]
    for small in test.batches(2):
        again = inflect(model, small, z[batch.index_B.argsort()][small.index_B])
        assert again == [generated[batch.index_B.tolist().index(number)] for number in small.index_B.tolist()]


def measured(trial):
    config = EvaluationConfig(iw_samples=4)
    return evaluate(trial.model, trial.components, trial.dataset, trial.dataset.test, config, trial.device)


def test_evaluation_adds_the_columns_in_any_batches_and_samples_of_a_certain_posterior_are_its_mean():
    trial = inflections.trial_of(inflections.tiny(latent_dim=2))
    metrics = measured(trial)
    batches = trial.dataset.test.batches(32)
    encoded = encode_split(trial.model, batches, 0)
    again = inflection_columns(trial.model, batches, encoded, 0)
    assert {name: metrics[name] for name in again} == again
    assert inflection_columns(trial.model, trial.dataset.test.batches(5), encoded, 0) == pytest.approx(again)
    assert SAMPLES == 10
    with torch.no_grad():  # a posterior without variance, so that samples equal the mean
        trial.model.encoder.to_latent.bias[2:] = -60.0
        trial.model.encoder.to_latent.weight[2:] = 0.0
    certain = measured(trial)
    assert certain["accuracy_sampled"] == certain["accuracy"]


def test_accuracy_swapped_of_a_single_example_is_none():
    trial = inflections.trial_of(inflections.tiny())
    test = trial.dataset.test.limit(1)
    encoded = encode_split(trial.model.eval(), test.batches(4), 0)
    assert inflection_columns(trial.model, test.batches(4), encoded, 0)["accuracy_swapped"] is None
