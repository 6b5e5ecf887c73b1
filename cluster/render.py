"""Launch files as pure text: from frozen settings to what KubeRay, Slurm, `ray up` or Docker reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.launch.docker import DockerImage, dockerfile
from cluster.launch.kuberay import KubeRayLaunch, kuberay_manifests
from cluster.launch.ray_up import AwsLaunch, SshLaunch, ray_up_config
from cluster.launch.slurm import SlurmLaunch, slurm_script
from cluster.launch.validators import Launch

__all__ = ["TARGETS", "LaunchTarget", "render"]


@dataclass(frozen=True)
class LaunchTarget:
    """A kind of launch file: its settings, and the pure function from them to its text."""

    settings: type[Launch]
    text: Callable[[Any], str]


TARGETS: Mapping[str, LaunchTarget] = {
    "kuberay": LaunchTarget(KubeRayLaunch, kuberay_manifests),
    "slurm": LaunchTarget(SlurmLaunch, slurm_script),
    "ray-up": LaunchTarget(SshLaunch, ray_up_config),
    "ray-up-aws": LaunchTarget(AwsLaunch, ray_up_config),
    "dockerfile": LaunchTarget(DockerImage, dockerfile),
}


def render(target: str, values: Mapping[str, Any]) -> str:
    """The text of a launch file.

    Raises:
        KeyError: there is no such target.
        pydantic.ValidationError: `values` break laws of the target's settings; all of them are told.
    """
    kind = TARGETS[target]
    return kind.text(kind.settings.model_validate(dict(values)))
