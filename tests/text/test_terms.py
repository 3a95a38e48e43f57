"""Terms print as the text that builds them."""

import ast
import dataclasses

from hypothesis import example, given, settings
from hypothesis import strategies as st
import pytest

from diffai_jax.text.terms import Number, Term, number_text


@dataclasses.dataclass(frozen=True)
class Leaf(Term):
  """A term without arguments."""


@dataclasses.dataclass(frozen=True)
class Node(Term):
  """A term with two arguments that must and two that may be given."""

  left: Term | Number
  right: Term | Number
  third: Number = 0.5
  fourth: Number = 2


@pytest.mark.parametrize("value, text", [
    (0, "0"),
    (1, "1"),
    (-3, "-3"),
    (1.0, "1"),
    (0.5, "0.5"),
    (-0.25, "-0.25"),
    (0.1, "0.1"),
    (1e-05, "1e-05"),
    (1e14, "100000000000000"),
    (123456, "123456"),
])
def test_number_text_is_what_one_would_write(value, text):
  """Whole numbers lose their point, others keep Python's shortest digits."""
  assert number_text(value) == text


@settings(derandomize=True, deadline=None, database=None)
@given(
    st.one_of(
        st.floats(allow_nan=False, allow_infinity=False),
        st.integers(-(2**53), 2**53),
    )
)
@example(0.1 + 0.2)
@example(5e-324)
@example(1.7976931348623157e308)
@example(1e15)
@example(1e22)
@example(-0.0)
def test_number_text_reads_back(value):
  """Python reads the text as the same number, without rounding."""
  assert ast.literal_eval(number_text(value)) == value


@pytest.mark.parametrize("value", [2**53 + 1, 10**18 + 1])
def test_number_text_of_long_integers_reads_back(value):
  """Also integers that no float can hold."""
  assert ast.literal_eval(number_text(value)) == value


def test_a_term_without_arguments_is_its_name():
  assert str(Leaf()) == "Leaf"


@pytest.mark.parametrize("term, text", [
    (Node(1, 2.0), "Node(1, 2)"),
    (Node(1, 2, 0.5), "Node(1, 2)"),
    (Node(1, 2, 0.5, 2), "Node(1, 2)"),
    (Node(1, 2, 0.25), "Node(1, 2, 0.25)"),
    (Node(1, 2, 0.25, 2), "Node(1, 2, 0.25)"),
    # After an argument that equals its default, others have names.
    (Node(1, 2, 0.5, 3), "Node(1, 2, fourth=3)"),
    (Node(0.5, 2), "Node(0.5, 2)"),
    (Node(Leaf(), Node(Leaf(), -1)), "Node(Leaf, Node(Leaf, -1))"),
])
def test_a_term_prints_its_constructor_call(term, text):
  """Fields in order; trailing defaults and empty parentheses are left out."""
  assert str(term) == text


def test_terms_are_compared_and_hashed_by_value():
  """Static arguments of jit must be: equal terms share a compilation."""
  first, second = Node(Leaf(), 1), Node(Leaf(), 1.0)
  assert first == second
  assert hash(first) == hash(second)
  assert first != Node(Leaf(), 2)


def test_check_accepts_by_default():
  Node(1, 2).check()
