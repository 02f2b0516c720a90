#!/usr/bin/env bash
# Sets a rented machine up, from the root of the project: locked packages, JAX for its accelerator,
# the buckets' clients, the model's weights.
#   JAX     jax's extra for the accelerator: cuda12, cuda13, rocm7-local, tpu
#   PYTHON  an interpreter of 3.11 or newer; left out, 3.11, which uv fetches where there is none
set -euo pipefail
: "${JAX:?set JAX to an extra of jax for this accelerator: cuda12, cuda13, rocm7-local or tpu}"

# Most images come with 3.10, or without ensurepip. 3.11 on all of them is one JAX on all of them,
# and its JAX has plugins for every accelerator; the newer interpreters' has none for AMD's.
if [ -z "${PYTHON:-}" ]; then
  PYTHON=$(command -v python3.11 || true)
  if [ -z "$PYTHON" ] || ! "$PYTHON" -c 'import ensurepip' 2>/dev/null; then
    echo "setup: no Python 3.11 with ensurepip here: fetching one with uv" >&2
    PATH=$HOME/.local/bin:$PATH
    command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
    uv python install 3.11
    PYTHON=$(uv python find --python-preference only-managed 3.11)
  fi
fi

if ! command -v make >/dev/null; then
  as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" apt-get install -qq -y make
fi

make setup PYTHON="$PYTHON"
python=.venv/bin/python
version=$("$python" -c 'import jax; print(jax.__version__)')
"$python" -m pip install -qq --disable-pip-version-check "jax[$JAX]==$version" gcsfs s3fs
"$python" -c 'import jax; print(jax.devices())'
