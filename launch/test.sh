#!/usr/bin/env bash
# Installs diffai_jax and its test packages into .venv and runs the tests.
# Further arguments are pytest's:
#   bash launch/test.sh -k relu
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_venv.sh"
install_project "[test]"
cd "$root"
exec "$python" -m pytest "$@"
