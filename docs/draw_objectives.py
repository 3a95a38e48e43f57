"""Draws what each goal makes of a two-dimensional input box.

  python docs/draw_objectives.py

writes a picture for each name of the objective language to
docs/images/objectives, in the manner of the paper's figure 4. The goals are the
package's own, and so are their texts.
"""

import pathlib

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
from matplotlib import patches, pyplot
import numpy as np

from diffai_jax import domains, losses, transformers
from diffai_jax.domains import generators, parts
from diffai_jax.goals import Context, parse, parse_value
from diffai_jax.types import Mode

FOLDER = pathlib.Path(__file__).parent / "images" / "objectives"
LOWER, UPPER = np.array([0.2, 0.25]), np.array([0.8, 0.75])
DRAWS = 12
BOX, POINT, SECOND = "#d95f02", "#1b4f9c", "#1b7837"

# (file, texts side by side): points and boxes in the input space.
INPUTS = {
    "Point": ["Point"],
    "Normal": ["Normal"],
    "Uniform": ["Uniform"],
    "FGSM": ["FGSM"],
    "IFGSM": ["IFGSM(4)"],
    "PGD": ["PGD(10, 0.2)"],
    "MIFGSM": ["MIFGSM(10, 0.2)"],
    "Box": ["Box"],
    "Sub": ["Sub(0.5, Box)"],
    "NormalSub": ["NormalSub(0.5, Box)"],
    "Sample": ["Sample(0.2, 0.5, Normal, Box)",
               "Sample(0.35, 1, Uniform, Box)"],
    "BiSample": ["BiSample(Sub(0.7, IFGSM(3)), Box)"],
    "AdvDom": ["AdvDom(IFGSM(3), Box)"],
    "Original": ["AdvDom(IFGSM(3), Original)"],
    "Attacked": ["AdvDom(IFGSM(3), Attacked)"],
    "Mix": ["Mix(Point, Sub(0.6, Box), 0.5)"],
    "MixMargins": ["MixMargins(PGD(1, 10), Box, 0.5)"],
    "MixLogs": ["MixLogs(PGD(1, 10), Box, 0.5)"],
    "Weighted": ["Weighted((Point, 1), (Sub(0.4, Box), 1), (Box, 0.2))"],
    "Coin": ["Coin((Point, 1), (Sub(0.6, Box), 1))"],
}
# Domains, by what they make of the box in a small network.
DOMAINS = ("HBox", "HSwitch", "HSmooth", "HDeepZ", "ZBox", "ZSwitch",
           "ZSmooth", "ZDeepZ")
SCHEDULES = (
    "Lin(0, 1, 100, 20)", "Smooth(0, 1, 100, 20)",
    "Until(80, 0.25, Lin(1, 0, 60))", "Complement(Lin(0, 1, 100, 20))",
    "Scale(Lin(0, 0.5, 100, 20))", "Clip(Lin(0, 1, 100, 20), 0.2, 0.7)",
    "Staircase(Lin(0, 1, 5))", "1 - 0.5 * Lin(0, 1, 100)", "cosine(1, 200)",
)


def network(value, mode=Mode.CONCRETE):
  """Three classes on the plane; the label is 0."""
  del mode
  weights = jnp.array([[3.0, -2.0, 1.0, -3.0], [1.5, 3.0, -2.5, -1.0]])
  value = transformers.dense(value, weights, jnp.array([-1.8, 0, 1.0, 1.5]))
  value = transformers.relu(value, symbol="relu")
  heads = jnp.array([
      [0.2, 1.0, -0.6], [0.5, -1.2, 1.0], [1.1, 0.2, -0.5], [0.3, -0.4, 0.9]
  ])
  return transformers.dense(value, heads, jnp.array([0.3, -0.4, 0.0]))


def context(seed: int = 3) -> Context:
  keys = jax.random.split(jax.random.key(seed), DRAWS)
  return Context(
      network, jnp.zeros(DRAWS, int), jnp.asarray(0.0), keys,
      batch_key=jax.random.key(seed),
  )


def abstract(text: str):
  """What a goal makes of DRAWS copies of the box, each with its own key."""
  low, high = (jnp.broadcast_to(x, (DRAWS, 2)) for x in (LOWER, UPPER))
  return parts(parse(f"{text}").abstract(low, high, context()))


def axes_of(count: int):
  figure, axes = pyplot.subplots(
      1, count, figsize=(3.2 * count, 3.2), squeeze=False
  )
  return figure, axes[0]


def draw_input(axis, text: str) -> None:
  grid = np.linspace(0, 1, 120)
  points = jnp.asarray(np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2))
  logits = network(points)
  loss = losses.cross_entropy(losses.margins(logits, jnp.zeros(len(points), int)))
  axis.contour(grid, grid, np.asarray(loss).reshape(120, 120), levels=9,
               colors="0.85", linewidths=0.8)
  size = UPPER - LOWER
  axis.add_patch(patches.Rectangle(LOWER, *size, fill=False, color="0.3"))
  axis.plot(*(LOWER + UPPER) / 2, "+", color="0.3", markersize=7)
  # Boxes, the largest first, then points on top.
  found = sorted(abstract(text), key=lambda p: not hasattr(p, "center"))
  for part in found:
    if hasattr(part, "center"):
      low, high = domains.lower(part), domains.upper(part)
      drawn = np.unique(np.round(np.concatenate([low, high], axis=1), 6), axis=0)
      for row in drawn:
        axis.add_patch(patches.Rectangle(
            row[:2], *(row[2:] - row[:2]), facecolor=BOX, edgecolor=BOX,
            alpha=0.9 if len(drawn) < 3 else 0.5, linewidth=1.2, fill=False,
        ))
        axis.add_patch(patches.Rectangle(
            row[:2], *(row[2:] - row[:2]), facecolor=BOX, edgecolor="none",
            alpha=0.25 if len(drawn) < 3 else 0.08,
        ))
    else:
      axis.plot(*np.asarray(part).T, "o", color=POINT, markersize=4.5,
                markeredgecolor="white", markeredgewidth=0.6)
  axis.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], aspect="equal")
  axis.set_title(text, fontsize=8 if len(text) < 36 else 6.2)


def layer(value):
  """A rotation with a shift, a ReLU that cuts one side off, a rotation back."""
  turn = jnp.array([[0.8, 0.6], [-0.6, 0.8]])
  value = transformers.dense(value, turn, jnp.array([-0.02, -0.1]))
  value = transformers.relu(value, symbol="relu")
  return transformers.dense(value, turn.T, jnp.zeros(2))


def outline(element) -> np.ndarray:
  """The corners of a two-dimensional element."""
  arrows = [generators.to_dense(b).coefficients[0]
            for b in element.correlated.values()]
  if element.uncorrelated is not None:
    arrows.append(np.diag(element.uncorrelated[0]))
  arrows = np.concatenate([np.asarray(a) for a in arrows])
  arrows = arrows[np.abs(arrows).sum(axis=1) > 1e-6]
  arrows = np.where(
      (arrows[:, :1] < 0) | ((arrows[:, :1] == 0) & (arrows[:, 1:] < 0)),
      -arrows, arrows,
  )
  arrows = arrows[np.argsort(np.arctan2(arrows[:, 1], arrows[:, 0]))]
  start = np.asarray(element.center[0]) - arrows.sum(axis=0)
  forward = start + np.cumsum(2 * arrows, axis=0)
  back = forward[-1] - np.cumsum(2 * arrows, axis=0)
  return np.concatenate([[start], forward, back])


def draw_domain(axis, name: str) -> None:
  low, high = jnp.asarray(LOWER)[None], jnp.asarray(UPPER)[None]
  rng = np.random.default_rng(0)
  points = rng.uniform(LOWER, UPPER, (4000, 2))
  axis.plot(*np.asarray(layer(jnp.asarray(points))).T, ",", color="0.55")
  one = context()
  box = layer(parse("Box").abstract(low, high, one))
  axis.add_patch(patches.Polygon(outline(box), fill=False, color="0.3",
                                 linestyle="--", label="Box"))
  found = layer(parse(name).abstract(low, high, one))
  axis.add_patch(patches.Polygon(outline(found), facecolor=BOX, alpha=0.3))
  axis.add_patch(patches.Polygon(outline(found), fill=False, color=BOX,
                                 label=name, linewidth=1.4))
  axis.set(xlim=(-0.1, 1.15), ylim=(-0.2, 1.05), xticks=[], yticks=[],
           aspect="equal")
  axis.legend(fontsize=7, loc="upper left", frameon=False)
  axis.set_title(f"{name} after a rotated ReLU", fontsize=8)


def draw_schedules() -> None:
  figure, axes = pyplot.subplots(3, 3, figsize=(8.4, 5.4))
  times = np.linspace(0, 200, 801)
  for axis, text in zip(axes.flat, SCHEDULES, strict=True):
    shown = times / 25 if "Staircase" in text else times
    axis.plot(shown, jax.vmap(parse_value(text))(shown), color=POINT)
    axis.set_title(text, fontsize=8)
    axis.set_ylim(-0.05, 1.1)
    axis.tick_params(labelsize=7)
  for axis in axes[-1]:
    axis.set_xlabel("epoch", fontsize=7)
  save(figure, "schedules")


def save(figure, name: str) -> None:
  FOLDER.mkdir(parents=True, exist_ok=True)
  figure.tight_layout()
  figure.savefig(FOLDER / f"{name}.png", dpi=80)
  pyplot.close(figure)


def main() -> None:
  for name, texts in INPUTS.items():
    figure, axes = axes_of(len(texts))
    for axis, text in zip(axes, texts):
      draw_input(axis, text)
    save(figure, name)
  for name in DOMAINS:
    figure, axes = axes_of(1)
    draw_domain(axes[0], name)
    save(figure, name)
  draw_schedules()


if __name__ == "__main__":
  main()
