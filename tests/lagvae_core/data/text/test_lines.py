"""Encodings, line ends and compressions of text files, and the commands that messages give for what is not read."""

import bz2
import gzip
import io
import lzma
import zipfile

import pyarrow as pa
import pytest
from following import follow
from pyarrow import parquet

from lagvae_core.data.text.lines import read_lines
from lagvae_core.errors import DataError

TEXT = "the cat\na caf\u00e9 \U0001f600\n"
LINES = [(1, "the cat\n"), (2, "a caf\u00e9 \U0001f600\n")]


@pytest.fixture
def file(tmp_path):
    """Return a function that writes a file, in a folder with a space in its name, and returns its path."""

    def write(content, name="train.txt"):
        folder = tmp_path / "my corpus"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / name

    return write


def issue_of(path):
    with pytest.raises(DataError) as caught:
        list(read_lines(path))
    (issue,) = caught.value.issues
    assert issue.where.startswith(str(path))
    return issue


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["train.txt", "train.tsv"])
def test_compression_is_recognised_by_content(file, pack, name):
    assert list(read_lines(file(pack(TEXT.encode()), name))) == LINES


def test_a_suffix_of_compression_is_taken_at_its_word(file):
    for name, tool in (("train.txt.gz", "gzip"), ("train.txt.bz2", "bzip2"), ("train.txt.xz", "xz")):
        issue = issue_of(file(TEXT, name))
        assert tool in issue.message
        assert f"{tool} -t" in issue.hint


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_truncated_file_is_refused(file, pack):
    whole = pack(b"".join(b"%d\n" % number for number in range(9_999)))
    assert "undamaged" in issue_of(file(whole[: len(whole) // 2])).message


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("a b\rc d\r", ["a b\r", "c d\r"]),
        ("a b\rc d", ["a b\r", "c d"]),
        ("a b\rc d\n", ["a b\r", "c d\n"]),
        ("a b\r\nc d\r\n", ["a b\r\n", "c d\r\n"]),
        ("a b\r\r\nc d\r\r\n", ["a b\r\r\n", "c d\r\r\n"]),
        ("a\rb\nc\n", ["a\rb\n", "c\n"]),
        ("", []),
    ],
)
def test_line_ends(file, content, lines):
    assert [line for _, line in read_lines(file(content))] == lines
    assert [number for number, _ in read_lines(file(content))] == list(range(1, len(lines) + 1))


def test_byte_order_marks_of_utf_8_are_removed_also_where_files_were_joined(file):
    assert [line for _, line in read_lines(file("\ufeffa\n\ufeffb\nc\ufeff\n"))] == ["a\n", "b\n", "c\ufeff\n"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_another_encoding_is_refused_with_the_command_that_converts(file, encoding, pack):
    text = TEXT if encoding.startswith("utf") else "the cat\na caf\u00e9\n"
    path = file(pack(text.encode(encoding)))
    issue = issue_of(path)
    if encoding in ("utf-16", "utf-32"):
        assert issue.message == f"must be UTF-8 text, not {encoding.upper()}"
    follow(issue.hint, "iconv" if pack is bytes else "gzip -dc")
    assert "".join(line for _, line in read_lines(path)) == text


def test_text_that_is_not_utf_8_is_located(file):
    issue = issue_of(file(b"a\ncaf\xe9\n"))
    assert issue.where.endswith("train.txt, line 2, byte offset 5")


def zipped():
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr("train.txt", TEXT)
    return buffer.getvalue()


def zstandard():
    return bytes(pa.compress(TEXT.encode(), "zstd").to_pybytes())


@pytest.mark.parametrize(("content", "command"), [(zipped(), "unzip"), (zstandard(), "zstd")], ids=["zip", "zstd"])
def test_another_compression_is_refused_with_the_command_that_unpacks(file, content, command):
    path = file(content)
    follow(issue_of(path).hint, command)
    assert list(read_lines(path)) == LINES


def test_a_parquet_file_called_txt_is_refused_with_its_name(file):
    path = file(b"", "ptb.train.txt")
    parquet.write_table(pa.table({"text": ["a"]}), path)
    follow(issue_of(path).hint, "mv")
    assert parquet.read_table(path.with_name("ptb.train.parquet")).num_rows == 1


def test_a_pointer_and_a_missing_file_are_refused(file):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    assert "Git LFS" in issue_of(file(pointer)).message
    assert "No such file" in issue_of(file("").with_name("other.txt")).message
