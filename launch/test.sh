#!/usr/bin/env bash
# Installs diffai_jax and its test packages into .venv and runs the tests.
# Further arguments are pytest's:
#   bash launch/test.sh -k relu
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_venv.sh"
install_project "[test]"
cd "$root"
# One process a core: most of the time goes into compiling.
exec "$python" -m pytest --numprocesses=auto --dist=worksteal "$@"
