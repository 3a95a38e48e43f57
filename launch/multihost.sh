#!/usr/bin/env bash
# Trains or certifies on several machines, one process on each, by ssh:
#
#   bash launch/multihost.sh --hosts=A,B [OPTIONS] -- FLAGS of diffai_jax.main
#   bash launch/multihost.sh --hosts=gpu1,gpu2 -- --config=configs/resnet18.py --workdir=/shared/resnet18
#
# The project lies in the same folder on each, and ssh asks for no password.
# The first machine is process 0, which alone reads and writes the work folder.
#
#   --hosts=A,B,...      the machines, as ssh takes them (user@name, or an alias)
#   --hosts-file=FILE    the same, one a line; # begins a comment
#   --address=NAME       the first machine as the others reach it (its name)
#   --port=PORT          of it, where all meet (12321)
#   --directory=FOLDER   where the project lies on each (where it lies here)
#   --python=FILE        the interpreter on each (.venv/bin/python in there)
#   --ssh=COMMAND        what connects ("ssh -tt -o BatchMode=yes")
#   --patience=S         seconds until what does not end is cut off (60)
#   --dry-run            prints the command lines and does nothing
#   --help               prints this
#
# Once one fails, and on Ctrl-C or SIGTERM, the others' connections are closed;
# that is a SIGHUP there, which ends them after the step that they are in.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"

hosts="" hosts_file="" address="" port=12321 directory=$root python=""
ssh="ssh -tt -o BatchMode=yes" patience=60
read_options "$0" \
  "hosts hosts-file address port directory python ssh patience" "" "$@"
check_number port "$port" 1 65535
check_number patience "$patience" 0 86400
[[ -z $hosts || -z $hosts_file ]] ||
  fail "--hosts and --hosts-file are given; expected one of them"
if [[ -n $hosts_file ]]; then
  [[ -f $hosts_file && -r $hosts_file ]] ||
    fail "--hosts-file is $hosts_file; expected a file that can be read"
  hosts=$(sed 's/#.*//' "$hosts_file" | tr -s ' \t\r\n' ',')
fi
IFS=, read -r -a given <<<"$hosts"
all=()
for host in ${given[@]+"${given[@]}"}; do
  [[ -n $host ]] || continue
  [[ $host =~ ^[A-Za-z0-9_.@:%-]+$ && $host != -* ]] ||
    fail "--hosts has $host; expected names of machines with commas between"
  all+=("$host")
done
((${#all[@]})) || fail "no machines; give them with --hosts=A,B"
address=${address:-${all[0]#*@}}
python=${python:-$directory/.venv/bin/python}

read -r -a connect <<<"$ssh"
lines=()
for id in "${!all[@]}"; do
  there="cd $(quoted "$directory") && exec $(quoted "$python" \
    -m diffai_jax.main "${flags[@]}" \
    "--config.distributed=$address:$port,${#all[@]},$id")"
  lines+=("$(quoted "${connect[@]}" "${all[$id]}" "$there")")
done
do_lines "$patience" "${lines[@]}"
