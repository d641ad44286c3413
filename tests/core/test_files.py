import os

import pytest

from penstock.core.files import whole_file, writable, write_whole


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    file = tmp_path / "a.txt"
    write_whole(file, "old")

    def half_written():
        with whole_file(file) as stand_in:
            stand_in.write_text("new")
            raise KeyError("x")

    with pytest.raises(KeyError):
        half_written()
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_link_stays_a_link(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    write_whole(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_stand_ins_keep_the_suffix(tmp_path):
    with whole_file(tmp_path / "a.png") as stand_in:
        assert stand_in.suffix == ".png"
        assert stand_in.parent == tmp_path
        stand_in.write_bytes(b"x")


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    def unwritable():
        with whole_file(tmp_path / "a.txt"):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*/a.txt'"):
        unwritable()


def test_what_cannot_be_a_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="is a folder; give a file name in it"):
        writable(tmp_path)
    with pytest.raises(ValueError, match=f"the folder {tmp_path}/b/c does not exist \\({tmp_path} does\\)"):
        writable(tmp_path / "b" / "c" / "d.txt")
    with pytest.raises(ValueError, match=r"a\.b\.txt: the suffix must be \.csv; use .*/a\.b\.csv"):
        writable(tmp_path / "a.b.txt", ".csv")
    assert writable(tmp_path / "a.csv", ".csv") == tmp_path / "a.csv"


def test_devices_and_pipes_need_no_suffix(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/stdout", "/dev/null", tmp_path / "pipe"):
        writable(path, ".csv")
