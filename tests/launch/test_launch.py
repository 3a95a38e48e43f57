"""Launch scripts: the command lines that they build, and how local.sh ends."""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

import pytest

_LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
_FLAGS = ("--config=configs/quickstart.py", "--workdir=runs/it's one",
          "--config.goal=Mix(Point, Box, 0.5)")


def _call(script, *arguments, **variables):
  return subprocess.run(
      ["bash", _LAUNCH / script, *arguments], capture_output=True, text=True,
      timeout=60, env=os.environ | variables, check=False,
  )


def _lines(script, *options, flags=_FLAGS, **variables):
  """The words of each command line that a dry run prints."""
  done = _call(script, "--dry-run", *options, "--", *flags, **variables)
  assert (done.returncode, done.stderr) == (0, "")
  return [shlex.split(line) for line in done.stdout.splitlines()]


def test_local_has_a_line_a_process():
  lines = _lines("local.sh", "--processes=3", "--port=4242", "--python=py")
  assert [line[-7:] for line in lines] == [
      ["py", "-m", "diffai_jax.main", *_FLAGS,
       f"--config.distributed=127.0.0.1:4242,3,{number}"]
      for number in range(3)
  ]


def test_local_shares_the_cards():
  lines = _lines("local.sh", "--gpus-each=2", "--port=1")
  assert [line[2] for line in lines] == [
      "CUDA_VISIBLE_DEVICES=0,1", "CUDA_VISIBLE_DEVICES=2,3"
  ]


def test_local_makes_devices_of_the_cpu_beside_other_flags():
  (line,) = _lines(
      "local.sh", "--cpus-each=4", "--processes=1", "--port=1",
      XLA_FLAGS="--xla_other=true",
  )
  assert "JAX_PLATFORMS=cpu" in line
  flags = "--xla_other=true --xla_force_host_platform_device_count=4"
  assert f"XLA_FLAGS={flags}" in line


def test_local_finds_a_free_port():
  lines = _lines("local.sh", f"--python={sys.executable}")
  ports = {line[-1].split(":")[1].split(",")[0] for line in lines}
  assert len(ports) == 1 and 1 <= int(ports.pop()) <= 65535


def test_multihost_says_where_the_first_is():
  lines = _lines(
      "multihost.sh", "--hosts=me@gpu1,gpu2", "--directory=/a b/project",
      "--ssh=ssh -p 22",
  )
  assert [line[:4] for line in lines] == [
      ["ssh", "-p", "22", "me@gpu1"], ["ssh", "-p", "22", "gpu2"]
  ]
  for number, line in enumerate(lines):
    assert len(line) == 5  # What the shell there reads is one word here.
    there = shlex.split(line[4])
    assert there == [
        "cd", "/a b/project", "&&", "exec", "/a b/project/.venv/bin/python",
        "-m", "diffai_jax.main", *_FLAGS,
        f"--config.distributed=gpu1:12321,2,{number}",
    ]


def test_multihost_reads_a_file(tmp_path):
  hosts = tmp_path / "hosts"
  hosts.write_text("# ours\nuser@a  # the first\n\nb\n")
  lines = _lines("multihost.sh", f"--hosts-file={hosts}", "--address=10.0.0.1")
  assert [line[4] for line in lines] == ["user@a", "b"]
  assert "--config.distributed=10.0.0.1:12321,2,1" in lines[1][5]


def test_slurm_leaves_it_to_srun(tmp_path):
  (line,) = _lines("slurm.sbatch", "--directory=" + str(_LAUNCH.parent))
  assert line[0] == "srun"
  assert line[-4:] == [*_FLAGS, "--config.distributed=auto"]
  # SLURM runs a copy, far from the project.
  copy = tmp_path / "slurm_script"
  copy.write_bytes((_LAUNCH / "slurm.sbatch").read_bytes())
  assert _lines(copy, SLURM_SUBMIT_DIR=str(_LAUNCH.parent)) == [line]
  done = _call(copy, "--dry-run", "--", "--a", SLURM_SUBMIT_DIR=str(tmp_path))
  assert done.returncode == 2
  assert done.stderr.startswith(f"error: slurm.sbatch: no project in {tmp_path}")
  assert done.stderr.count("\n") == 1


def test_slurm_options_are_sbatchs():
  """Lines of #SBATCH count only before the first command."""
  lines = (_LAUNCH / "slurm.sbatch").read_text().splitlines()
  first = next(n for n, line in enumerate(lines) if line[:1] not in ("#", ""))
  options = [n for n, line in enumerate(lines) if line.startswith("#SBATCH")]
  assert options and max(options) < first


def test_tpu_pod_runs_on_all_workers():
  (line,) = _lines(
      "tpu_pod.sh", "--name=pod", "--zone=there", "--project=ours",
      "--internal-ip",
  )
  assert line[:-1] == [
      "gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod", "--zone=there",
      "--project=ours", "--internal-ip", "--worker=all",
  ]
  there = shlex.split(line[-1].removeprefix("--command="))
  assert there == [
      "cd", "diffai_jax", "&&", "exec", ".venv/bin/python", "-m",
      "diffai_jax.main", *_FLAGS, "--config.distributed=auto",
  ]


def test_gpu_check_is_one_command(tmp_path):
  done = subprocess.run(
      ["bash", _LAUNCH / "gpu_check.sh", "--dry-run", "--python=py",
       "--only=step/", "--json=own.json"],
      capture_output=True, text=True, check=True, cwd=tmp_path,
  )
  line = shlex.split(done.stdout)
  assert line[:3] == ["env", "-C", str(_LAUNCH.parent)]
  assert line[4:] == [
      "py", "-m", "benchmarks.gpu_check", f"--json={tmp_path}/own.json",
      f"--table={tmp_path}/gpu_check.md", "--minutes=30", "--only=step/",
  ]


_SCRIPTS = {
    "local.sh": (), "multihost.sh": ("--hosts=a",), "slurm.sbatch": (),
    "tpu_pod.sh": ("--name=a", "--zone=b"),
}


@pytest.mark.parametrize("script, options", _SCRIPTS.items(), ids=_SCRIPTS)
@pytest.mark.parametrize("arguments, told", [
    (["--prot=1"], "unknown option --prot"),
    (["word"], "unexpected argument word"),
    (["--dry-run=1"], "--dry-run takes no value"),
    (["--python"], "--python needs a value: --python=VALUE"),
    (["--config=x"], "--config is a flag of diffai_jax.main"),
    (["--workdir=x"], "--workdir is a flag of diffai_jax.main"),
    ([], "no flags of diffai_jax.main"),
    (["--"], "no flags of diffai_jax.main"),
    (["--", "--config.distributed=off"], "--config.distributed=off is what"),
])
def test_what_is_wrong_is_one_line(script, options, arguments, told):
  done = _call(script, "--dry-run", *options, *arguments)
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr.startswith(f"error: {script}: {told}")
  assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("script, arguments, told", [
    ("local.sh", ["--processes=0"], "--processes is 0; expected a whole number"),
    ("local.sh", ["--processes=two"], "--processes is two; expected a whole"),
    ("local.sh", ["--port=65536"], "--port is 65536; expected a whole number"),
    ("local.sh", ["--cpus-each=1", "--gpus-each=1"], "--gpus-each and"),
    ("local.sh", ["--python=/no/python"], "no Python /no/python"),
    ("multihost.sh", [], "no machines; give them with --hosts=A,B"),
    ("multihost.sh", ["--hosts=,"], "no machines; give them with --hosts=A,B"),
    ("multihost.sh", ["--hosts=a;b"], "--hosts has a;b; expected names"),
    ("multihost.sh", ["--hosts=-oProxyCommand=x"], "--hosts has -oProxyComm"),
    ("multihost.sh", ["--hosts-file=/none"], "--hosts-file is /none; expected"),
    ("tpu_pod.sh", ["--zone=b"], "no TPU; give its name with --name="),
    ("tpu_pod.sh", ["--name=a"], "no zone; give that of a with --zone="),
    ("gpu_check.sh", ["--minutes=x"], "--minutes is x; expected a number"),
    ("gpu_check.sh", ["--what"], "unknown option --what"),
    ("vnncomp.sh", ["--results=r"], "--property is missing"),
    ("vnncomp.sh", ["--property=p.csv"], "--results is missing"),
    ("vnncomp.sh", ["--property=p", "--results=r"], "--network is missing"),
    ("slurm.sbatch", [], "not within a job of SLURM; give it to sbatch"),
])
def test_values_are_checked(script, arguments, told):
  done = _call(script, *arguments, "--", "--config=x", SLURM_JOB_ID="")
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr.startswith(f"error: {script}: {told}")
  assert done.stderr.count("\n") == 1


def test_vnncomp_is_one_command():
  done = _call(
      "vnncomp.sh", "--dry-run", "--python=py", "--network=it's.onnx",
      "--property=p.vnnlib", "--results=r.txt", "--seconds=7",
  )
  assert (done.returncode, done.stderr) == (0, "")
  assert shlex.split(done.stdout)[-7:] == [
      "py", "-m", "diffai_jax.main", "--mode=verify",
      "--config.network=it's.onnx", "--property=p.vnnlib", "--results=r.txt",
      "--seconds=7",
  ][-7:]


@pytest.mark.parametrize("script", [*_SCRIPTS, "gpu_check.sh", "vnncomp.sh"])
def test_help_names_every_option(script):
  done = _call(script, "--help")
  assert (done.returncode, done.stderr) == (0, "")
  source = (_LAUNCH / script).read_text()
  (call,) = re.split(r"read_(?:own_)?options ", source)[1:]
  call = call[: call.index('"$@"')].replace("\\\n", "")
  _, names, switches = shlex.split(call)
  for name in f"{names} {switches} dry-run help".split():
    assert f"\n  --{name}" in done.stdout
  assert "SBATCH" not in done.stdout and "set -e" not in done.stdout


def _fake(tmp_path, body):
  """An "interpreter" that gets $id, the number of its process."""
  path = tmp_path / "python"
  path.write_text(f'#!/usr/bin/env bash\nid=${{@: -1}}; id=${{id##*,}}\n{body}')
  path.chmod(0o755)
  return f"--python={path}"


def test_local_ends_all_when_one_fails(tmp_path):
  """With its exit code, once the others have saved; what will not is killed."""
  fake = _fake(tmp_path, f"""
    trap 'echo saved $id; exit 143' TERM
    case $id in
      0) while :; do sleep 0.1; done ;;
      1) sleep 0.5; exit 7 ;;
      2) trap '' TERM; echo $$ >{tmp_path}/stubborn; while :; do sleep 0.1; done ;;
    esac
  """)
  done = _call(
      "local.sh", "--processes=3", "--port=1", "--patience=1", fake, "--", "--a"
  )
  assert done.returncode == 7
  assert done.stdout == "saved 0\n"
  assert not _runs(int((tmp_path / "stubborn").read_text()))


def test_local_ends_well_when_all_do(tmp_path):
  fake = _fake(tmp_path, 'echo "${@: -1}"')
  done = _call("local.sh", "--processes=2", "--port=9", fake, "--", "--a")
  assert (done.returncode, done.stderr) == (0, "")
  assert sorted(done.stdout.split()) == [
      f"--config.distributed=127.0.0.1:9,2,{number}" for number in range(2)
  ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_local_passes_signals_on(tmp_path, number):
  """Ctrl-C as a terminal sends it: all processes save, and its code is theirs."""
  name = signal.Signals(number).name.removeprefix("SIG")
  fake = _fake(tmp_path, f"""
    trap 'echo saved $id; exit {128 + number}' {name}
    exec 2>/dev/null; echo ready; while :; do sleep 0.1; done
  """)
  running = subprocess.Popen(
      ["bash", _LAUNCH / "local.sh", "--port=1", fake, "--", "--a"],
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      start_new_session=True,
  )
  assert [running.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
  os.killpg(running.pid, number)
  told, errors = running.communicate(timeout=30)
  assert sorted(told.splitlines()) == ["saved 0", "saved 1"]
  assert (running.returncode, errors) == (128 + number, "")


def _runs(pid):
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  return True
