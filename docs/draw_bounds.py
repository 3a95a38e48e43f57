"""Draws what bounds walked backwards are made of, and what methods give.

  python docs/draw_bounds.py

writes docs/images/bounds: the lines of activation functions over an interval, with
the tangents that they are chosen among, and the bounds of one neuron by every
method. Lines and bounds are the package's own; only the small network is made up.
"""

import io
import pathlib

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
import numpy as np
from PIL import Image

import diffai_jax as dj
from diffai_jax.transformers import lines as table

FOLDER = pathlib.Path(__file__).parent / "images" / "bounds"
ORANGE, BLUE, GREY = "#d95f02", "#1b4f9c", "0.35"

# Title: transformer, its arrays and options, the function, the interval.
FUNCTIONS = {
    "ReLU": ("relu", {}, {}, jax.nn.relu, (-1.0, 1.6)),
    "leaky ReLU": (
        "leaky_relu", {}, {"negative_slope": 0.2},
        lambda x: jax.nn.leaky_relu(x, 0.2), (-1.6, 1.2),
    ),
    "absolute": ("absolute", {}, {}, jnp.abs, (-1.0, 1.6)),
    "clip to [0, 1]": (
        "clip", {"low": jnp.zeros(()), "high": jnp.ones(())}, {},
        lambda x: jnp.clip(x, 0, 1), (-0.8, 1.5),
    ),
    "sigmoid": ("sigmoid", {}, {}, jax.nn.sigmoid, (-4.0, 2.5)),
    "tanh": ("tanh", {}, {}, jnp.tanh, (-0.6, 2.4)),
    "GELU": ("gelu", {}, {}, lambda x: jax.nn.gelu(x, False), (-2.4, 1.0)),
    "ELU": ("elu", {}, {}, jax.nn.elu, (-2.0, 1.2)),
    "softplus": ("softplus", {}, {}, jax.nn.softplus, (-2.0, 2.0)),
    "exp": ("exp", {}, {}, jnp.exp, (-1.5, 1.0)),
    "reciprocal": ("reciprocal", {}, {}, lambda x: 1 / x, (0.4, 2.0)),
    "square": ("square", {}, {}, jnp.square, (-0.7, 1.3)),
}
METHODS = (
    "Box", "HBox", "ZBox", "ZDeepZ", "CROWN_IBP", "CROWN", "CROWN(ZDeepZ)",
    "AlphaCROWN(20)",
)


def draw_function(axis, title: str) -> None:
  """A function, its lines on an interval, and other slopes that are as sound."""
  name, arrays, options, function, (low, high) = FUNCTIONS[title]
  ends = jnp.asarray(low), jnp.asarray(high)
  slopes = table.slopes(name, arrays, options, *ends)
  on = np.linspace(low, high, 200)
  values = np.asarray(function(jnp.asarray(on)))
  axis.axvspan(low, high, color="0.95", zorder=0)

  def drawn(lower, upper, **style):
    found = table.lines(name, arrays, options, *ends, lower, upper)
    below = found.lower_slope * on + found.lower_offset
    above = found.upper_slope * on + found.upper_offset
    assert np.all(below <= values) and np.all(values <= above), title
    axis.plot(on, below, **style)
    axis.plot(on, above, **style)

  for share in (0.0, 0.25, 0.5, 0.75, 1.0):
    slope = slopes.least + share * (slopes.most - slopes.least)
    upper = slope if table.has_free_upper_slope(name) else slopes.upper
    drawn(slope, upper, color="0.75", linewidth=0.7, zorder=1)
  drawn(slopes.lower, slopes.upper, color=ORANGE, linewidth=1.6, zorder=3)
  room = 0.25 * (high - low)
  far = np.linspace(max(low - room, 0.2) if name == "reciprocal" else low - room,
                    high + room, 300)
  axis.plot(far, np.asarray(function(jnp.asarray(far))), color=BLUE,
            linewidth=1.8, zorder=2)
  margin = 0.35 * np.ptp(values)
  axis.set(xlim=(far[0], far[-1]),
           ylim=(values.min() - margin, values.max() + margin))
  axis.set_title(title, fontsize=9, pad=4)
  axis.set_xticks((low, high), (f"{low:g}", f"{high:g}"), fontsize=7)
  axis.tick_params(axis="y", labelsize=7)
  axis.spines[:].set_color("0.8")


def network_and_variables():
  """Two inputs, two hidden layers, and one neuron to look at."""
  network = dj.nn.Sequential([
      dj.nn.Linear(8), dj.nn.ReLU(), dj.nn.Linear(8), dj.nn.ReLU(),
      dj.nn.Linear(1),
  ])
  random = np.random.default_rng(3)
  shapes = jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 2)))
  return network, jax.tree.map(
      lambda leaf: random.normal(size=leaf.shape).astype("float32")
      / (3 - leaf.ndim), shapes
  )


def draw_neuron(values, bars) -> None:
  """The neuron's values over the region, and what each method bounds them by."""
  run = network_and_variables()
  center, epsilon = np.full((1, 2), 0.5, np.float32), 0.5
  mesh = np.linspace(0, 1, 201, dtype=np.float32)
  points = np.stack(np.meshgrid(mesh, mesh), -1).reshape(-1, 2)
  found = np.asarray(run[0].apply(run[1], points))[:, 0]
  drawing = values.contourf(mesh, mesh, found.reshape(201, 201), 14, cmap="Blues")
  values.figure.colorbar(drawing, ax=values).ax.tick_params(labelsize=7)
  values.set(aspect="equal")
  values.set_xlabel("first input", fontsize=8)
  values.set_ylabel("second input", fontsize=8)
  values.set_title("a neuron over the region", fontsize=9)
  exact = found.min(), found.max()
  bars.axvspan(*exact, color="#c6dbef", zorder=0)
  for place, method in enumerate(METHODS):
    lower, upper = dj.bounds(
        run, center, dj.Linf(epsilon), at="layers_4", method=method
    )
    assert lower[0, 0] <= exact[0] and exact[1] <= upper[0, 0], method
    bars.plot((lower[0, 0], upper[0, 0]), (place, place), color=ORANGE,
              linewidth=4, solid_capstyle="butt")
    bars.text(upper[0, 0] + 0.1, place, f"{upper[0, 0] - lower[0, 0]:.2f}",
              fontsize=7, va="center", color=GREY)
  bars.set_yticks(range(len(METHODS)), METHODS, fontsize=8)
  bars.invert_yaxis()
  bars.margins(x=0.08)
  bars.set_xlabel(f"its bounds and their width; shaded, from {exact[0]:.2f} to"
                  f" {exact[1]:.2f}, its values", fontsize=8)
  bars.set_title("by method", fontsize=9)
  for axis in (values, bars):
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[:].set_color("0.8")
  values.tick_params(axis="y", labelsize=7)


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
  figure, axes = pyplot.subplots(3, 4, figsize=(9.6, 6.6))
  for axis, title in zip(axes.flat, FUNCTIONS, strict=True):
    draw_function(axis, title)
  figure.tight_layout(pad=0.7)
  save(figure, "lines")
  figure, axes = pyplot.subplots(
      1, 2, figsize=(9.6, 3.4), width_ratios=(1, 1.7)
  )
  draw_neuron(*axes)
  figure.tight_layout(pad=0.7)
  save(figure, "neuron")


if __name__ == "__main__":
  main()
