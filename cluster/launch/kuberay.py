"""Manifests for KubeRay: a volume claim for the results, a RayCluster, and a RayJob that runs the sweep.

The manifests use the API ray.io/v1 of KubeRay 1.6. KubeRay inserts a job's entrypoint unquoted into a shell command
line, so every value in it is `ShellSafe`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator

from cluster.launch.validators import (
    HEADER,
    RAY_VERSION,
    Bytes,
    DnsLabel,
    ImageName,
    Labels,
    Launch,
    ShellSafe,
    Words,
    at_least,
    quantity,
)

__all__ = ["KubeRayLaunch", "kuberay_manifests"]

RESULTS = "/results"

USER = 1000
"""User id in the image that `lagvae cluster render dockerfile` describes."""


class KubeRayLaunch(Launch):
    """A sweep on a Kubernetes cluster with the KubeRay operator."""

    summary: ClassVar[str] = "Manifests for KubeRay: volume claim for the results, RayCluster and RayJob."
    usage: ClassVar[str] = "kubectl apply -f FILE"

    image: Annotated[ImageName, Field(description="container image of every node, built from the rendered Dockerfile")]
    spec: Annotated[ShellSafe, Field(description="name of a shipped sweep, or path of a sweep file inside /results")]
    overrides: Annotated[
        Words, Field(description="overrides of the sweep file, each as KEY=VALUE, like `lagvae run --set`")
    ] = ()
    name: Annotated[DnsLabel, Field(description="name of the cluster and the job")] = "lagvae"
    namespace: Annotated[DnsLabel, Field(description="Kubernetes namespace, which must exist")] = "default"
    lifetime: Annotated[
        Literal["standing", "job"],
        Field(
            description="lifetime of the cluster: standing (remains for further sweeps) or job (ends with this sweep)"
        ),
    ] = "standing"
    retries: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description="with lifetime=job: maximum number of new clusters that are started after the job fails",
        ),
    ] = 3
    min_workers: Annotated[int, Field(ge=0, le=10_000, description="minimum number of workers")] = 0
    max_workers: Annotated[int, Field(ge=1, le=10_000, description="maximum number of workers")] = 4
    concurrent: Annotated[
        int | None,
        Field(
            ge=1,
            le=100_000,
            description="maximum number of concurrent runs; by default one per GPU, or one per worker without GPUs",
        ),
    ] = None
    idle_seconds: Annotated[
        int, Field(ge=10, le=86_400, description="idle time after which a worker is removed [s]")
    ] = 300
    worker_cpus: Annotated[int, Field(ge=1, le=1024, description="cores per worker")] = 8
    worker_gpus: Annotated[int, Field(ge=0, le=64, description="GPUs per worker")] = 1
    worker_memory: Annotated[Bytes, Field(description="memory per worker")] = "32Gi"
    worker_labels: Annotated[Labels, Field(default_factory=dict, description="node selector of the workers")]
    head_cpus: Annotated[int, Field(ge=1, le=1024, description="cores of the head, which runs only the driver")] = 2
    head_memory: Annotated[Bytes, Field(description="memory of the head")] = "8Gi"
    object_store: Annotated[Bytes, Field(description="size of Ray's object store on each node")] = "512Mi"
    storage: Annotated[Bytes, Field(description="size of the volume claim for the results")] = "50Gi"
    storage_class: Annotated[
        DnsLabel | None, Field(description="storage class of the volume claim; must support ReadWriteMany")
    ] = None
    token_secret: Annotated[
        DnsLabel | None, Field(description="Secret with the key `auth_token`; by default the operator creates a Secret")
    ] = None

    @field_validator("max_workers")
    @classmethod
    def _holds_all(cls, most: int, info: ValidationInfo) -> int:
        return at_least(most, info.data.get("min_workers", 0), "min_workers")

    @field_validator("object_store")
    @classmethod
    def _fits(cls, store: str, info: ValidationInfo) -> str:
        for memory in ("head_memory", "worker_memory"):
            if memory in info.data and 2 * quantity(store) > quantity(info.data[memory]):
                raise ValueError(f"must not exceed half of `{memory}` ({info.data[memory]})")
        return store


def kuberay_manifests(launch: KubeRayLaunch) -> str:
    """Return the YAML text of all manifests, in the order of their creation."""
    if launch.lifetime == "standing":
        rest = [
            _object(launch, "ray.io/v1", "RayCluster", launch.name, _cluster(launch)),
            _object(launch, "ray.io/v1", "RayJob", launch.name, _job(launch)),
        ]
    else:
        rest = [_object(launch, "ray.io/v1", "RayJob", launch.name, _job(launch))]
    manifests = [_object(launch, "v1", "PersistentVolumeClaim", f"{launch.name}-results", _claim(launch)), *rest]
    dumped = yaml.safe_dump_all(manifests, sort_keys=False, width=1000)
    return f"# {launch.summary} {HEADER.format(target='kuberay')}\n# {launch.usage}\n{dumped}"


def _object(launch: KubeRayLaunch, version: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "lagvae", "app.kubernetes.io/instance": launch.name}
    metadata = {"name": name, "namespace": launch.namespace, "labels": labels}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _claim(launch: KubeRayLaunch) -> dict[str, Any]:
    storage_class = {} if launch.storage_class is None else {"storageClassName": launch.storage_class}
    size = {"requests": {"storage": launch.storage}}
    return {"accessModes": ["ReadWriteMany"], **storage_class, "resources": size}


def _job(launch: KubeRayLaunch) -> dict[str, Any]:
    # `auto` would count only workers that already exist, and the cluster grows only if more runs are started.
    concurrent = launch.concurrent or launch.max_workers * max(1, launch.worker_gpus)
    sets = [f"--set={item}" for item in (f"resources.concurrent={concurrent}", *launch.overrides)]
    entrypoint = " ".join(["lagvae", "run", "--address=auto", f"--results={RESULTS}", *sets, "--", launch.spec])
    if launch.lifetime == "standing":
        # KubeRay does not support retries of a job with a clusterSelector. To resume the sweep, delete the job and
        # apply it again.
        where: dict[str, Any] = {"clusterSelector": {"ray.io/cluster": launch.name}}
    else:
        where = {
            "rayClusterSpec": _cluster(launch),
            "backoffLimit": launch.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 600,
        }
    submitter = _container("ray-job-submitter", launch, _resources("500m", "1Gi", gpus=0))
    pod = {**_pod(submitter), "restartPolicy": "Never"}
    return {
        "submissionMode": "K8sJobMode",
        # An entrypoint that requests no resources runs on the head and occupies no GPU.
        "entrypoint": entrypoint,
        **where,
        "submitterPodTemplate": {"spec": pod},
    }


def _cluster(launch: KubeRayLaunch) -> dict[str, Any]:
    secret = {} if launch.token_secret is None else {"secretName": launch.token_secret}
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token", **secret},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {
            "idleTimeoutSeconds": launch.idle_seconds,
            "resources": _resources("500m", "512Mi", gpus=0),
            "securityContext": _confined(),
        },
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {
                "num-cpus": "0",
                "num-gpus": "0",
                "dashboard-host": "0.0.0.0",
                "object-store-memory": str(quantity(launch.object_store)),
            },
            "template": {"spec": _node(launch, "ray-head", launch.head_cpus, launch.head_memory, 0)},
        },
        "workerGroupSpecs": [_workers(launch)],
    }


def _workers(launch: KubeRayLaunch) -> dict[str, Any]:
    pod = _node(launch, "ray-worker", launch.worker_cpus, launch.worker_memory, launch.worker_gpus)
    if launch.worker_labels:
        pod["nodeSelector"] = dict(launch.worker_labels)
    if launch.worker_gpus:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return {
        "groupName": "gpu" if launch.worker_gpus else "cpu",
        "replicas": launch.min_workers,
        "minReplicas": launch.min_workers,
        "maxReplicas": launch.max_workers,
        "rayStartParams": {
            "num-cpus": str(launch.worker_cpus),
            "num-gpus": str(launch.worker_gpus),
            "object-store-memory": str(quantity(launch.object_store)),
        },
        "template": {"spec": pod},
    }


def _node(launch: KubeRayLaunch, name: str, cpus: int, memory: str, gpus: int) -> dict[str, Any]:
    container = _container(name, launch, _resources(str(cpus), memory, gpus))
    container["volumeMounts"] = [{"name": "results", "mountPath": RESULTS}]
    if name == "ray-head":
        ports = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
        container["ports"] = [{"name": port, "containerPort": number} for port, number in ports.items()]
    claim = {"claimName": f"{launch.name}-results"}
    return {**_pod(container), "volumes": [{"name": "results", "persistentVolumeClaim": claim}]}


def _pod(container: dict[str, Any]) -> dict[str, Any]:
    security = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {"securityContext": security, "containers": [container]}


def _container(name: str, launch: KubeRayLaunch, resources: dict[str, Any]) -> dict[str, Any]:
    environment = [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}]
    return {
        "name": name,
        "image": launch.image,
        "env": environment,
        "resources": resources,
        "securityContext": _confined(),
    }


def _confined() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _resources(cpus: str, memory: str, gpus: int) -> dict[str, Any]:
    """Return requests equal to the limits, so that no pod is evicted because another pod exceeds its request."""
    amounts = {"cpu": cpus, "memory": memory, **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    return {"requests": dict(amounts), "limits": dict(amounts)}
