"""Configurations of Ray's cluster launcher, `ray up`: machines behind SSH, and one cloud."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import Field, ValidationInfo, field_validator

from cluster.launch.validators import (
    HEADER,
    RAY_VERSION,
    Bytes,
    FreeText,
    Host,
    Launch,
    Name,
    Package,
    Path,
    SecurityGroup,
    Wheel,
    at_least,
    quantity,
)

__all__ = ["AwsLaunch", "RayUpLaunch", "SshLaunch", "ray_up_config"]

TOKEN = "~/.lagvae/ray_token"
"""Where the token lies on every node; ~/.ray/auth_token there may be another cluster's."""

VENV = "~/.lagvae/venv"

PORT = 6379


class RayUpLaunch(Launch):
    """What both kinds of `ray up` need."""

    usage: ClassVar[str] = "(umask 077; openssl rand -hex 32 > TOKEN_FILE), then ray up FILE, then ray down FILE"

    cluster_name: Annotated[Name, Field(description="name of the cluster")] = "lagvae"
    ssh_user: Annotated[Name, Field(description="user on every machine")] = "ubuntu"
    token_file: Annotated[
        Path, Field(description="file of this machine that holds the token, readable by you alone")
    ] = "~/.lagvae/ray_token"
    package: Annotated[Package | None, Field(description="what pip installs, if your index has lagvae")] = None
    wheel: Annotated[Wheel | None, Field(description="or a wheel of this machine, of `pip wheel --no-deps .`")] = None
    python: Annotated[Name, Field(description="Python of every machine, 3.11 or later")] = "python3"
    torch_index: Annotated[
        FreeText | None, Field(description="index that pip takes torch from; its own if not given")
    ] = None
    object_store: Annotated[Bytes, Field(description="shared memory of Ray on each node")] = "512Mi"

    @field_validator("wheel")
    @classmethod
    def _one_source(cls, wheel: str | None, info: ValidationInfo) -> str | None:
        if "package" in info.data and (info.data["package"] is None) == (wheel is None):
            raise ValueError("be given, or `package`, and not both")
        return wheel


class SshLaunch(RayUpLaunch):
    """Machines that are there already and answer to SSH."""

    summary: ClassVar[str] = "A `ray up` file for machines behind SSH."
    # `ray down` looks for a `ray` that is on the PATH of a bare shell.
    usage: ClassVar[str] = (
        "(umask 077; openssl rand -hex 32 > TOKEN_FILE), then ray up FILE; to end it, "
        f"ray exec FILE '{VENV}/bin/ray stop'"
    )

    head_ip: Annotated[Host, Field(description="the machine that runs head and driver")]
    worker_ips: Annotated[tuple[Host, ...], Field(min_length=1, description="the machines that run trials")]
    ssh_private_key: Annotated[
        Path, Field(description="key for every machine; `ray up` copies it to the head, so make one for this purpose")
    ]


class AwsLaunch(RayUpLaunch):
    """A head of Amazon EC2 that stays, and spot GPU workers that come and go with the work."""

    summary: ClassVar[str] = "A `ray up` file for Amazon EC2 with spot GPU workers."

    security_group: Annotated[
        SecurityGroup, Field(description="id of a group that lets in its own members, and you alone to port 22")
    ]
    region: Annotated[Name, Field(description="region")] = "us-east-1"
    head_type: Annotated[Name, Field(description="instance type of the head, which runs no trial")] = "m6i.large"
    worker_type: Annotated[Name, Field(description="instance type of a worker")] = "g5.xlarge"
    spot: Annotated[bool, Field(description="whether workers are spot instances, cheaper and now and then lost")] = True
    min_workers: Annotated[int, Field(ge=0, le=1000, description="workers that never go")] = 0
    max_workers: Annotated[int, Field(ge=1, le=1000, description="workers at most")] = 4
    idle_minutes: Annotated[int, Field(ge=1, le=1440, description="minutes without work after which one goes")] = 5
    disk_gib: Annotated[int, Field(ge=50, le=16_384, description="disk of each machine in GiB")] = 150
    image: Annotated[
        Name | None, Field(description="machine image of all, with NVIDIA's driver; Ray's choice if not given")
    ] = None
    head_profile: Annotated[
        Name | None,
        Field(description="IAM instance profile that may start workers and use the results; Ray's own if not given"),
    ] = None
    worker_profile: Annotated[
        Name | None, Field(description="IAM instance profile of workers, for the results alone; none if not given")
    ] = None

    @field_validator("max_workers")
    @classmethod
    def _holds_all(cls, most: int, info: ValidationInfo) -> int:
        return at_least(most, info.data.get("min_workers", 0), "min_workers")


def ray_up_config(launch: SshLaunch | AwsLaunch) -> str:
    """The YAML text. Values are data of it; in its commands they are quoted."""
    machines = _ssh(launch) if isinstance(launch, SshLaunch) else _aws(launch)
    target = "ray-up" if isinstance(launch, SshLaunch) else "ray-up-aws"
    mounts = {TOKEN: launch.token_file}
    if launch.wheel is not None:
        mounts[_remote_wheel(launch.wheel)] = launch.wheel
    config = {
        "cluster_name": launch.cluster_name,
        **machines,
        "file_mounts": mounts,
        # A token or a key is synchronised once, by `ray up`, and never watched.
        "file_mounts_sync_continuously": False,
        "initialization_commands": [f"chmod 700 ~/.lagvae && chmod 600 {TOKEN}"],
        "setup_commands": _setup(launch),
        "head_start_ray_commands": _start(
            launch,
            f"--head --port={PORT} --dashboard-host=127.0.0.1 --num-cpus=0 --num-gpus=0 "
            "--autoscaling-config=~/ray_bootstrap_config.yaml",
        ),
        "worker_start_ray_commands": _start(launch, f"--address=$RAY_HEAD_IP:{PORT}"),
    }
    dumped = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=1000)
    return f"# {launch.summary} {HEADER.format(target=target)}\n# {launch.usage}\n{dumped}"


def _remote_wheel(wheel: str) -> str:
    """pip reads name and version of a wheel from its file's name, so that this stays."""
    return f"~/.lagvae/{wheel.rpartition('/')[2]}"


def _setup(launch: RayUpLaunch) -> list[str]:
    pip = f"{VENV}/bin/python -m pip install --quiet"
    if launch.wheel is not None:
        what = _remote_wheel(launch.wheel)  # its law leaves nothing to quote
    else:
        what = shlex.quote(launch.package or "")
    commands = [f"test -x {VENV}/bin/python || {shlex.quote(launch.python)} -m venv {VENV}"]
    if launch.torch_index is not None:
        commands.append(f"{pip} torch --index-url {shlex.quote(launch.torch_index)}")
    cloud = " boto3" if isinstance(launch, AwsLaunch) else ""
    commands.append(f"{pip} {shlex.quote(f'ray[default,tune]=={RAY_VERSION}')} {what}{cloud}")
    return commands


def _start(launch: RayUpLaunch, options: str) -> list[str]:
    # Jobs start `python`, which must be that of Ray.
    path = f'export PATH="$HOME{VENV[1:]}/bin:$PATH"'
    environment = f'{path} RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME{TOKEN[1:]}" RAY_USAGE_STATS_ENABLED=0'
    if isinstance(launch, SshLaunch):
        # The second autoscaler, which `ray up` would choose, never starts a worker of a list of machines (ray 57153).
        environment += " RAY_enable_autoscaler_v2=0"
    shared = f"--object-store-memory={quantity(launch.object_store)}"
    return [
        f"{VENV}/bin/ray stop",
        f"ulimit -n 65536 2>/dev/null; {environment}; {VENV}/bin/ray start {options} {shared}",
    ]


def _ssh(launch: SshLaunch) -> dict[str, Any]:
    workers = len(launch.worker_ips)
    return {
        "provider": {"type": "local", "head_ip": launch.head_ip, "worker_ips": list(launch.worker_ips)},
        "auth": {"ssh_user": launch.ssh_user, "ssh_private_key": launch.ssh_private_key},
        "min_workers": workers,
        "max_workers": workers,
    }


def _aws(launch: AwsLaunch) -> dict[str, Any]:
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}} if launch.spot else {}
    return {
        "max_workers": launch.max_workers,
        "idle_timeout_minutes": launch.idle_minutes,
        "provider": {
            "type": "aws",
            "region": launch.region,
            "cache_stopped_nodes": False,
        },
        "auth": {"ssh_user": launch.ssh_user},
        "head_node_type": "head",
        "available_node_types": {
            "head": {
                "resources": {"CPU": 0},
                "min_workers": 0,
                "max_workers": 0,
                "node_config": _machine(launch, launch.head_type, launch.head_profile),
            },
            "worker": {
                "resources": {},
                "min_workers": launch.min_workers,
                "max_workers": launch.max_workers,
                "node_config": {**_machine(launch, launch.worker_type, launch.worker_profile), **spot},
            },
        },
    }


def _machine(launch: AwsLaunch, kind: str, profile: str | None) -> dict[str, Any]:
    disk = {"VolumeSize": launch.disk_gib, "VolumeType": "gp3", "Encrypted": True}
    machine: dict[str, Any] = {
        "InstanceType": kind,
        # To a group of its own making Ray lets in the whole world at port 22, whatever rules are added to it.
        "SecurityGroupIds": [launch.security_group],
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": disk}],
        # The address that hands out the machine's credentials answers to tokens alone.
        "MetadataOptions": {"HttpTokens": "required"},
    }
    if launch.image is not None:
        machine["ImageId"] = launch.image
    if profile is not None:
        machine["IamInstanceProfile"] = {"Name": profile}
    return machine
