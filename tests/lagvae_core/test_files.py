import pytest

from lagvae_core.files import check_writable, create_folder_atomically, write_synced


def fill(folder, content):
    with create_folder_atomically(folder) as temporary, write_synced(temporary / "file") as file:
        file.write(content)


class TestCreateFolderAtomically:
    def test_the_folder_appears_with_its_files(self, tmp_path):
        with create_folder_atomically(tmp_path / "parent" / "folder") as temporary:
            assert not (tmp_path / "parent" / "folder").exists()
            (temporary / "file").write_bytes(b"content")
        assert (tmp_path / "parent" / "folder" / "file").read_bytes() == b"content"
        assert [path.name for path in (tmp_path / "parent").iterdir()] == ["folder"]

    def test_the_first_of_several_writers_wins(self, tmp_path):
        fill(tmp_path / "folder", b"first")
        fill(tmp_path / "folder", b"second")
        assert (tmp_path / "folder" / "file").read_bytes() == b"first"
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]

    def test_an_error_in_the_block_leaves_nothing(self, tmp_path):
        with pytest.raises(TypeError):
            fill(tmp_path / "folder", "text is not bytes")
        assert list(tmp_path.iterdir()) == []

    def test_a_file_of_the_same_name_is_an_error_and_is_kept(self, tmp_path):
        (tmp_path / "folder").write_bytes(b"a file")
        with pytest.raises(OSError):
            fill(tmp_path / "folder", b"content")
        assert (tmp_path / "folder").read_bytes() == b"a file"
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]


class TestCheckWritable:
    def test_a_writable_folder_is_left_as_it_was(self, tmp_path):
        check_writable(tmp_path)
        check_writable(tmp_path, ".another")
        assert list(tmp_path.iterdir()) == []

    def test_a_missing_folder_and_a_file_are_errors(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        for name in ("missing", "file"):
            with pytest.raises(OSError):
                check_writable(tmp_path / name)
