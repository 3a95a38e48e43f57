"""Which processes there are, from texts and from launchers' variables."""

import pytest

from diffai_jax.processes import environment
from diffai_jax.processes.environment import Place, place_of
from diffai_jax.types import UsageError

_SLURM = {
    "SLURM_JOB_ID": "4096001", "SLURM_STEP_NODELIST": "node[03-04]",
    "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
}
_OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
_PLAIN = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "8",
    "JAX_PROCESS_ID": "7",
}


@pytest.fixture(autouse=True)
def _no_tpu(monkeypatch):
  monkeypatch.setattr(
      environment.importlib.util, "find_spec", lambda name: None
  )


@pytest.mark.parametrize("text, place", [
    ("10.0.0.1:1234,2,1", Place("10.0.0.1", 1234, 2, 1)),
    (" host.name:80 , 3, 0 ", Place("host.name", 80, 3, 0)),
    ("[::1]:1234,2,0", Place("::1", 1234, 2, 0)),
    ("10.0.0.1:1234,1,0", None),
    ("off", None),
    ("auto", None),
])
def test_a_text_names_a_process(text, place):
  assert place_of(text, {}) == place


def test_an_address_is_as_jax_takes_it():
  assert Place("10.0.0.1", 1234, 2, 1).address == "10.0.0.1:1234"
  assert Place("::1", 1234, 2, 1).address == "[::1]:1234"


@pytest.mark.parametrize("text", [
    "", "on", "10.0.0.1:1234", "10.0.0.1:1234,2", "10.0.0.1:1234,2,2",
    "10.0.0.1,2,0", "10.0.0.1:0,2,0", "10.0.0.1:99999,2,0", ":1234,2,0",
    "10.0.0.1:1234,two,0", "10.0.0.1:1234,2,-1", "10.0.0.1:1234,0,0", "a,b,c,d",
    "10.0.0.1:1234,²,0",
])
def test_another_text_is_refused_in_one_line(text):
  with pytest.raises(UsageError, match="distributed is .*ADDRESS") as caught:
    place_of(text, {})
  assert "\n" not in str(caught.value)


def test_a_plain_environment_names_a_process():
  assert place_of("auto", _PLAIN) == Place("10.0.0.1", 1234, 8, 7)
  assert place_of("off", _PLAIN) is None
  assert place_of("auto", _PLAIN | {
      "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"
  }) is None


@pytest.mark.parametrize("name", _PLAIN)
def test_a_part_of_the_plain_environment_is_refused(name):
  rest = {key: value for key, value in _PLAIN.items() if key != name}
  with pytest.raises(UsageError, match=f"{name} is missing.*distributed=off"):
    place_of("auto", rest)


@pytest.mark.parametrize("name, value", [
    ("JAX_COORDINATOR_ADDRESS", "10.0.0.1"), ("JAX_NUM_PROCESSES", "x"),
    ("JAX_PROCESS_ID", "8"),
])
def test_a_wrong_plain_environment_is_refused(name, value):
  with pytest.raises(UsageError, match="expected HOST:PORT"):
    place_of("auto", _PLAIN | {name: value})


def _of_system(monkeypatch, variables):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  return place_of("auto", variables)


def test_slurm_names_a_process(monkeypatch):
  """One task of each machine: all accelerators; the first node's address."""
  alone = _SLURM | {"SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
  place = _of_system(monkeypatch, alone)
  assert (place.host, place.count, place.index) == ("node03", 2, 1)
  assert place.devices == ()


@pytest.mark.parametrize("more, devices", [
    ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, (2,)),
    ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "2"}, ()),
    ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)",
      "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (2,)),
    ({"SLURM_STEP_TASKS_PER_NODE": "1"}, ()),
])
def test_tasks_of_one_machine_share_its_accelerators(
    monkeypatch, more, devices
):
  variables = _SLURM | {"SLURM_LOCALID": "2"} | more
  assert _of_system(monkeypatch, variables).devices == devices


@pytest.mark.parametrize("variables", [
    _SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
    # The script of the batch, outside of any step.
    {k: v for k, v in _SLURM.items() if k != "SLURM_STEP_NODELIST"},
])
def test_one_task_of_slurm_is_one_process(monkeypatch, variables):
  assert _of_system(monkeypatch, variables) is None


def test_open_mpi_names_a_process(monkeypatch):
  place = _of_system(monkeypatch, _OPEN_MPI)
  assert (place.host, place.count, place.index) == ("10.96.0.1", 4, 3)
  assert place.devices == (1,)


def test_a_launcher_without_an_address_is_told_what_to_set(monkeypatch):
  """Open MPI 5 says how many processes there are, but not where."""
  new = {k: v for k, v in _OPEN_MPI.items() if k != "OMPI_MCA_orte_hnp_uri"}
  with pytest.raises(UsageError, match="JAX_COORDINATOR_ADDRESS"):
    _of_system(monkeypatch, new)
  place = place_of("auto", new | {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234"})
  assert place == Place("10.0.0.1", 1234, 4, 3, (1,))
