"""What tests of the application share."""

import pytest

from diffai_jax.app import report


@pytest.fixture(autouse=True, scope="module")
def pictures():
  """Pages say what a picture shows and draw none.

  Drawing takes a second a page, most of what a small run takes. Modules that
  look at pictures have a fixture of this name that does nothing.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
        report, "_image", lambda figure, description: f"<p>{description}</p>"
    )
    yield
