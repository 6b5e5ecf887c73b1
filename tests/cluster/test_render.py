"""Launch files: golden texts, the schemas of Kubernetes, KubeRay and Ray, the syntax of bash, and hostile values."""

from __future__ import annotations

import copy
import json
import shlex
import subprocess
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from hostile import EVERYTHING, HOSTILE, SLURM
from kuberay_schema import RAY_CLUSTER, RAY_JOB
from pydantic import ValidationError
from ray.autoscaler._private.aws.config import _configure_security_group
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.launch.validators import RAY_VERSION
from cluster.render import TARGETS, render

GOLDEN = Path(__file__).parent / "golden"

KUBERAY = {"image": "registry.example.com/lagvae:0.1.0", "spec": "quickstart"}
SSH = {
    "head_ip": "10.0.0.1",
    "worker_ips": ["10.0.0.2", "node3.example.com"],
    "ssh_private_key": "~/.ssh/cluster",
    "package": "lagvae",
}
AWS = {"security_group": "sg-0123456789abcdef0", "package": "lagvae"}
MINIMAL: dict[str, dict[str, Any]] = {
    "kuberay": KUBERAY,
    "slurm": SLURM,
    "ray-up": SSH,
    "ray-up-aws": AWS,
    "dockerfile": {},
}


FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "kuberay.yaml": ("kuberay", KUBERAY),
    "kuberay-job.yaml": (
        "kuberay",
        KUBERAY
        | {
            "lifetime": "job",
            "worker_labels": {"example.com/gpu": "l4"},
            "storage_class": "nfs",
            "token_secret": "key",
        },
    ),
    "slurm.sh": ("slurm", SLURM),
    "slurm-everything.sh": ("slurm", SLURM | EVERYTHING),
    "ray-up.yaml": ("ray-up", SSH),
    "ray-up-aws.yaml": ("ray-up-aws", AWS | {"worker_profile": "results"}),
    "Dockerfile": ("dockerfile", {}),
    "Dockerfile-wheel": ("dockerfile", {"wheel": "dist/lagvae-0.1.0-py3-none-any.whl", "torch": "torch==2.9.0"}),
}


@pytest.mark.parametrize("name", FILES)
def test_the_text_equals_the_golden_file(name):
    assert render(*FILES[name]) == (GOLDEN / name).read_text(encoding="utf-8")


def test_every_target_and_golden_file_is_compared():
    assert {file.name for file in GOLDEN.iterdir()} == set(FILES)
    assert {target for target, _ in FILES.values()} == set(TARGETS)


def test_the_version_of_ray_is_that_required_by_the_project():
    assert ray.__version__ == RAY_VERSION
    required = [line for line in requires("lagvae") or [] if line.startswith("ray[")]
    assert all(f">={RAY_VERSION.rpartition('.')[0]}" in line for line in required)


# --- Kubernetes -----------------------------------------------------------------------------------------------------


def manifests(**changes: Any) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(render("kuberay", KUBERAY | changes)))


def pods(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the pod specs anywhere in a manifest."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from pods(part)


@pytest.mark.parametrize("changes", [{}, {"worker_gpus": 0}, FILES["kuberay-job.yaml"][1]])
def test_manifests_are_valid_for_kubernetes_and_kuberay(changes):
    version = kubernetes_validate.latest_version()
    claim, *resources = manifests(**changes)
    kubernetes_validate.validate(claim, version, strict=True)
    for resource in resources:
        jsonschema.validate(resource, {"RayCluster": RAY_CLUSTER, "RayJob": RAY_JOB}[resource["kind"]])
        specs = list(pods(resource))
        assert specs
        for spec in specs:
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": spec}
            kubernetes_validate.validate(pod, version, strict=True)


def test_every_container_has_restricted_rights_and_limits():
    for changes in ({}, {"lifetime": "job"}):
        for pod in pods(manifests(**changes)):
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in pod["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
                assert container["resources"]["limits"] == container["resources"]["requests"]
                assert {"cpu", "memory"} <= container["resources"]["limits"].keys()


def test_the_driver_and_the_submitter_use_no_gpu():
    _, cluster, job = manifests()
    head = cluster["spec"]["headGroupSpec"]
    assert (head["rayStartParams"]["num-cpus"], head["rayStartParams"]["num-gpus"]) == ("0", "0")
    assert not {"entrypointNumCpus", "entrypointNumGpus", "entrypointResources"} & job["spec"].keys()
    gpus = [pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for pod in pods([cluster, job])]
    assert gpus == [None, "1", None]


def test_the_job_requests_as_many_runs_as_the_cluster_can_grow_to():
    def command(**changes):
        return manifests(**changes)[-1]["spec"]["entrypoint"].split()

    assert "--set=resources.concurrent=4" in command()
    assert "--set=resources.concurrent=16" in command(max_workers=8, worker_gpus=2)
    assert "--set=resources.concurrent=8" in command(max_workers=8, worker_gpus=0)
    assert "--set=resources.concurrent=40" in command(max_workers=8, concurrent=40)
    [first, second] = [word for word in command(overrides=["resources.concurrent=7"]) if "concurrent" in word]
    assert (first, second) == ("--set=resources.concurrent=4", "--set=resources.concurrent=7"), "the last one counts"


def test_job_cluster_and_claim_refer_to_each_other():
    claim, cluster, job = manifests(name="mine", namespace="vae")
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert {resource["metadata"]["namespace"] for resource in (claim, cluster, job)} == {"vae"}
    claims = {
        volume["persistentVolumeClaim"]["claimName"] for pod in pods(cluster) for volume in pod.get("volumes", [])
    }
    assert claims == {claim["metadata"]["name"]}
    assert cluster["spec"]["authOptions"] == {"mode": "token"}


# --- `ray up` and Docker --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["ray-up", "ray-up-aws"])
def test_ray_accepts_the_config(target):
    prepared = prepare_config(yaml.safe_load(render(target, MINIMAL[target])))
    validate_config(prepared)
    assert prepared["max_workers"] == (2 if target == "ray-up" else 4)


def test_ray_creates_no_security_group():
    """A group created by Ray would open port 22 to the world."""
    config = yaml.safe_load(render("ray-up-aws", AWS))
    assert _configure_security_group(copy.deepcopy(config)) == config
    groups = [kind["node_config"]["SecurityGroupIds"] for kind in config["available_node_types"].values()]
    assert groups == [[AWS["security_group"]]] * 2


@pytest.mark.parametrize("target", ["ray-up", "ray-up-aws"])
def test_every_start_of_ray_requires_the_token(target):
    config = yaml.safe_load(render(target, MINIMAL[target]))
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    for command in starts:
        assert 'RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.lagvae/ray_token"' in command
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"]["~/.lagvae/ray_token"] == "~/.lagvae/ray_token"


def test_bash_accepts_the_commands_of_the_launcher():
    for target in ("ray-up", "ray-up-aws"):
        config = yaml.safe_load(render(target, MINIMAL[target]))
        for key in [key for key in config if key.endswith("_commands")]:
            for command in config[key]:
                assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0, command


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile-wheel"])
def test_the_image_runs_as_an_unprivileged_user(name):
    lines = render(*FILES[name]).splitlines()
    instructions = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    assert instructions[0][0] == "FROM"
    users = [rest for word, rest in instructions if word == "USER"]
    assert users == ["1000:1000"]
    assert [word for word, _ in instructions][-3:] == ["USER", "WORKDIR", "CMD"]
    for word, rest in instructions:
        if word in ("RUN", "COPY", "CMD"):
            assert all(isinstance(part, str) for part in json.loads(rest)), (
                "not in list form, so a shell would interpret it"
            )
    assert any(f"ray[default,tune]=={RAY_VERSION}" in rest for _, rest in instructions)


# --- hostile values -------------------------------------------------------------------------------------------------


def with_text(target: str, name: str, text: str) -> dict[str, Any]:
    """Return the minimal values of a target, with `text` in the field `name`, which may be a list or a mapping."""
    field = TARGETS[target].config.model_fields[name]
    shape = str(field.annotation)
    value: Any = text
    if shape.startswith("tuple"):
        value = [text]
    elif shape.startswith("dict"):
        value = {"key": text}
    values = MINIMAL[target] | {name: value}
    if target.startswith("ray-up") and name == "wheel":
        values["package"] = None
    return values


def text_fields() -> list[tuple[str, str]]:
    """Return target and name of every field that contains text."""
    return [
        (target, name)
        for target, kind in TARGETS.items()
        for name, field in kind.config.model_fields.items()
        if "str" in str(field.annotation)
    ]


def leaves(value: Any) -> Any:
    """Return the data with every leaf replaced by its type."""
    if isinstance(value, dict):
        return {key: leaves(part) for key, part in value.items()}
    return [leaves(part) for part in value] if isinstance(value, list) else type(value).__name__


@pytest.mark.parametrize(("target", "name"), text_fields())
def test_a_hostile_value_is_refused_or_remains_one_value(target, name):
    plain = next(
        value
        for value in ("plain", "10.0.0.9", "1Gi", "10.0.0.0/8", "/plain", "job", "x.whl", AWS["security_group"])
        if is_accepted(target, name, value)
    )
    before = render(target, with_text(target, name, plain))
    for text in HOSTILE:
        if not is_accepted(target, name, text):
            continue
        after = render(target, with_text(target, name, text))
        if target == "dockerfile":
            assert len(after.splitlines()) == len(before.splitlines())
        elif target == "slurm":
            assert_same_commands(before, after)
        else:
            assert leaves(list(yaml.safe_load_all(after))) == leaves(list(yaml.safe_load_all(before))), text


def is_accepted(target: str, name: str, text: str) -> bool:
    """Return whether the field accepts the text."""
    try:
        render(target, with_text(target, name, text))
    except ValidationError as error:
        fields = {detail["loc"][0] for detail in error.errors()}
        if not fields <= {name, "package", "wheel"}:
            raise
        return False
    return True


def assert_same_commands(before: str, after: str) -> None:
    """Check that the scripts differ only in assignments and directives with one value each."""
    assert len(before.splitlines()) == len(after.splitlines())
    for old, new in zip(before.splitlines(), after.splitlines(), strict=True):
        if old != new and not new.startswith("#SBATCH "):
            assert len(shlex.split(old, comments=True)) == len(shlex.split(new, comments=True)), new
        elif old != new:
            assert len(new.split()) == 2, new


def test_hostile_text_remains_one_word_of_a_command_of_the_launcher():
    for text in HOSTILE:
        if is_accepted("ray-up", "torch_index", text):
            config = yaml.safe_load(render("ray-up", SSH | {"torch_index": text}))
            words = shlex.split(config["setup_commands"][1])
            assert words[-2:] == ["--index-url", text]


# --- configs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_every_field_has_a_description(target):
    kind = TARGETS[target].config
    assert kind.summary
    assert kind.usage
    for name, field in kind.model_fields.items():
        assert field.description, name
    with pytest.raises(ValidationError, match="frozen"):
        kind.model_validate(MINIMAL[target]).model_config_ = 1


@pytest.mark.parametrize(
    ("target", "changes", "field"),
    [
        ("slurm", {"grace": 600, "hours": 0.1}, "grace"),
        ("slurm", {"local_folder": "/a/very/long/path/of/a/node"}, "local_folder"),
        ("kuberay", {"min_workers": 5, "max_workers": 4}, "max_workers"),
        ("kuberay", {"object_store": "8Gi"}, "object_store"),
        ("kuberay", {"name": "x" * 41}, "name"),
        ("kuberay", {"namespace": "Upper"}, "namespace"),
        ("kuberay", {"worker_labels": {"no key": "x"}}, "worker_labels"),
        ("ray-up", {"worker_ips": []}, "worker_ips"),
        ("ray-up", {"wheel": "x.whl"}, "wheel"),
        ("ray-up-aws", {"package": None}, "wheel"),
        ("ray-up", {"package": None}, "wheel"),
        ("ray-up-aws", {"min_workers": 9}, "max_workers"),
        ("ray-up-aws", {"security_group": "default"}, "security_group"),
        ("dockerfile", {"wheel": "../x.whl"}, "wheel"),
        ("dockerfile", {"wheel": "x.whl", "package": "lagvae"}, "package"),
    ],
)
def test_invalid_values_are_refused_at_their_field(target, changes, field):
    with pytest.raises(ValidationError) as caught:
        render(target, MINIMAL[target] | changes)
    assert [detail["loc"][0] for detail in caught.value.errors()] == [field]
