"""Draws what each goal makes of a two-dimensional input box.

  python docs/draw_objectives.py

writes docs/images/objectives: a picture for each goal, in the manner of the
paper's figure 4, and one of the schedules. Goals, attacks and elements are the
package's own; only the small network that is attacked is made up here.
"""

import io
import pathlib

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
from matplotlib import patches, pyplot
import numpy as np
from PIL import Image

from diffai_jax import domains, losses, transformers
from diffai_jax.domains import HybridZonotope, generators, parts
from diffai_jax.goals import Context, REGIONS
from diffai_jax.goals.walked import linear_bounds
from diffai_jax.graph import Followed
from diffai_jax.objectives import parse, parse_value
from diffai_jax.types import Mode

FOLDER = pathlib.Path(__file__).parent / "images" / "objectives"
LOWER, UPPER = np.array([0.2, 0.2]), np.array([0.8, 0.8])
ORANGE, BLUE, GREY = "#d95f02", "#1b4f9c", "0.35"

# File: number of draws, a note for below, one text or four.
INPUTS = {
    "Point": (1, "", "Point"),
    "Normal": (30, "30 draws", "Normal"),
    "Uniform": (30, "30 draws", "Uniform"),
    "FGSM": (1, "1 step of the radius", "FGSM"),
    "IFGSM": (1, "4 steps of radius/4", "IFGSM(4)"),
    "PGD": (5, "5 draws, 10 steps each", "PGD(10, 0.2)"),
    "MIFGSM": (1, "10 steps", "MIFGSM(10, 0.2)"),
    "Box": (1, "", "Box"),
    "Sub": (1, "", "Sub(0.5, Box)"),
    "NormalSub": (5, "5 draws", "NormalSub(0.5, Box)"),
    "Sample": (
        5, "5 draws", "Sample(0.2, Normal, Box)", "Sample(0.35, Normal, Box)",
        "Sample(0.35, Uniform, Box)", "Sample(0.35, 0.5, Normal, Box)",
    ),
    "SmallBox": (5, "5 draws", "SmallBox(0.35, Uniform, Box)"),
    "BiSample": (1, "○ found by PGD", "BiSample(PGD(10, 0.2), Box)"),
    "AdvDom": (1, "○ found by PGD", "AdvDom(PGD(10, 0.2), Box)"),
    "Original": (1, "", "AdvDom(PGD, Mix(Original, Box, 0.5))"),
    "Attacked": (1, "", "AdvDom(PGD, Mix(Attacked, Box, 0.5))"),
    "Mix": (1, "½·loss(●) + ½·loss(■)", "Mix(Point, Sub(0.6, Box), 0.5)"),
    "MixMargins": (1, "loss of ½·margins(●) + ½·margins(■)",
                   "MixMargins(IFGSM(4), Box, 0.5)"),
    "MixLogs": (1, "square root of loss(●)·loss(■)",
                "MixLogs(IFGSM(4), Box, 0.5)"),
    "Weighted": (1, "(loss(●) + loss(▪) + 0.2·loss(■)) / 2.2",
                 "Weighted((Point, 1),\n(Sub(0.4, Box), 1), (Box, 0.2))"),
    "Coin": (1, "● or ■, drawn for each batch",
             "Coin((Point, 1), (Sub(0.6, Box), 1))"),
}
# File: the text of a goal that is drawn behind a ReLU.
DOMAINS = {name: name for name in REGIONS} | {
    "CROWN_IBP": "CROWN_IBP", "Shrunk": "Shrunk(0.5, Box)", "TAPS": "TAPS",
}
# Attacks: the text of their first k steps, and how many there are.
STEPS = {
    "FGSM": ("MIFGSM({}, 1, 0)", 1),
    "IFGSM(4)": ("MIFGSM({}, 0.25, 0)", 4),
    "PGD(10, 0.2)": ("PGD({}, 0.2)", 10),
    "MIFGSM(10, 0.2)": ("MIFGSM({}, 0.2)", 10),
}
SCHEDULES = (
    "Lin(0, 1, 100, 20)", "Smooth(0, 1, 100, 20)", "0.5 * Lin(0, 1, 100, 20)",
    "Complement(Lin(0, 1, 100, 20))", "Scale(Lin(0, 0.5, 100, 20))",
    "Clip(Lin(0, 1, 100, 20), 0.2, 0.7)", "Until(80, 0.25, Lin(1, 0, 60))",
    "cosine(1, 200)", "Staircase(Lin(0, 1, 8))",
)


def network(points, mode: Mode = Mode.CONCRETE):
  """Logits [B, 3] of points of the plane; the label, 0, loses on two hills."""
  del mode

  def hill(x: float, y: float, width: float, height: float):
    distance = jnp.square(points - jnp.array([x, y])).sum(axis=1)
    return height * jnp.exp(-distance / (2 * width**2))

  first = hill(0.7, 0.58, 0.14, 3.2) + hill(0.55, 0.85, 0.12, 1.4)
  second = hill(0.27, 0.32, 0.13, 2.8)
  return jnp.stack([jnp.zeros_like(first), first, second], axis=1)


def abstract(text: str, draws: int):
  """What a goal makes of copies of the box, each with a key of its own."""
  low, high = (jnp.broadcast_to(end, (draws, 2)) for end in (LOWER, UPPER))
  context = Context(
      network, jnp.zeros(draws, int), jnp.asarray(0.0),
      jax.random.split(jax.random.key(5), draws), jax.random.key(0),
  )
  return parts(parse(text.replace("\n", " ")).abstract(low, high, context))


def draw_contours(axis) -> None:
  grid = np.linspace(0, 1, 90)
  points = jnp.asarray(np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2))
  labels = jnp.zeros(len(points), int)
  loss = losses.cross_entropy(losses.margins(network(points), labels))
  axis.contour(grid, grid, np.asarray(loss).reshape(90, 90), levels=8,
               colors="0.86", linewidths=0.9, zorder=0)


def draw_box(axis, low, high, alone: bool) -> None:
  place = tuple(np.asarray(low)), *np.asarray(high - low)
  shade = 0.25 if alone else 0.1
  axis.add_patch(patches.Rectangle(*place, facecolor=ORANGE, alpha=shade))
  axis.add_patch(patches.Rectangle(*place, fill=False, ec=ORANGE, lw=1.6))


def draw_paths(axis, text: str, draws: int) -> None:
  """The points after 0, 1, … steps of an attack, joined."""
  template, steps = STEPS[text]
  texts = [template.format(k) for k in range(steps + 1)]
  path = np.stack([abstract(first, draws)[0] for first in texts])
  np.testing.assert_allclose(path[-1], abstract(text, draws)[0], atol=1e-5)
  for way in path.swapaxes(0, 1):
    axis.plot(*way.T, "-", color=BLUE, linewidth=1)
    axis.plot(*way[1:].T, ".", color=BLUE, markersize=4)
    draw_start(axis, way[0])


def draw_start(axis, point) -> None:
  axis.plot(*point, "o", markerfacecolor="white", markersize=5.5,
            markeredgecolor=BLUE)


def draw_input(axis, text: str, draws: int, note: str) -> None:
  if "FGSM" in text or "PGD" in text:
    draw_contours(axis)
  size = UPPER - LOWER
  axis.add_patch(patches.Rectangle(LOWER, *size, fill=False, ec=GREY, lw=1.4))
  found = abstract(text, draws)
  for part in found:
    if isinstance(part, HybridZonotope):
      for low, high in zip(domains.lower(part), domains.upper(part)):
        draw_box(axis, low, high, draws == 1)
  axis.plot(*(LOWER + UPPER) / 2, "+", color=GREY, markersize=8)
  if text in STEPS:
    draw_paths(axis, text, draws)
  if "○" in note:
    draw_start(axis, abstract(text.replace(" Box", " Attacked"), 1)[0][0])
  for part in found:
    if not isinstance(part, HybridZonotope):
      axis.plot(*np.asarray(part).T, "o", color=BLUE, markersize=6,
                markeredgecolor="white", markeredgewidth=0.8)
  axis.set(xlim=(0.05, 0.95), ylim=(0.05, 0.95))
  finish(axis, text, note)


def finish(axis, text: str, note: str) -> None:
  axis.set(xticks=[], yticks=[], aspect="equal")
  axis.spines[:].set_color("0.8")
  axis.set_title(text, fontsize=9 if len(text) < 36 else 8, pad=5)
  axis.set_xlabel(note, fontsize=8.5, labelpad=4)


def layer(value):
  """A rotation, a ReLU that cuts one side off, and the rotation back."""
  turn = jnp.array([[0.8, 0.6], [-0.6, 0.8]])
  value = transformers.dense(value, turn, jnp.array([0.5, -0.58]))
  value = transformers.relu(value, symbol="relu")
  return transformers.dense(value, turn.T, jnp.zeros(2))


def outline(element: HybridZonotope) -> np.ndarray:
  """The corners of a two-dimensional element, in their order, [N, 2]."""
  arrows = [generators.to_dense(block).coefficients[0]
            for block in element.correlated.values()]
  if element.uncorrelated is not None:
    arrows.append(np.diag(element.uncorrelated[0]))
  arrows = np.concatenate(arrows)
  arrows = arrows[np.abs(arrows).sum(axis=1) > 1e-5]
  # All to the right, by their angle: the lower half of the border.
  arrows = np.where(arrows[:, :1] < 0, -arrows, arrows)
  arrows = arrows[np.argsort(np.arctan2(arrows[:, 1], arrows[:, 0]))]
  start = np.asarray(element.center[0]) - arrows.sum(axis=0)
  forth = start + np.cumsum(2 * arrows, axis=0)
  return np.concatenate([forth, forth[-1] - np.cumsum(2 * arrows, axis=0)])


def outline_of_lines(output: Followed) -> np.ndarray:
  """Where the upper bounds of 360 directions meet, [N, 2]."""
  angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
  ways = np.stack([np.cos(angles), np.sin(angles)], axis=1)
  ends = linear_bounds(output, jnp.asarray(ways)[None], jnp.zeros((1, 360)))
  ends = np.asarray(ends[0], float)
  corners = np.linalg.solve(
      np.stack([ways, np.roll(ways, -1, 0)], axis=1),
      np.stack([ends, np.roll(ends, -1)], axis=1)[..., None],
  )[..., 0]
  # Bounds that others exclude meet outside.
  inside = (corners @ ways.T <= ends + 1e-3).all(axis=1)
  return corners[inside]


def draw_domain(axis, name: str) -> None:
  low, high = jnp.asarray(LOWER)[None], jnp.asarray(UPPER)[None]
  context = Context(network, jnp.zeros(1, int), jnp.asarray(0.0))
  ours, box = (
      outline_of_lines(found) if isinstance(found, Followed)
      else outline(found)
      for found in (
          layer(parse(text).abstract(low, high, context))
          for text in (name, "Box")
      )
  )
  axis.add_patch(patches.Polygon(ours, facecolor="#f6d7bf"))
  # The image of a fine mesh of the box.
  mesh = np.stack(np.meshgrid(*np.linspace(LOWER, UPPER, 80).T), axis=-1)
  image = np.asarray(layer(jnp.asarray(mesh.reshape(-1, 2))))
  image = image.reshape(80, 80, 2)
  axis.pcolormesh(image[..., 0], image[..., 1], np.zeros((79, 79)),
                  cmap="binary", vmin=-1, vmax=2.3, edgecolors="face")
  axis.add_patch(patches.Polygon(ours, fill=False, ec=ORANGE, lw=1.8))
  axis.add_patch(patches.Polygon(box, fill=False, ec=GREY, ls="--", lw=1.2))
  axis.set(xlim=(-0.02, 1.28), ylim=(-0.78, 0.52))
  finish(axis, name, "rotated, ReLU, rotated back; dashed: Box")


def classifier(value):
  """Three logits of what comes out of a hidden layer; the label is 0."""
  rng = np.random.default_rng(11)
  first, last = rng.normal(size=(2, 12)) * 4, rng.normal(size=(12, 3))
  bias = rng.uniform(-3, 1, 12)
  value = transformers.relu(transformers.dense(value, first, bias))
  return transformers.dense(value, last, np.zeros(3))


def draw_latent(axis, text: str) -> None:
  """The box behind a ReLU, what is in it, and where classes 1 and 2 win most."""
  draws, goal = 6, parse(text)
  low, high = (jnp.broadcast_to(end, (draws, 2)) for end in (LOWER, UPPER))
  labels = jnp.zeros(draws, int)
  context = Context(
      network, labels, jnp.asarray(0.0),
      jax.random.split(jax.random.key(5), draws),
  )

  def hidden(value):
    turn = jnp.array([[0.8, 0.6], [-0.6, 0.8]])
    value = transformers.dense(value, turn, jnp.array([0.3, -0.6]))
    return transformers.relu(value)

  output = classifier(hidden(goal.abstract(low, high, context)))
  _, begin, end = goal.cut(output)
  mesh = np.stack(np.meshgrid(*np.linspace(LOWER, UPPER, 80).T), axis=-1)
  image = np.asarray(hidden(jnp.asarray(mesh.reshape(-1, 2))))
  image = image.reshape(80, 80, 2)
  axis.pcolormesh(image[..., 0], image[..., 1], np.zeros((79, 79)),
                  cmap="binary", vmin=-1, vmax=2.3, edgecolors="face", alpha=0.4)
  grid = np.linspace(-0.1, 0.9, 90)
  points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
  logits = np.asarray(classifier(jnp.asarray(points)))
  found = np.asarray(goal.points(output, labels, context))
  for number, color in enumerate((BLUE, "#1b7f4c")):
    margin = (logits[:, number + 1] - logits[:, 0]).reshape(90, 90)
    axis.contour(grid, grid, margin, levels=7, colors=color, linewidths=0.5,
                 alpha=0.5)
    axis.plot(*found[:, number].T, "o", color=color, markersize=6,
              markeredgecolor="white", markeredgewidth=0.8)
  draw_box(axis, begin[0], end[0], False)
  axis.set(xlim=(-0.1, 0.9), ylim=(-0.1, 0.9))
  finish(axis, text, "behind a ReLU; 6 draws for each class")


def draw_schedules() -> None:
  figure, axes = pyplot.subplots(3, 3, figsize=(8.4, 5.4), sharey=True)
  for axis, text in zip(axes.flat, SCHEDULES, strict=True):
    last = 10 if "Staircase" in text else 200
    times = np.linspace(0, last, 801)
    axis.plot(times, jax.vmap(parse_value(text))(times), color=BLUE)
    axis.set_title(text, fontsize=9)
    axis.set(xlim=(0, last), ylim=(-0.05, 1.05), yticks=[0, 0.5, 1],
             xticks=np.linspace(0, last, 6 if last == 10 else 5))
    axis.tick_params(labelsize=7)
    axis.grid(color="0.9")
  for axis in axes[-1]:
    axis.set_xlabel("epoch", fontsize=8)
  figure.tight_layout(pad=0.6)
  save(figure, "schedules")


def save(figure, name: str) -> None:
  FOLDER.mkdir(parents=True, exist_ok=True)
  drawn = io.BytesIO()
  figure.savefig(drawn, dpi=100)
  pyplot.close(figure)
  # A palette makes the files a third as large.
  Image.open(drawn).convert("RGB").quantize(96).save(
      FOLDER / f"{name}.png", optimize=True
  )


def main() -> None:
  for name in INPUTS | DOMAINS:
    draws, note, *texts = INPUTS.get(name, (1, "", DOMAINS.get(name)))
    side = 2 if len(texts) == 4 else 1
    figure, axes = pyplot.subplots(side, side, figsize=(3.2 * side,) * 2)
    figure.subplots_adjust(0.02, 0.09 / side, 0.98, 1 - 0.12 / side, 0.05, 0.24)
    for axis, text in zip(np.ravel(axes), texts, strict=True):
      if name in INPUTS:
        draw_input(axis, text, draws, note)
      elif name == "TAPS":
        draw_latent(axis, text)
      else:
        draw_domain(axis, text)
    save(figure, name)
  draw_schedules()


if __name__ == "__main__":
  main()
