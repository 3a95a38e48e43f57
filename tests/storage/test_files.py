"""Files are written whole or not at all, and read with one error."""

import errno
import os

import pytest

from diffai_jax.storage import files, store
from diffai_jax.types import UsageError


@pytest.mark.parametrize("binary, content", [(False, "new ε"), (True, b"\xff")])
def test_what_is_written_takes_the_place_of_what_was(tmp_path, binary, content):
  path = tmp_path / "file"
  path.write_text("old")
  with files.replacing(str(path), binary=binary) as file:
    file.write(content)
    assert path.read_text() == "old"
  expected = content if binary else content.encode("utf-8")
  assert path.read_bytes() == expected
  assert list(tmp_path.iterdir()) == [path]


def test_a_failure_while_writing_leaves_what_was(tmp_path):
  path = tmp_path / "file.json"
  path.write_text("old")
  with pytest.raises(RuntimeError), files.replacing(str(path)) as file:
    file.write("half of")
    raise RuntimeError
  with pytest.raises(TypeError):
    files.write_json(str(path), {"a": object()})
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_what_was_and_nothing_else(tmp_path, monkeypatch):
  """The system's own error comes out, and no half-written file stays."""
  path = tmp_path / "file"
  path.write_text("old")

  def full(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(files.os, "fsync", full)
  with pytest.raises(files.CannotWrite) as caught:
    files.write_json(str(path), {})
  assert isinstance(caught.value, UsageError)
  assert isinstance(caught.value, OSError)
  assert str(caught.value).startswith(
      f"cannot write {path} (No space left on device); "
  )
  assert files.reason(caught.value) == "No space left on device"
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


def test_file_and_folder_are_on_the_disk_before_it_counts(
    tmp_path, monkeypatch
):
  """The file before it gets its name, and the folder after that."""
  done = []
  sync, replace = os.fsync, os.replace

  def watched_sync(descriptor):
    done.append("folder" if os.path.isdir(f"/dev/fd/{descriptor}") else "file")
    sync(descriptor)

  def watched_replace(*paths):
    done.append("replace")
    replace(*paths)

  monkeypatch.setattr(files.os, "fsync", watched_sync)
  monkeypatch.setattr(files.os, "replace", watched_replace)
  files.write_json(str(tmp_path / "file"), {})
  assert done == ["file", "replace", "folder"]


def test_removing_takes_files_folders_and_nothing(tmp_path):
  (tmp_path / "folder" / "inner").mkdir(parents=True)
  (tmp_path / "file").write_text("")
  (tmp_path / "kept").mkdir()
  (tmp_path / "link").symlink_to(tmp_path / "kept")
  for name in ("folder", "file", "link", "missing"):
    store.remove(str(tmp_path / name))
  assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_json_objects_are_read_back_and_missing_ones_are_none(tmp_path):
  path = str(tmp_path / "file.json")
  assert files.read_json(path, "") is None
  files.write_json(path, {"a": [1, None]})
  assert files.read_json(path, "") == {"a": [1, None]}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "\0", "[" * 100_000])
def test_anything_else_is_one_line_with_the_advice(tmp_path, text):
  path = tmp_path / "file.json"
  path.write_text(text)
  with pytest.raises(UsageError, match="cannot be read.*; do this") as caught:
    files.read_json(str(path), "do this")
  assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_in_a_files_place_is_one_line(tmp_path):
  (tmp_path / "file.json").mkdir()
  with pytest.raises(UsageError, match="Is a directory"):
    files.read_json(str(tmp_path / "file.json"), "move it")
