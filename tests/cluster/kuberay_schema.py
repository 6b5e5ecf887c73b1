"""JSON schemas of KubeRay's custom resources, limited to the fields that our manifests use.

Names, types and constraints are those of ray.io/v1 (KubeRay 1.6). Pods are checked by the schemas of Kubernetes. A
field that is not listed here is an error, because the API server drops or refuses it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["RAY_CLUSTER", "RAY_JOB"]


def _closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
POD = {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
START = {**TEXTS, "propertyNames": {"enum": ["num-cpus", "num-gpus", "dashboard-host", "object-store-memory"]}}
TEMPLATE = _closed(["spec"], metadata=POD, spec=POD)

AUTOSCALER = _closed(
    [],
    idleTimeoutSeconds=COUNT,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    resources=POD,
    securityContext=POD,
    version={"enum": ["v1", "v2"]},
)

CLUSTER_SPEC = _closed(
    ["headGroupSpec"],
    rayVersion=TEXT,
    authOptions=_closed([], mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=AUTOSCALER,
    headGroupSpec=_closed(
        ["template"],
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        rayStartParams=START,
        template=TEMPLATE,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": _closed(
            ["groupName", "minReplicas", "maxReplicas", "template"],
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=START,
            template=TEMPLATE,
        ),
    },
)

JOB_SPEC = {
    **_closed(
        ["entrypoint"],
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        clusterSelector=TEXTS,
        rayClusterSpec=CLUSTER_SPEC,
        backoffLimit=COUNT,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        submitterPodTemplate=TEMPLATE,
    ),
    "oneOf": [
        # The operator does not allow a job to stop or retry a cluster that it only selects.
        {
            "required": ["clusterSelector"],
            "not": {"anyOf": [{"required": ["backoffLimit"]}, {"required": ["shutdownAfterJobFinishes"]}]},
        },
        {"required": ["rayClusterSpec"]},
    ],
}


def _resource(kind: str, longest_name: int, spec: dict[str, Any]) -> dict[str, Any]:
    name = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": longest_name}
    return _closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=_closed(["name"], name=name, namespace=name | {"maxLength": 63}, labels=TEXTS),
        spec=spec,
    )


RAY_CLUSTER = _resource("RayCluster", 53, CLUSTER_SPEC)
RAY_JOB = _resource("RayJob", 47, JOB_SPEC)
