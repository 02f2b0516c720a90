#!/usr/bin/env bash
# The same on a TPU VM with gcloud alone: makes a spot TPU, copies the project to it, sets it up,
# runs a config into a bucket, and deletes the TPU again, whatever happened. Run from the project's
# root; needs gcloud, logged in, with a project and its TPU API enabled.
#   experiments/launch/tpu_vm.sh gs://BUCKET/FOLDER [flags of experiments.run …]
#   TPU_TYPE  v5litepod-N (default, with 1) or v6e-N, of 1, 4 or 8 chips      ZONE  us-central1-a (default), where there are such
#   CONFIG    a config file; left out, the residency cliff
# A preempted TPU ends the command with a status that is not 0: give it again, and it goes on.
set -euo pipefail

if [ $# -lt 1 ] || [[ $1 != gs://?*/?* ]]; then
  echo "usage: $0 gs://BUCKET/FOLDER [flags of experiments.run]" >&2
  exit 2
fi
workdir=$1
shift
type=${TPU_TYPE:-v5litepod-1}
zone=${ZONE:-us-central1-a}
config=${CONFIG:-experiments/configs/residency_cliff.py}
case $type in
  v5litepod-[148]) runtime=v2-alpha-tpuv5-lite ;;
  v6e-[148]) runtime=v2-alpha-tpuv6e ;;
  *)
    # More chips are several hosts, each of which would wait for the others.
    echo "$0: TPU_TYPE=$type is not known: take v5litepod-N or v6e-N with 1, 4 or 8 chips" >&2
    exit 2
    ;;
esac
command -v gcloud >/dev/null || {
  echo "$0: gcloud is not installed, or not on the PATH" >&2
  exit 1
}
[ -f experiments/run.py ] || {
  echo "$0: run it from the root of the project" >&2
  exit 2
}

name=emu-$(date +%Y%m%d-%H%M%S)
remove() { gcloud compute tpus tpu-vm delete "$name" --zone="$zone" --quiet; }
trap remove EXIT
gcloud compute tpus tpu-vm create "$name" --zone="$zone" --accelerator-type="$type" \
  --version="$runtime" --spot --scopes=cloud-platform

on_tpu() { gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --quiet --command="$1"; }
archive=$(mktemp --suffix=.tar.gz)
git archive --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$name:emu.tar.gz" --zone="$zone" --quiet
rm "$archive"
on_tpu "mkdir -p emu && tar -xzf emu.tar.gz -C emu && cd emu && JAX=tpu bash experiments/launch/setup.sh"
printf -v quoted '%q ' "$@"
[ $# -gt 0 ] || quoted=
printf -v settings 'CONFIG=%q WORKDIR=%q DEVICE=tpu' "$config" "$workdir"
on_tpu "cd emu && $settings bash experiments/launch/run.sh $quoted"
