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
    """The unit-cost edit distance by its recursion."""

    @functools.cache
    def of(i, j):
        if not i or not j:
            return i + j
        return min(of(i - 1, j) + 1, of(i, j - 1) + 1, of(i - 1, j - 1) + (one[i - 1] != other[j - 1]))

    return of(len(one), len(other))


@pytest.mark.parametrize(
    ("written", "right", "distance"),
    [("", "abc", 3), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ödü", "odu", 2), ("flaw", "lawn", 2)],
)
def test_known_distances(written, right, distance):
    found = edits([ord(c) for c in written], [ord(c) for c in right])
    assert found.distance == distance == by_definition(written, right)
    assert found.relative == distance / len(right)


def test_every_pair_of_short_words():
    words = [word for length in range(4) for word in itertools.product((4, 5, 6), repeat=length)]
    for one, other in itertools.product(words, words[1:]):
        assert edits(one, other).distance == by_definition(one, other) == edits(other, one).distance if one else True


def test_a_written_unknown_character_is_right_nowhere():
    assert edits([4, UNK], [4, UNK]).distance == 1
    assert Levenshtein.distance([4, UNK], [4, UNK]) == 0


class CopyModel(torch.nn.Module):
    """Writes the source: a stepping decoder whose state is the place, and whose z is of no effect unless `from_z`."""

    def __init__(self, vocabulary, ends=True):
        super().__init__()
        self.vocabulary, self.ends = vocabulary, ends
        self.eval()

    @property
    def decoder(self):
        return self

    def begin(self, z_RZ, context):
        assert len(z_RZ) == len(context.source.tokens_BL)
        return SimpleNamespace(source=context.source.tokens_BL, place=0)

    def step(self, state, tokens_R):
        source = torch.nn.functional.pad(state.source, (0, 1 + state.place), value=EOS)
        wanted = source[:, state.place + 1]
        wanted = wanted.masked_fill(wanted == PAD, EOS)
        if not self.ends:
            wanted = torch.full_like(wanted, 4)
        assert state.place or bool((tokens_R == BOS).all())
        logits_RV = torch.nn.functional.one_hot(wanted, self.vocabulary).float()
        return logits_RV, SimpleNamespace(source=state.source, place=state.place + 1)


def copied(tmp_path):
    """A data set whose targets are the sources."""
    lines = [f"{form}\tpos=N\t{form}" for form in inflections.STEMS]
    text = "\n".join(lines)
    return inflections.tiny(path=inflections.write(tmp_path, train=text, dev=text, test=text)).data.load()


def test_a_model_that_copies_is_right_where_the_target_is_the_source(tmp_path):
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
    found = inflection_columns(CopyModel(len(other.characters)), batches, encoded, 0)
    pairs = [line.split("\t") for line in inflections.rows(inflections.STEMS[10:])]
    distances = [by_definition(source, target) for source, _, target in pairs]
    assert found["accuracy"] == sum(d == 0 for d in distances) / len(pairs) == 0
    assert found["levenshtein"] == pytest.approx(sum(distances) / len(pairs))
    relative = [d / len(target) for d, (_, _, target) in zip(distances, pairs, strict=True)]
    assert found["levenshtein_relative"] == pytest.approx(sum(relative) / len(pairs))


def test_a_form_without_end_is_cut(tmp_path):
    data = copied(tmp_path)
    (batch,) = data.test.batches(100)
    assert batch.index_B.tolist() == sorted(range(12), key=lambda n: len(inflections.STEMS[n]))
    written = inflect(CopyModel(len(data.characters), ends=False), batch, torch.zeros(batch.size, 2, 1))
    for forms, number in zip(written, batch.index_B.tolist(), strict=True):
        source = inflections.STEMS[number]
        assert [len(form) for form in forms] == 2 * [2 * (len(source) + 2) + 20]


def test_the_trained_decoder_writes_its_likeliest_next_character_in_any_batch():
    trial = inflections.trial_of(inflections.tiny())
    model = trial.model.double().eval()
    test = trial.dataset.test
    (batch,) = test.batches(100)
    z = torch.randn(batch.size, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    written = inflect(model, batch, z)
    for row, sample in itertools.product(range(batch.size), range(3)):
        form = written[row][sample]
        past = torch.tensor([[BOS, *form]])
        history = type(batch.history)(past, tags_BK=batch.tags_BK[row, None], source=batch.source)
        logits = model.decoder.output(model.decoder.features(history, z[row, sample][None, None]))[:, 0]
        logits[:, [PAD, BOS]] = -torch.inf
        best = logits.argmax(1).tolist()
        cut = len(form) == 2 * int((batch.source.tokens_BL[row] != PAD).sum()) + 20
        assert best[: len(form) + (not cut)] == [*form, EOS][: len(form) + (not cut)]
    for small in test.batches(2):
        again = inflect(model, small, z[batch.index_B.argsort()][small.index_B])
        assert again == [written[batch.index_B.tolist().index(number)] for number in small.index_B.tolist()]


def measured(trial, **model):
    setting = EvaluationConfig(iw_samples=4)
    return evaluate(trial.model, trial.components, trial.dataset, trial.dataset.test, setting, trial.device)


def test_the_columns_are_of_means_samples_and_other_words():
    trial = inflections.trial_of(inflections.tiny(latent_dim=2))
    found = measured(trial)
    batches = trial.dataset.test.batches(32)
    encoded = encode_split(trial.model, batches, 0)
    again = inflection_columns(trial.model, batches, encoded, 0)
    assert {name: found[name] for name in again} == again
    assert inflection_columns(trial.model, trial.dataset.test.batches(5), encoded, 0) == pytest.approx(again)
    assert SAMPLES == 10
    with torch.no_grad():  # a posterior without spread: samples are the mean
        trial.model.encoder.to_latent.bias[2:] = -60.0
        trial.model.encoder.to_latent.weight[2:] = 0.0
    certain = measured(trial)
    assert certain["accuracy_sampled"] == certain["accuracy"]


def test_of_one_example_there_is_no_other_word():
    trial = inflections.trial_of(inflections.tiny())
    test = trial.dataset.test.limit(1)
    encoded = encode_split(trial.model.eval(), test.batches(4), 0)
    assert inflection_columns(trial.model, test.batches(4), encoded, 0)["accuracy_swapped"] is None
