"""Files of images, read with pillow: all of one size and one kind of pixels."""

from collections.abc import Sequence
import concurrent.futures
import os
import struct
import typing

import numpy as np

from diffai_jax.types import UsageError, on_one_line, shortened, shown

ENDINGS = (
    ".bmp", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff",
    ".webp",
)
# How each of pillow's kinds of pixels is read, and its channels then.
_KINDS = {
    "1": ("L", 1), "L": ("L", 1), "LA": ("LA", 2), "P": ("RGB", 3),
    "RGB": ("RGB", 3), "RGBA": ("RGBA", 4), "CMYK": ("RGB", 3),
    "YCbCr": ("RGB", 3),
}
# What pillow raises of damaged files.
_DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError,
    struct.error, OverflowError, MemoryError,
)


class _Kind(typing.NamedTuple):
  """How a file is read: pillow's kind of pixels, and [H, W, C]."""

  mode: str
  shape: tuple[int, int, int]


def is_picture(name: str) -> bool:
  """Whether a file's name ends like that of an image."""
  return name.lower().endswith(ENDINGS)


def shape_of(path: str, mode: str | None = None) -> tuple[int, int, int]:
  """[H, W, C] of an image; its pixels are not read.

  Raises:
    UsageError: if it cannot be read.
  """
  with _opened(path) as image:
    return _kind(path, image, mode).shape


def read(
    paths: Sequence[str], shape: tuple[int, int, int], like: str,
    mode: str | None = None,
) -> np.ndarray:
  """All images of some files.

  Args:
    paths: at least one.
    shape: [H, W, C] that they must have.
    like: what has that shape, for messages.
    mode: pillow's kind of pixels that all are converted to; None keeps their
      own.

  Returns:
    uint8, [N, H, W, C], in the order of the paths.

  Raises:
    UsageError: names the first file that cannot be read or is another size.
  """
  images = np.empty((len(paths), *shape), np.uint8)

  def fill(number: int) -> None:
    images[number] = _read(paths[number], shape, like, mode)

  # Pillow decodes without Python's lock.
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    try:
      for _ in pool.map(fill, range(len(paths))):
        pass
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise
  return images


def _read(path: str, shape, like: str, mode: str | None) -> np.ndarray:
  """One image, [H, W, C]."""
  with _opened(path) as image:
    kind = _kind(path, image, mode)
    if kind.shape != tuple(shape):
      raise UsageError(
          f"{shown(path)} is an image {list(kind.shape)}, but {like} is"
          f" {list(shape)} (height, width, channels); expected images of one"
          f" size and number of channels; resize or convert them"
      )
    try:
      pixels = np.asarray(image.convert(kind.mode), np.uint8)
    except _DAMAGED as error:
      raise _unreadable(path, error) from None
  return pixels.reshape(shape)


def _opened(path: str):
  """The image of a file, of which only the header has been read."""
  try:
    import PIL.Image
  except ImportError:
    raise UsageError(
        "reading images takes pillow, which cannot be imported; pip install"
        " pillow"
    ) from None
  try:
    return PIL.Image.open(path)
  except (*_DAMAGED, PIL.Image.DecompressionBombError) as error:
    raise _unreadable(path, error) from None


def _kind(path: str, image, mode: str | None) -> _Kind:
  if mode is None and image.mode not in _KINDS:
    raise UsageError(
        f"{shown(path)} has pixels of kind {image.mode}; expected 8 bits a"
        f" channel, gray or colours; convert it, or give floats as npz:FILE"
    )
  mode, channels = _KINDS[mode or image.mode]
  return _Kind(mode, (image.height, image.width, channels))


def _unreadable(path: str, error: Exception) -> UsageError:
  import PIL

  why = on_one_line(getattr(error, "strerror", None) or str(error))
  if isinstance(error, PIL.UnidentifiedImageError):
    why = "it is no image that pillow knows"
  return UsageError(
      f"{shown(path)} cannot be read: {shortened(why or type(error).__name__)};"
      f" replace or remove it"
  )
