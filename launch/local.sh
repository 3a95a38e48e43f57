#!/usr/bin/env bash
# Trains or certifies with several processes on this machine:
#
#   bash launch/local.sh [OPTIONS] -- FLAGS of diffai_jax.main
#   bash launch/local.sh --processes=2 -- --config=configs/resnet18.py --workdir=runs/resnet18
#
# One process uses all of a machine's GPUs by itself; several are for a share
# of the GPUs each, and for trying on CPUs what will run on several machines.
#
#   --processes=N   how many (2)
#   --gpus-each=N   GPUs of each process, the first N for process 0 and so on
#   --cpus-each=N   devices that each makes of the CPU, and no GPUs
#   --port=PORT     of process 0, where all meet (one that is free)
#   --patience=S    seconds until what does not end is killed (60)
#   --python=FILE   the interpreter (.venv's, or python3)
#   --dry-run       prints the command lines and does nothing
#   --help          prints this
#
# Once one fails, and on Ctrl-C or SIGTERM, all others are asked to end, which
# they do after the step that they are in; the exit code is the first failure's.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"

processes=2 port="" gpus_each="" cpus_each="" patience=60 python=""
read_options "$0" "processes gpus-each cpus-each port patience python" "" "$@"
check_number processes "$processes" 1 512
check_number patience "$patience" 0 86400
[[ -z $gpus_each ]] || check_number gpus-each "$gpus_each" 1 64
[[ -z $cpus_each ]] || check_number cpus-each "$cpus_each" 1 512
[[ -z $gpus_each || -z $cpus_each ]] ||
  fail "--gpus-each and --cpus-each are given; expected one of them"
python=$(choose_python "$python")
if [[ -n $port ]]; then
  check_number port "$port" 1 65535
elif ! port=$("$python" -c '
import socket
with socket.socket() as one:
  one.bind(("127.0.0.1", 0))
  print(one.getsockname()[1])' 2>/dev/null); then
  fail "no Python $python; give one with --python="
fi

lines=()
for ((id = 0; id < processes; id++)); do
  before=(env "PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}")
  if [[ -n $gpus_each ]]; then
    cards=$(seq -s, $((id * gpus_each)) $((id * gpus_each + gpus_each - 1)))
    before+=("CUDA_VISIBLE_DEVICES=$cards")
  elif [[ -n $cpus_each ]]; then
    before+=(JAX_PLATFORMS=cpu
      "XLA_FLAGS=${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$cpus_each")
  fi
  lines+=("$(quoted "${before[@]}" "$python" -m diffai_jax.main "${flags[@]}" \
    "--config.distributed=127.0.0.1:$port,$processes,$id")")
done
do_lines "$patience" "${lines[@]}"
