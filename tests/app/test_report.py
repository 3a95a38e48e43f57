"""report.html: one file that shows what a work folder holds."""

import base64
import html.parser
import io
import json

import numpy as np
from PIL import Image
import pytest

from diffai_jax.app import report, workfolder
from diffai_jax.verification import certification
from diffai_jax.app.config import base_config
from diffai_jax.training.metrics import MetricsWriter
from diffai_jax.types import UsageError

_LABELS = np.array([0, 1, 2, 3], np.int32)


@pytest.fixture(autouse=True, scope="module")
def pictures():
  """They are drawn here."""


class _Page(html.parser.HTMLParser):
  """What a browser would find: texts, images, whatever is loaded."""

  def __init__(self, text: str):
    super().__init__()
    self.headings, self.cells, self.images = [], [], []
    self.links, self.tags, self.texts = [], [], []
    self._open = []
    self.feed(text)
    self.close()
    assert not self._open, f"left open: {self._open}"

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    attrs = dict(attrs)
    if tag == "img":
      self.images.append(attrs)
    else:
      self.links += [v for k, v in attrs.items() if k in ("src", "href")]
    if tag == "td":
      self.cells.append("")
    if tag not in ("img", "meta"):
      self._open.append(tag)

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    if self._open and self._open[-1] in ("h1", "h2", "h3", "p"):
      (self.texts if self._open[-1] == "p" else self.headings).append(data)
    elif self._open and self._open[-1] == "td":
      self.cells[-1] += data


def _claim(workdir, **values):
  config = base_config("digits")
  config.network = "FFNN"
  config.update(values)
  workfolder.claim(str(workdir), config)


def _write_metrics(workdir):
  with MetricsWriter(str(workdir), 1) as writer:
    for step in (1, 2, 3):
      writer.write(step, {
          "epoch": step / 2, "loss": 1 / step, "accuracy": 0.5,
          "verified": 0.25, "epsilon": 0.05, "examples_per_second": 10.0,
      })


def _write_results(
    workdir, margins=(0.5, -0.25, np.nan, -np.inf), epsilon=0.05, failed=None
):
  margins = np.array(margins)
  domains = [d for d in ("Box", "HBox") if d not in (failed or {})]
  certification.save(
      certification.Certification(
          labels=_LABELS,
          predictions=np.array([0, 1, 2, 0], np.int32),
          attacked_correct=np.array([True, True, False, False]),
          verified={d: margins > 0 for d in domains},
          margins={d: margins for d in domains},
          asked={"Box": 4, "HBox": 2},
          seconds={"standard": 1.0, "attack": 2.0, "Box": 3.0, "HBox": 4.26},
          falsified=np.array([False, False, True, True]),
          wrong_points=np.zeros((2, 8, 8, 1), np.float32),
          failed=failed or {},
          broken={"MIFGSM": np.array([False, False, True, False])},
      ),
      str(workdir),
      {
          "network": "FFNN", "dataset": "digits", "epsilon": epsilon,
          "split": "test", "step": 1200, "methods": ["Box", "HBox"],
          "attack": {"steps": 20, "momentum": 0.8, "radius": 2.0},
          "skip_decided": True, "source": "checkpoints/1200",
          "arithmetic": "float32 on cpu",
      },
      {"layers_0": {"bias": np.zeros(2, np.float32)}},
  )


def _write(workdir) -> _Page:
  path = report.write(str(workdir))
  assert path == str(workdir / "report.html")
  return _Page((workdir / "report.html").read_text(encoding="utf-8"))


def test_the_page_holds_everything_itself(tmp_path):
  """Results, both plots as embedded pictures, the config; nothing is loaded."""
  _claim(tmp_path)
  _write_metrics(tmp_path)
  _write_results(tmp_path)
  page = _write(tmp_path)
  assert page.headings == [
      "FFNN on digits", "Certification",
      "epsilon 0.05, 4 examples of test, step 1,200, Box and HBox", "Training",
      "Config",
  ]
  assert not page.links
  assert not {"script", "link", "iframe", "object"} & set(page.tags)
  assert len(page.images) == 2
  for image in page.images:
    assert image["alt"]
    kind, data = image["src"].split(",", 1)
    assert kind == "data:image/png;base64"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert len(np.unique(picture)) > 2  # Not blank.


def test_the_page_shows_the_results(tmp_path):
  """Accuracies as shares and counts, seconds, and every key of the config."""
  _claim(tmp_path)
  _write_results(tmp_path)
  cells = _write(tmp_path).cells
  rows = [cells[i : i + 4] for i in range(0, 16, 4)]
  assert rows == [
      ["standard accuracy", "0.7500", "3 of 4", "1.0 s"],
      ["attacked accuracy", "0.5000", "2 of 4", "2.0 s"],
      ["verified accuracy, Box", "0.2500", "1 of 4", "3.0 s"],
      ["verified accuracy, HBox", "0.2500", "1 of 4", "4.3 s"],
  ]
  config = dict(zip(cells[16::2], cells[17::2]))
  assert config["epsilon"] == "0.05"
  assert config["optimizer.name"] == "adam"
  assert config["certify.attack.steps"] == "20"


def test_text_is_escaped(tmp_path):
  """What a user named cannot become markup."""
  nasty = '<script>alert("1")</script> & \u00e9'
  _claim(tmp_path, goal=nasty, network=nasty)
  page = _write(tmp_path)
  assert "script" not in page.tags
  assert f"{nasty} on digits" in page.headings
  assert nasty in page.cells


def test_braces_in_a_text_survive(tmp_path):
  """The page's template does not take a user's text for its own fields."""
  _claim(tmp_path, goal="{title} {0} {", data_dir="%s")
  cells = _write(tmp_path).cells
  assert "{title} {0} {" in cells


def test_a_run_without_results_has_its_training(tmp_path):
  """No certification yet: the rest is shown."""
  _claim(tmp_path)
  _write_metrics(tmp_path)
  page = _write(tmp_path)
  assert page.headings == ["FFNN on digits", "Training", "Config"]
  assert len(page.images) == 1


def test_a_run_that_has_just_begun(tmp_path):
  """A config alone is enough for a page."""
  _claim(tmp_path)
  page = _write(tmp_path)
  assert page.headings == ["FFNN on digits", "Config"]
  assert not page.images


def test_every_certification_is_named(tmp_path, capsys):
  """Each with what its numbers are of, and where it is."""
  _claim(tmp_path)
  _write_results(tmp_path)
  other = tmp_path / "certifications" / "epsilon_0.3"
  other.mkdir(parents=True)
  _write_results(other, epsilon=0.3, failed={"HBox": "needs <b> 9 GB"})
  page = _write(tmp_path)
  names = [
      "epsilon 0.05, 4 examples of test, step 1,200, Box and HBox",
      "epsilon 0.3, 4 examples of test, step 1,200, Box and HBox"
      " (certifications/epsilon_0.3)",
  ]
  assert page.headings[2:4] == names
  assert len(page.images) == 2
  assert page.cells[28:32] == [
      "verified accuracy, HBox", "failed", "needs <b> 9 GB", "4.3 s",
  ]
  assert "checkpoints/1200" in page.texts[0] and "20 steps" in page.texts[0]
  report.print_results(str(tmp_path))
  out = capsys.readouterr().out
  assert all(name in out for name in names) and "needs <b> 9 GB" in out


@pytest.mark.parametrize("name", ["certification.npz", "network.npz"])
def test_results_without_their_arrays_are_damaged(tmp_path, name):
  """The page says so instead of numbers; the others are there."""
  _claim(tmp_path)
  _write_results(tmp_path)
  other = tmp_path / "certifications" / "epsilon_0.3"
  other.mkdir(parents=True)
  _write_results(other, epsilon=0.3)
  (tmp_path / name).unlink()
  page = _write(tmp_path)
  assert len(page.images) == 1 and "epsilon 0.3" in page.headings[2]
  assert f"{name} is damaged" in page.texts[0]
  with pytest.raises(UsageError, match=f"{name} is damaged"):
    report.print_results(str(tmp_path))


@pytest.mark.parametrize("margins", [
    (np.nan,) * 4, (-np.inf,) * 4, (np.inf,) * 4, (1e38, -1e38, 0, 1),
])
def test_margins_of_any_kind_are_plotted(tmp_path, margins):
  """Bounds that are NaN, infinite or huge are no error, and no warning."""
  _claim(tmp_path)
  _write_results(tmp_path, margins)
  assert len(_write(tmp_path).images) == 1


def test_metrics_of_any_size_are_plotted(tmp_path):
  """A loss of 1e38 or an infinite one does not stop the page."""
  _claim(tmp_path)
  with MetricsWriter(str(tmp_path), 1) as writer:
    for step, value in ((1, 1e38), (2, np.inf), (3, 1.0)):
      writer.write(step, {
          "epoch": step / 2, "loss": value, "accuracy": 0.5,
          "largest_bound": value,
      })
  assert "Training" in _write(tmp_path).headings


@pytest.mark.parametrize("folder", ["", "missing"])
def test_a_folder_without_a_run_is_an_error(tmp_path, folder):
  """The error names the folder; nothing is written."""
  workdir = tmp_path / folder
  with pytest.raises(UsageError, match="holds no run") as caught:
    report.write(str(workdir))
  assert str(workdir) in str(caught.value)
  assert not list(tmp_path.iterdir())


def test_a_new_report_replaces_the_old_one(tmp_path):
  """Writing again gives the new content, and leaves no other file."""
  _claim(tmp_path)
  _write(tmp_path)
  _write_results(tmp_path)
  assert "Certification" in _write(tmp_path).headings
  assert not list(tmp_path.glob("*.tmp"))


def test_broken_results_are_an_error_in_one_line(tmp_path):
  """A certification.json that was cut short is named."""
  _claim(tmp_path)
  (tmp_path / "certification.json").write_text('{"network": "FF')
  assert "certification.json is damaged" in _write(tmp_path).texts[0]
  with pytest.raises(UsageError, match="certification.json is damaged"):
    report.print_results(str(tmp_path))


def test_results_are_printed(tmp_path, capsys):
  """The closing tables: every accuracy, and every file that exists."""
  _claim(tmp_path)
  _write_results(tmp_path)
  _write(tmp_path)
  report.print_results(str(tmp_path))
  out = capsys.readouterr().out
  assert "FFNN on digits, epsilon 0.05" in out
  assert "verified accuracy, HBox" in out
  for name in ("certification.json", "certification.npz", "report.html"):
    assert str(tmp_path / name) in out
  assert "metrics.jsonl" not in out


def test_json_stays_what_was_saved(tmp_path):
  """Writing a report changes nothing but the report."""
  _claim(tmp_path)
  _write_results(tmp_path)
  before = (tmp_path / "certification.json").read_bytes()
  _write(tmp_path)
  assert (tmp_path / "certification.json").read_bytes() == before
  assert json.loads(before)["examples"] == 4
