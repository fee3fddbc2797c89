"""Files and folders that are written whole: two writers side by side, and what a killed one
leaves."""

import os
from pathlib import Path

import pytest

from bszo.files import folder_written_whole, remove_unfinished, written_whole


@pytest.mark.parametrize("other", ["run-2", "run", "run.v2"])
def test_a_writer_leaves_alone_what_another_is_writing(tmp_path: Path, other: str) -> None:
    with folder_written_whole(tmp_path / other) as slow:
        (slow / "first").write_text("1")
        with written_whole(tmp_path / "run.json") as file:
            with folder_written_whole(tmp_path / "elsewhere" / "run"):
                pass
            remove_unfinished(tmp_path / "run")
            remove_unfinished(tmp_path / "run.json")
            file.write_text("whole")
        (slow / "second").write_text("2")
    assert sorted(path.name for path in (tmp_path / other).iterdir()) == ["first", "second"]
    assert (tmp_path / "run.json").read_text() == "whole"


def test_what_a_killed_writer_left_of_this_name_alone_is_removed(tmp_path: Path) -> None:
    left, others = tmp_path / ".run-abcd_123.tmp", [".run-2-abcd_123.tmp", ".run.v2-abcd_123.tmp"]
    for name in (left.name, *others):
        (tmp_path / name).mkdir()
    with folder_written_whole(tmp_path / "run") as temporary:
        assert not left.exists()
        (temporary / "file").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [*others, "run"]


@pytest.mark.skipif(os.name != "posix", reason="rights of other users are POSIX's")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_what_is_written_has_the_rights_that_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    """A tuned model may be for a group, or for its owner alone; safetensors makes all files so."""
    before = os.umask(umask)
    try:
        _write(tmp_path)
    finally:
        assert os.umask(before) == umask
    for name in ("run/model", "run/more/file", "run.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o777 & ~umask


def _write(tmp_path: Path) -> None:
    with folder_written_whole(tmp_path / "run") as folder:
        (folder / "model").touch(mode=0o600)
        (folder / "more").mkdir()
        (folder / "more" / "file").touch(mode=0o600)
    with written_whole(tmp_path / "run.json"):
        pass
