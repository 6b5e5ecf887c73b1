"""Config files of Ray's cluster launcher, `ray up`, for machines behind SSH and for Amazon EC2."""

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
"""Path of the token on every node. It is not ~/.ray/auth_token, which may belong to another cluster."""

VENV = "~/.lagvae/venv"

PORT = 6379


class RayUpLaunch(Launch):
    """Fields that both kinds of `ray up` files share."""

    usage: ClassVar[str] = "(umask 077; openssl rand -hex 32 > TOKEN_FILE), then ray up FILE, then ray down FILE"

    cluster_name: Annotated[Name, Field(description="name of the cluster")] = "lagvae"
    ssh_user: Annotated[Name, Field(description="SSH user on every machine")] = "ubuntu"
    token_file: Annotated[Path, Field(description="local file with the token, readable only by you")] = (
        "~/.lagvae/ray_token"
    )
    package: Annotated[
        Package | None, Field(description="package that pip installs, if your package index contains lagvae")
    ] = None
    wheel: Annotated[Wheel | None, Field(description="local wheel of lagvae, built with `pip wheel --no-deps .`")] = (
        None
    )
    python: Annotated[Name, Field(description="Python interpreter on every machine, 3.11 or later")] = "python3"
    torch_index: Annotated[
        FreeText | None, Field(description="package index for torch; by default the index of pip")
    ] = None
    object_store: Annotated[Bytes, Field(description="size of Ray's object store on each node")] = "512Mi"

    @field_validator("wheel")
    @classmethod
    def _one_source(cls, wheel: str | None, info: ValidationInfo) -> str | None:
        if "package" in info.data and (info.data["package"] is None) == (wheel is None):
            raise ValueError("must be set if `package` is not set, and omitted if `package` is set")
        return wheel


class SshLaunch(RayUpLaunch):
    """Existing machines that are reachable by SSH."""

    summary: ClassVar[str] = "A `ray up` file for machines behind SSH."
    # `ray down` would run the `ray` on the PATH of a non-interactive shell, and VENV is not on that PATH.
    usage: ClassVar[str] = (
        "(umask 077; openssl rand -hex 32 > TOKEN_FILE), then ray up FILE; to end the cluster, "
        f"ray exec FILE '{VENV}/bin/ray stop'"
    )

    head_ip: Annotated[Host, Field(description="machine that runs the head and the driver")]
    worker_ips: Annotated[tuple[Host, ...], Field(min_length=1, description="machines that run trials")]
    ssh_private_key: Annotated[
        Path,
        Field(description="SSH key for every machine; `ray up` copies it to the head, so create a separate key"),
    ]


class AwsLaunch(RayUpLaunch):
    """A permanent head on Amazon EC2, and spot GPU workers that are started and stopped on demand."""

    summary: ClassVar[str] = "A `ray up` file for Amazon EC2 with spot GPU workers."

    security_group: Annotated[
        SecurityGroup,
        Field(
            description="id of a security group that admits all traffic between its members, and only you to port 22"
        ),
    ]
    region: Annotated[Name, Field(description="AWS region")] = "us-east-1"
    head_type: Annotated[Name, Field(description="instance type of the head, which runs no trials")] = "m6i.large"
    worker_type: Annotated[Name, Field(description="instance type of the workers")] = "g5.xlarge"
    spot: Annotated[
        bool, Field(description="whether workers are spot instances, which are cheaper but can be reclaimed")
    ] = True
    min_workers: Annotated[int, Field(ge=0, le=1000, description="minimum number of workers")] = 0
    max_workers: Annotated[int, Field(ge=1, le=1000, description="maximum number of workers")] = 4
    idle_minutes: Annotated[
        int, Field(ge=1, le=1440, description="idle time after which a worker is stopped [min]")
    ] = 5
    disk_gib: Annotated[int, Field(ge=50, le=16_384, description="disk size of each machine [GiB]")] = 150
    image: Annotated[
        Name | None, Field(description="machine image with the NVIDIA driver; by default Ray chooses the image")
    ] = None
    head_profile: Annotated[
        Name | None,
        Field(
            description="IAM instance profile for the head to start workers and access results; by default Ray's own"
        ),
    ] = None
    worker_profile: Annotated[
        Name | None, Field(description="IAM instance profile for the workers to access results; by default none")
    ] = None

    @field_validator("max_workers")
    @classmethod
    def _holds_all(cls, most: int, info: ValidationInfo) -> int:
        return at_least(most, info.data.get("min_workers", 0), "min_workers")


def ray_up_config(launch: SshLaunch | AwsLaunch) -> str:
    """Return the YAML text of the config file. Values inside shell commands are quoted."""
    machines = _ssh(launch) if isinstance(launch, SshLaunch) else _aws(launch)
    target = "ray-up" if isinstance(launch, SshLaunch) else "ray-up-aws"
    mounts = {TOKEN: launch.token_file}
    if launch.wheel is not None:
        mounts[_remote_wheel(launch.wheel)] = launch.wheel
    config = {
        "cluster_name": launch.cluster_name,
        **machines,
        "file_mounts": mounts,
        # `ray up` copies the token and the key once; they are not synchronised later.
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
    """Return the path of the wheel on every node. Its file name is kept, because pip reads name and version from it."""
    return f"~/.lagvae/{wheel.rpartition('/')[2]}"


def _setup(launch: RayUpLaunch) -> list[str]:
    pip = f"{VENV}/bin/python -m pip install --quiet"
    if launch.wheel is not None:
        what = _remote_wheel(launch.wheel)  # needs no quoting, because its type `Wheel` allows no special characters
    else:
        what = shlex.quote(launch.package or "")
    commands = [f"test -x {VENV}/bin/python || {shlex.quote(launch.python)} -m venv {VENV}"]
    if launch.torch_index is not None:
        commands.append(f"{pip} torch --index-url {shlex.quote(launch.torch_index)}")
    cloud = " boto3" if isinstance(launch, AwsLaunch) else ""
    commands.append(f"{pip} {shlex.quote(f'ray[default,tune]=={RAY_VERSION}')} {what}{cloud}")
    return commands


def _start(launch: RayUpLaunch, options: str) -> list[str]:
    # Jobs call `python`, which must be the interpreter that Ray runs in.
    path = f'export PATH="$HOME{VENV[1:]}/bin:$PATH"'
    environment = f'{path} RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME{TOKEN[1:]}" RAY_USAGE_STATS_ENABLED=0'
    if isinstance(launch, SshLaunch):
        # Autoscaler v2, the default of `ray up`, never starts workers from a list of machines (ray issue 57153).
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
        # Without this field, Ray would create a security group that opens port 22 to the world.
        "SecurityGroupIds": [launch.security_group],
        "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": disk}],
        # The instance metadata service, which provides credentials, must require a session token.
        "MetadataOptions": {"HttpTokens": "required"},
    }
    if launch.image is not None:
        machine["ImageId"] = launch.image
    if profile is not None:
        machine["IamInstanceProfile"] = {"Name": profile}
    return machine
