#!/usr/bin/env bash
# Sets a rented machine up, from the root of the project: locked packages, JAX for its accelerator,
# the buckets' clients, the model's weights.
#   JAX     jax's extra for the accelerator: cuda12, cuda13, rocm7-local, tpu
#   PYTHON  an interpreter of 3.11 or newer; left out, the newest that is found
set -euo pipefail
: "${JAX:?set JAX to an extra of jax for this accelerator: cuda12, cuda13, rocm7-local or tpu}"

if [ -z "${PYTHON:-}" ]; then
  for candidate in python3.13 python3.12 python3.11 python3; do
    if command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      PYTHON=$candidate
      break
    fi
  done
fi
if [ -z "${PYTHON:-}" ]; then
  echo "setup: no Python of 3.11 or newer with ensurepip here: install one, or set PYTHON" >&2
  exit 1
fi

make setup PYTHON="$PYTHON"
python=.venv/bin/python
version=$("$python" -c 'import jax; print(jax.__version__)')
"$python" -m pip install -qq --disable-pip-version-check "jax[$JAX]==$version" gcsfs s3fs
"$python" -c 'import jax; print(jax.devices())'
