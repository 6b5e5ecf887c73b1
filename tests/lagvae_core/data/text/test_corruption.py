import torch

from lagvae_core.data import BOS, UNK, History
from lagvae_core.data.text.corruption import conceal

TOKENS = torch.tensor([[BOS, 10, 11, 12], [BOS, 13, 14, 15]])
DROPPED = torch.tensor([[False, True, True, False], [True, False, False, True]])


def test_unk_takes_the_place_of_a_word():
    found = conceal(History(TOKENS), DROPPED, "unk")
    assert found.tokens_BT.tolist() == [[BOS, UNK, UNK, 12], [UNK, 13, 14, UNK]]
    assert found.blank_BT is None


def test_zero_leaves_the_words_and_marks_them():
    found = conceal(History(TOKENS), DROPPED, "zero")
    assert torch.equal(found.tokens_BT, TOKENS)
    assert torch.equal(found.blank_BT, DROPPED)


def test_what_was_blank_stays_so():
    before = History(TOKENS, torch.tensor([[True, False, False, False]] * 2))
    assert torch.equal(conceal(before, DROPPED, "zero").blank_BT, DROPPED | before.blank_BT)
    assert torch.equal(conceal(before, DROPPED, "unk").blank_BT, before.blank_BT)


def test_the_given_history_is_not_changed():
    tokens = TOKENS.clone()
    for replace in ("unk", "zero"):
        conceal(History(tokens), DROPPED, replace)
    assert torch.equal(tokens, TOKENS)
