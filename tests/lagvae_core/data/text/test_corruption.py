import torch

from lagvae_core.data import BOS, UNK, History
from lagvae_core.data.text.corruption import conceal

TOKENS = torch.tensor([[BOS, 10, 11, 12], [BOS, 13, 14, 15]])
DROPPED = torch.tensor([[False, True, True, False], [True, False, False, True]])


def test_unk_replaces_the_dropped_words():
    concealed = conceal(History(TOKENS), DROPPED, "unk")
    assert concealed.tokens_BT.tolist() == [[BOS, UNK, UNK, 12], [UNK, 13, 14, UNK]]
    assert concealed.blank_BT is None


def test_zero_marks_the_dropped_words_as_blank():
    concealed = conceal(History(TOKENS), DROPPED, "zero")
    assert torch.equal(concealed.tokens_BT, TOKENS)
    assert torch.equal(concealed.blank_BT, DROPPED)


def test_blank_words_stay_blank():
    before = History(TOKENS, torch.tensor([[True, False, False, False]] * 2))
    assert torch.equal(conceal(before, DROPPED, "zero").blank_BT, DROPPED | before.blank_BT)
    assert torch.equal(conceal(before, DROPPED, "unk").blank_BT, before.blank_BT)


def test_the_original_history_is_not_changed():
    tokens = TOKENS.clone()
    for replacement in ("unk", "zero"):
        conceal(History(tokens), DROPPED, replacement)
    assert torch.equal(tokens, TOKENS)
