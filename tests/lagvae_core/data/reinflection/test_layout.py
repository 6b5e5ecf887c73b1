"""Files of the shared tasks since 2017 and of UniMorph: names, order of columns, missing splits."""

import pytest

from lagvae_core.data import ReinflectionData
from lagvae_core.errors import DataError

EXAMPLES = [
    ("ev", "evler", "N;NOM;PL"),
    ("araba", "arabalar", "N;NOM;PL"),
    ("ev", "evde", "N;LOC;SG"),
    ("Ali", "Ali", "N"),
]


def text(order=(0, 1, 2), examples=EXAMPLES):
    return "".join("\t".join(example[at] for at in order) + "\n" for example in examples)


@pytest.fixture
def folder(tmp_path):
    def write(*names, order=(0, 1, 2)):
        for name in names:
            (tmp_path / name).write_text(text(order), "utf-8")
        return tmp_path

    return write


def load(path, language="turkish", **fields):
    return ReinflectionData(path=str(path), language=language, **fields).load()


def issues_of(path, **fields):
    with pytest.raises(DataError) as caught:
        load(path, **fields)
    return caught.value.issues


def words(split, characters):
    """Return source and target of each example."""
    pairs = {}
    for batch in split.batches(5):
        rows = zip(batch.index_B.tolist(), batch.source.tokens_BL.tolist(), batch.tokens_BL.tolist(), strict=True)
        pairs |= {number: tuple(map(characters.decode, forms)) for number, *forms in rows}
    return [pairs[number] for number in range(len(split))]


@pytest.mark.parametrize(
    "names",
    [
        ("turkish-train-low", "turkish-dev", "turkish-uncovered-test"),
        ("turkish-train-high", "turkish-train-low", "turkish-dev", "turkish-test", "turkish-covered-test"),
        ("turkish.trn", "turkish.dev", "turkish.tst"),
        ("turkish.train", "turkish.dev", "turkish.test", "turkic.train"),
        ("turkish_large.train", "turkish.dev", "turkish.test"),
        ("turkish-train.txt", "turkish-valid.txt", "turkish-test.txt"),
    ],
)
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
def test_later_files_are_read_and_what_was_guessed_is_said(folder, names, order):
    size = {"size": "low"} if "turkish-train-high" in names else {}
    data = load(folder(*names, order=order), **size)
    assert words(data.train, data.characters) == [(lemma, form) for lemma, form, _ in EXAMPLES]
    assert data.features == ("N", "NOM", "PL", "LOC", "SG")
    assert "columns source, " + ("target, features" if order[1] == 1 else "features, target") in data.report["remarks"]
    assert names[-3 if size else 0].replace("dev", "train-low") in data.report["remarks"] or size


def test_the_files_of_2016_come_first(folder):
    path = folder("turkish-train-low", "turkish-dev", "turkish-test")
    for split in ("train", "dev", "test"):
        (path / f"turkish-task1-{split}").write_text("a\tpos=N\tb\n")
    data = load(path, task=1)
    assert data.features == ("pos=N",)
    assert "remarks" not in data.report


def test_several_training_files(folder):
    path = folder("turkish-train-low", "turkish-train-high", "turkish-dev", "turkish-test")
    (issue,) = issues_of(path)
    assert load(path, size=issue.hint.rpartition("data.size=")[2])
    (issue,) = issues_of(path, size="medium")
    assert "turkish-train-medium" in issue.message


def test_a_file_of_unimorph_and_held_out_splits(folder):
    path = folder()
    examples = [(f"e{chr(97 + n // 26)}{chr(97 + n % 26)}", f"x{n}", "N;PL") for n in range(100)]
    (path / "tur").write_text(text(examples=examples))
    assert [issue.where for issue in issues_of(path, language="tur")] == ["data.path"] * 2
    data = load(path, language="tur", held_out=0.2)
    forms = [form for split in (data.train, data.valid, data.test) for form in split.targets.offsets[1:]]
    assert len(forms) == 100
    assert 5 < len(data.test) < 40
    assert "valid and test drawn from train (0.2 each, seed 0)" in data.report["remarks"]
    (path / "tur").write_text(text())
    assert {issue.where for issue in issues_of(path, language="tur", held_out=0.001)} == {"data.held_out"}


def test_a_covered_test_file_is_no_test_file(folder):
    path = folder("turkish-train-low", "turkish-dev")
    (path / "turkish-covered-test").write_text("ev\tN;NOM;PL\n")
    (issue,) = issues_of(path)
    assert "uncovered" in issue.hint
    (path / "turkish-train-low").write_text(text(examples=EXAMPLES * 10))
    assert len(load(path, held_out=0.2).test) > 0


def test_features_that_train_lacks_are_counted(folder):
    path = folder("turkish-train-low", "turkish-dev", "turkish-test")
    (path / "turkish-dev").write_text("ev\tevim\tN;PSS1S\n")
    data = load(path)
    assert data.features[-1] == "PSS1S"
    assert "1 of 6 features occur in valid or test alone" in data.report["remarks"]


def test_columns_that_cannot_be_recognised(folder):
    path = folder("turkish-train-low", "turkish-dev", "turkish-test", order=(2, 1, 0))
    (issue,) = issues_of(path)
    assert issue.where == str(path / "turkish-train-low")
    assert issue.value == "N;NOM;PL\tevler\tev"


def test_a_wrong_line_is_located(folder):
    path = folder("turkish-train-low", "turkish-dev", "turkish-test")
    (path / "turkish-dev").write_text("ev\tevler\tN;PL\nev\tevler\n\tx\tN\nev\tevler\tN;;PL\n")
    found = issues_of(path)
    assert [issue.where.rpartition(", ")[2] for issue in found] == ["line 2", "line 3", "line 4"]
    assert all("source, target, features" in issue.hint for issue in found)


def test_other_languages_are_listed(folder):
    path = folder("turkish-train-low", "turkish-dev", "turkish-test")
    assert all("Did you mean turkish?" in issue.hint for issue in issues_of(path, language="turkisch"))


def test_limits_apply_to_every_split(folder):
    path = folder("turkish-train-low", "turkish-dev", "turkish-test")
    data = load(path, limit=3, valid_limit=2, test_limit=1)
    assert [len(data.train), len(data.valid), len(data.test)] == [3, 2, 1]
    assert "limited to the first 3 of train, 2 of valid, 1 of test" in data.report["remarks"]
