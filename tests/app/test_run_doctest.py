"""The examples in the docstrings of what Python trains, loads and draws with."""

import doctest

import pytest

from diffai_jax.app import fit, plot, run


@pytest.mark.parametrize("function", [
    fit.train, run.load, plot.curves, plot.margins, plot.certified,
    plot.zonotope, plot.outline,
], ids=lambda function: function.__name__)
def test_examples_are_so(function):
  (found,) = doctest.DocTestFinder(recurse=False).find(
      function, globs={}
  )
  assert found.examples
  told = []
  doctest.DocTestRunner().run(found, out=told.append)
  assert not told, "".join(told)
