#!/usr/bin/env bash
# Installs diffai_jax into .venv, then trains and certifies a small network on
# handwritten digits that come with scikit-learn. Further flags are passed on:
#   bash launch/quickstart.sh --config.epsilon=0.03 --workdir=runs/other
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_venv.sh"
install_project ""
exec "$python" -m diffai_jax.main --config="$root/configs/quickstart.py" \
  --workdir="$root/runs/quickstart" "$@"
