"""Files are written whole or not at all, and read with one error."""

import pytest

from diffai_jax import files
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


def test_json_objects_are_read_back_and_missing_ones_are_none(tmp_path):
  path = str(tmp_path / "file.json")
  assert files.read_json(path, "") is None
  files.write_json(path, {"a": [1, None]})
  assert files.read_json(path, "") == {"a": [1, None]}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3"])
def test_anything_else_is_one_line_with_the_advice(tmp_path, text):
  path = tmp_path / "file.json"
  path.write_text(text)
  with pytest.raises(UsageError, match="cannot be read.*; do this") as caught:
    files.read_json(str(path), "do this")
  assert str(path) in str(caught.value) and "\n" not in str(caught.value)
