#!/usr/bin/env bash
# Checks a machine with an accelerator: soundness there, and how fast it is.
#
#   bash launch/gpu_check.sh [--python=FILE] [--dry-run] [FLAGS of benchmarks.gpu_check]
#
# Needs this folder and a Python that has JAX and Flax with what they bring;
# nothing is installed or downloaded. Writes gpu_check.json and gpu_check.md where
# it is called. On CPUs sizes are small.
#
#   --python=FILE     the interpreter (.venv's, or python3)
#   --json=FILE       for the results (gpu_check.json)
#   --table=FILE      for the table (gpu_check.md)
#   --only=A,B        parts, or what their names begin with: soundness, step/,
#                     torch/, certification/, training
#   --minutes=M       that a part may take (30)
#   --dry-run         prints the command line and does nothing
#   --help            prints this
#
# Exits with 1 if a part failed; what the others found is written all the same.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"

python="" json=$PWD/gpu_check.json table=$PWD/gpu_check.md only="" minutes=30
read_own_options "$0" "python json table only minutes" "" "$@"
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] ||
  fail "--minutes is $minutes; expected a number above 0"
python=$(choose_python "$python")
[[ $json == /* ]] || json=$PWD/$json
[[ $table == /* ]] || table=$PWD/$table
# configs/ is looked for in the project's folder.
command=(env -C "$root" "PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}" "$python"
  -m benchmarks.gpu_check "--json=$json" "--table=$table" "--minutes=$minutes"
  ${only:+"--only=$only"})
if [[ -n $dry_run ]]; then
  printf '%s\n' "$(quoted "${command[@]}")"
  exit 0
fi
exec "${command[@]}"
