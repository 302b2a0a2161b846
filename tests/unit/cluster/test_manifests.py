"""The files that people take to their clusters are what Ray, KubeRay, Slurm and Docker read."""

import json
import re
import runpy
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

ROOT = Path(__file__).parents[3]
CLUSTER, DATA = ROOT / "cluster", ROOT / "tests/data"
SBATCH = CLUSTER / "slurm/train.sbatch"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.fixture
def job() -> dict[str, Any]:
    return read(CLUSTER / "kuberay/rayjob.yaml")


def groups(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def validate(job: dict[str, Any]) -> None:
    Draft202012Validator(read(DATA / "rayjob.yaml")).validate(job)
    pods = Draft202012Validator(json.loads((DATA / "pod_template.json").read_text()))
    for group in groups(job):
        pods.validate(group["template"])


def test_the_rayjob_has_the_fields_of_kuberay_and_kubernetes(job):
    validate(job)


def test_only_runs_pods_and_who_submits_reach_a_run(job):
    policy = read(CLUSTER / "kuberay/network_policy.yaml")
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    spec = policy["spec"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    own = spec["podSelector"]
    for group in groups(job):
        assert own["matchLabels"].items() <= group["template"]["metadata"]["labels"].items()
    among, asking = spec["ingress"]
    assert among == {"from": [{"podSelector": own}]}
    assert [port["port"] for port in asking["ports"]] == [8265]
    submitter = job["spec"]["submitterPodTemplate"]
    (first, operator) = asking["from"]
    assert first == {"podSelector": {"matchLabels": submitter["metadata"]["labels"]}}
    assert operator["podSelector"]["matchLabels"]
    Draft202012Validator(json.loads((DATA / "pod_template.json").read_text())).validate(submitter)
    allowed = [[port["port"] for port in one.get("ports", [])] for one in spec["egress"]]
    assert allowed == [[], [53, 53], [443]]


def test_the_image_is_of_a_base_and_packages_that_are_fixed():
    image = (CLUSTER / "Dockerfile").read_text()
    assert re.findall(r"^FROM (.*)", image, re.MULTILINE) == [
        "${BASE} AS system", "system AS resolved", "scratch AS lock", "system"]  # fmt: skip
    installs = re.findall(r"pip install (.*)", image)
    assert installs == [
        "--dry-run --ignore-installed --quiet --report /tmp/report.json \\",
        "--require-hashes --no-deps -r /tmp/requirements.lock",
    ]
    assert 'case "$BASE" in *@sha256:*)' in image


def test_a_lock_has_every_package_with_its_hash():
    def one(name: str, **found: Any) -> dict[str, Any]:
        return {"metadata": {"name": name, "version": "1.0"}, "download_info": found}

    wheel = {"url": "u", "archive_info": {"hashes": {"sha256": "ab" * 32}}}
    folder = {"url": "file:///opt/agon", "dir_info": {}}
    report = {"install": [one("torch", **wheel), one("agon", **folder), one("Ray", **wheel)]}
    locked = runpy.run_path(str(CLUSTER / "lock.py"))["locked"]
    assert list(locked(report)) == [
        f"{name}==1.0 --hash=sha256:{'ab' * 32}" for name in ("Ray", "torch")
    ]
    with pytest.raises(ValueError, match="ray: the index tells no sha256"):
        list(locked({"install": [one("ray", url="u", archive_info={})]}))


MISTAKES = {
    "an unknown field of the job": ("activeDeadline", 3, "spec"),
    "a number as text": ("backoffLimit", "3", "spec"),
    "a choice that there is not": ("submissionMode", "JobMode", "spec"),
    "an unknown field of the cluster": ("tokenAuth", True, "spec", "rayClusterSpec"),
    "a number where Ray reads text": (
        "num-gpus", 0, "spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"),
    "an unknown field of a group": (
        "count", 2, "spec", "rayClusterSpec", "workerGroupSpecs", 0),
    "an unknown field of a pod": (
        "restart", "Never", "spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec"),
    "an unknown field of a container": (
        "volumes", [], "spec", "rayClusterSpec", "headGroupSpec", "template", "spec",
        "containers", 0),
    "a mount without a path": (
        "volumeMounts", [{"name": "shared"}], "spec", "rayClusterSpec", "headGroupSpec",
        "template", "spec", "containers", 0),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_rayjob_is_found(job, mistake):
    key, value, *path = MISTAKES[mistake]
    broken = deepcopy(job)  # YAML's anchors are shared otherwise
    place = broken
    for step in path:
        place = place[step]
    place[key] = value
    with pytest.raises(ValidationError):
        validate(broken)


def test_every_pod_mounts_the_shared_folder_and_asks_for_what_it_may_use(job):
    run_dir = re.search(r"run\.dir=(\S+)", job["spec"]["entrypoint"])
    assert run_dir
    for group in groups(job):
        spec = group["template"]["spec"]
        claims = {v["name"] for v in spec["volumes"] if "persistentVolumeClaim" in v}
        (container,) = spec["containers"]
        mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
        assert mounts.keys() == {volume["name"] for volume in spec["volumes"]}
        assert any(run_dir[1].startswith(f"{mounts[claim]}/") for claim in claims)
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert spec["securityContext"]["runAsNonRoot"]
    head, *workers = groups(job)
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert all(
        "nvidia.com/gpu" in worker["template"]["spec"]["containers"][0]["resources"]["limits"]
        for worker in workers
    )


def test_a_rayjob_that_fails_is_tried_again_from_its_checkpoint_and_ends(job):
    spec = job["spec"]
    assert spec["backoffLimit"] > 0 and "run.resume=auto" in spec["entrypoint"]
    assert spec["activeDeadlineSeconds"] and spec["shutdownAfterJobFinishes"]
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("file", ["kuberay/rayjob.yaml", "ray/job.yaml", "ray/cluster.yaml"])
def test_no_file_holds_a_secret(file):
    def plain_values(value: Any) -> Any:
        if isinstance(value, dict):
            if {"name", "value"} <= value.keys():
                yield value["name"]
            for key, inner in value.items():
                if isinstance(inner, str):
                    yield key
                yield from plain_values(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from plain_values(inner)

    named = list(plain_values(read(CLUSTER / file)))
    assert named
    assert not [name for name in named if re.search(r"(API_KEY|TOKEN|PASSWORD|SECRET)$", name)]


def test_both_ways_of_submitting_give_a_run_the_same_time_to_save(job):
    submitted = read(CLUSTER / "ray/job.yaml")
    assert RuntimeEnv(**submitted).keys() <= RuntimeEnv.known_fields
    within = yaml.safe_load(job["spec"]["runtimeEnvYAML"])
    assert submitted["env_vars"] == within["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "300"}


def test_ray_up_takes_the_cluster_file():
    config = prepare_config(read(CLUSTER / "ray/cluster.yaml"))
    validate_config(config)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])
    with pytest.raises(ValidationError):
        validate_config(config | {"head_start_command": []})


def test_every_start_of_ray_asks_for_a_token():
    config = read(CLUSTER / "ray/cluster.yaml")
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert "ray start" in command and "RAY_AUTH_MODE=token" in command
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN" in SBATCH.read_text()


def test_versions_agree(job):
    pins = dict(
        line.split(";")[0].split("==")
        for line in (ROOT / "requirements/cpu.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    makefile, image = (ROOT / "Makefile").read_text(), (CLUSTER / "Dockerfile").read_text()
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pins["ray"]
    for package in ("torch", "vllm"):
        tested = re.search(rf"{package}(?:-cpu)?==([\d.]+)", makefile)
        taken = re.search(rf"'{package}==([\d.]+)'", image)
        assert tested and taken and tested[1] == taken[1]
    assert "apache-tvm-ffi" in pins, "the image leaves it out of its constraints"


def test_the_slurm_script_is_one_of_bash():
    subprocess.run(["bash", "-n", SBATCH], check=True, timeout=10)
