#!/usr/bin/env bash
# Runs one config on this machine, or on all nodes of a SkyPilot task, straight into a bucket. After
# a preemption the same command goes on where the last finished measurement was.
#   CONFIG   an experiment's config file
#   WORKDIR  gs://BUCKET/FOLDER or s3://BUCKET/FOLDER (a local folder works too)
#   MODEL    config.model; left out, the config's own
#   DEVICE   gpu or tpu: the run refuses to begin on anything else
# Arguments are passed on, for example --config.layers='(1,2)' or --profile.
set -euo pipefail
: "${CONFIG:?set CONFIG to a config file, such as experiments/configs/residency_cliff.py}"
: "${WORKDIR:?set WORKDIR to gs://BUCKET/FOLDER or s3://BUCKET/FOLDER}"

flags=("--config=$CONFIG" "--workdir=$WORKDIR")
[ -z "${MODEL:-}" ] || flags+=("--config.model=$MODEL")
[ -z "${DEVICE:-}" ] || flags+=("--device=$DEVICE")
if [ "${SKYPILOT_NUM_NODES:-1}" -gt 1 ]; then
  first=${SKYPILOT_NODE_IPS%%$'\n'*}
  flags+=("--hosts=$SKYPILOT_NUM_NODES" "--host=$SKYPILOT_NODE_RANK" "--coordinator=$first:8476")
fi
# exec: a SIGTERM at preemption reaches the run itself, which ends with what it has finished.
exec .venv/bin/python -m experiments.run "${flags[@]}" "$@"
