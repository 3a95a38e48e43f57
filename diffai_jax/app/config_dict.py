"""Configs as ml_collections has them; where it is missing, as `plain_config`.

All of the package, and of `configs/`, takes them from here.
"""

try:
  from ml_collections.config_dict import (
      ConfigDict,
      FieldReference,
      FrozenConfigDict,
      RequiredValueError,
      placeholder,
  )
except ImportError:
  from diffai_jax.app.plain_config import (
      ConfigDict,
      FieldReference,
      FrozenConfigDict,
      RequiredValueError,
      placeholder,
  )
