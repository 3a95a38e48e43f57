#!/usr/bin/env bash
# Decides properties of networks, as VNN-COMP asks its tools to.
#
#   bash launch/vnncomp.sh --network=NET.onnx --property=P.vnnlib --results=FILE [--seconds=60]
#   bash launch/vnncomp.sh --property=instances.csv --results=FILE [--seconds=60]
#
# FILE gets unsat, sat and the point, timeout or unknown. Of a list, with lines of
# network,property[,seconds] whose files are beside it, it gets a line for each.
# Paths are from where it is called.
#
#   --network=FILE    ONNX
#   --property=FILE   VNN-LIB, gzipped or not, or a list NAME.csv
#   --results=FILE    for what is found
#   --seconds=S       for a property, compiling left out (60)
#   --python=FILE     the interpreter (.venv's, or python3)
#   --dry-run         prints the command line and does nothing
#   --help            prints this
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"

python="" network="" property="" results="" seconds=60
read_own_options "$0" "python network property results seconds" "" "$@"
[[ -n $property ]] || fail "--property is missing"
[[ -n $results ]] || fail "--results is missing"
[[ $seconds =~ ^[0-9]+(\.[0-9]+)?$ ]] ||
  fail "--seconds is $seconds; expected a number above 0"
[[ -n $network || $property == *.csv ]] || fail "--network is missing"
python=$(choose_python "$python")
command=(env "PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}" "$python"
  -m diffai_jax.main --mode=verify ${network:+"--config.network=$network"}
  "--property=$property" "--results=$results" "--seconds=$seconds")
if [[ -n $dry_run ]]; then
  printf '%s\n' "$(quoted "${command[@]}")"
  exit 0
fi
exec "${command[@]}"
