"""Lists as text: commas within brackets part nothing."""

import pytest

from diffai_jax.text.lists import split


@pytest.mark.parametrize("text, words", [
    ("", ()),
    (" , ,", ()),
    ("Box", ("Box",)),
    ("Box, HBox", ("Box", "HBox")),
    ("Box,AlphaCROWN(20)", ("Box", "AlphaCROWN(20)")),
    ("AlphaCROWN(20)", ("AlphaCROWN(20)",)),
    ("(AlphaCROWN(20, HBox), Box)", ("AlphaCROWN(20, HBox)", "Box")),
    ("CROWN(Box), CROWN(HBox)", ("CROWN(Box)", "CROWN(HBox)")),
    ("[(Box, 'HBox')]", ("Box", "HBox")),
    ("('Box', \"CROWN(HBox)\",)", ("Box", "CROWN(HBox)")),
    ("A(B(1, 2), 3), C", ("A(B(1, 2), 3)", "C")),
    ("a), b", ("a)", "b")),
    ("(a, b", ("(a, b",)),
])
def test_words(text, words):
  assert split(text) == words
