"""Files of earlier versions in today's words."""

from diffai_jax.storage.older_forms import renewed


def test_old_keys_have_their_new_names_in_their_places():
  old = {"seed": 1, "certify": {"domains": ["Box"], "split": "test"}}
  new = renewed(old)
  assert new == {"seed": 1, "certify": {"methods": ["Box"], "split": "test"}}
  assert list(new["certify"]) == ["methods", "split"]
  assert old["certify"]["domains"] == ["Box"]
  assert renewed({"domains": ["HBox"]}) == {"methods": ["HBox"]}


def test_what_is_new_already_stays():
  for value in (
      {}, {"certify": 3}, {"certify": None},
      {"methods": ["Box"], "certify": {"methods": ["Box"]}},
  ):
    assert renewed(value) == value
  both = {"domains": ["Box"], "methods": ["HBox"]}
  assert renewed(both) == {"methods": ["HBox"]}
