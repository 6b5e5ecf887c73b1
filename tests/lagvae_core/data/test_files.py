import os
import tempfile
from pathlib import Path

import pytest

from lagvae_core.data.files import data_file, data_folder, refuse_placeholder
from lagvae_core.errors import DataError

POINTERS = {
    "git lfs": "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "git annex": "/annex/objects/SHA256E-s12--ab.txt\n",
    "web page": '\ufeff\n<!DOCTYPE html>\n<html lang="en">\n',
}


def issue_of(function, argument):
    with pytest.raises(DataError) as caught:
        function(argument)
    (issue,) = caught.value.issues
    return issue


@pytest.mark.parametrize("kind", POINTERS)
@pytest.mark.parametrize("name", ["train.txt", "train.parquet", "images.npz"])
def test_a_placeholder_is_refused(kind, name, tmp_path):
    path = tmp_path / name
    path.write_text(POINTERS[kind])
    for function, argument in ((refuse_placeholder, path), (data_file, str(path))):
        issue = issue_of(function, argument)
        assert issue.where == str(path)
        assert kind.split()[-1] in f"{issue.message} {issue.hint}".lower()


@pytest.mark.parametrize("content", [b"", b"version of the truth\n", b"<s> a </s>\n", b"\x93NUMPY"])
def test_other_files_are_data(content, tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    assert data_file(str(path)) == path


@pytest.mark.parametrize("function", [data_file, data_folder])
@pytest.mark.parametrize("name", ["absent", "other/absent", "zero\0byte"])
def test_a_missing_path_is_refused(function, name, tmp_path):
    (tmp_path / "other").write_text("")
    issue = issue_of(function, str(tmp_path / name))
    assert (issue.where, issue.value) == ("data.path", str(tmp_path / name))
    assert "must be an existing" in issue.message


def test_a_file_is_no_folder_and_a_folder_is_no_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert "folder" in issue_of(data_folder, str(tmp_path / "file")).message
    assert "file" in issue_of(data_file, str(tmp_path)).message


def test_a_path_of_an_unknown_user_or_of_too_many_characters_is_refused():
    assert issue_of(data_file, "~nobody_has_this_name/x").where == "data.path"
    assert "must be readable (File name too long)" in issue_of(data_folder, "x" * 5_000).message


@pytest.fixture
def user():
    """Run the test as a user who is not root, since root may read everything. The user owns no file of the test."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def closed():
    """Return a folder that others may enter, with a folder and a file that they may not read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "inner" / "corpus").mkdir(parents=True)
        (folder / "file.npz").write_text("x")
        (folder / "listed").mkdir()
        for path, mode in ((folder, 0o711), (folder / "inner", 0o700), (folder / "file.npz", 0o600)):
            path.chmod(mode)
        (folder / "listed").chmod(0o744)
        yield folder


def test_what_may_not_be_read_or_entered_is_refused(closed, user):
    cases = [(data_file, "file.npz"), *((data_folder, name) for name in ("inner", "inner/corpus", "listed"))]
    for function, name in cases:
        issue = issue_of(function, str(closed / name))
        assert (issue.where, issue.value) == ("data.path", str(closed / name))
        assert "must be readable (Permission denied)" in issue.message
