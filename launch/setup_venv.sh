# Sourced by the launch scripts: makes .venv in the project's root and installs
# the project there with the extras that $1 names, unless that is done already.
# Leaves $root and $python set, and does not change the caller's folder.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python="$root/.venv/bin/python"

install_project() {
  local extras=$1
  # What decides which packages are needed; a change of it installs again.
  local wanted
  wanted=$(cat "$root/setup.cfg" "$root/setup.py" | cksum)-$extras
  local stamp="$root/.venv/installed$extras"
  if [[ -x $python && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    return
  fi
  local base=${PYTHON:-python3}
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $base is $("$base" --version 2>&1); diffai_jax needs Python" \
      "3.11 or later; give one with PYTHON=/path/to/python3.11" >&2
    exit 1
  }
  [[ -x $python ]] || "$base" -m venv "$root/.venv"
  echo "installing diffai_jax$extras into $root/.venv"
  "$python" -m pip install --quiet --disable-pip-version-check \
    --editable "$root$extras"
  printf '%s' "$wanted" >"$stamp"
}
