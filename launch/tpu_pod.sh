#!/usr/bin/env bash
# Trains or certifies on all hosts of a TPU slice or pod, by gcloud:
#
#   bash launch/tpu_pod.sh --name=TPU --zone=ZONE [OPTIONS] -- FLAGS of diffai_jax.main
#   bash launch/tpu_pod.sh --name=pod --zone=us-central2-b -- --config=configs/resnet18.py --workdir=gs://bucket/resnet18
#
# The project lies on each host, installed with jax[tpu] and, for gs:// work
# folders, with the extra gcs. The hosts find each other by themselves.
#
#   --name=TPU           the TPU VM
#   --zone=ZONE          where it is
#   --project=PROJECT    of Google Cloud (gcloud's own)
#   --directory=FOLDER   where the project lies on each host (diffai_jax, in the
#                        home folder)
#   --python=FILE        the interpreter on each (.venv/bin/python in there)
#   --internal-ip        connects by the internal addresses
#   --dry-run            prints the command line and does nothing
#   --help               prints this
#
# The exit code is gcloud's, which is not 0 if one host failed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/command.sh"

name="" zone="" project="" directory=diffai_jax python="" internal_ip=""
read_options "$0" "name zone project directory python" "internal-ip" "$@"
[[ -n $name ]] || fail "no TPU; give its name with --name="
[[ -n $zone ]] || fail "no zone; give that of $name with --zone="
python=${python:-.venv/bin/python}

# Ended with its connection, not left behind: SIGHUP saves, too.
there="cd $(quoted "$directory") && exec $(quoted "$python" \
  -m diffai_jax.main "${flags[@]}" --config.distributed=auto)"
command=(gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone"
  ${project:+"--project=$project"} ${internal_ip:+--internal-ip}
  --worker=all "--command=$there")
if [[ -n $dry_run ]]; then
  printf '%s\n' "$(quoted "${command[@]}")"
  exit 0
fi
exec "${command[@]}"
