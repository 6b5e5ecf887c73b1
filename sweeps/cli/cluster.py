"""`lagvae cluster`: print launch files, check the nodes of a cluster, and wait for nodes to join."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.jobs import check

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from cluster.launch.validators import Launch

__all__ = ["cluster_app"]

cluster_app = typer.Typer(
    help="Print launch files for a Ray cluster, check its nodes, or wait for them.", no_args_is_help=True
)
cluster_app.command()(check)


@cluster_app.command(
    epilog="If the file has required fields and neither --set nor --out is given, the fields are listed instead."
)
def render(
    target: Annotated[str, typer.Argument(help="Kind of file: kuberay, slurm, ray-up, ray-up-aws or dockerfile.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a field of the file: nodes=4. Repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to this file instead of stdout.")] = None,
    fields: Annotated[
        bool, typer.Option("--fields", help="List the fields of the file instead of printing the file.")
    ] = False,
) -> None:
    """Print a launch file for KubeRay, Slurm or `ray up` (over SSH or on AWS), or the Dockerfile of the nodes."""
    from pydantic import ValidationError

    from cluster.render import TARGETS
    from cluster.render import render as render_text
    from lagvae_core.errors import ConfigError, ValidationIssue, did_you_mean
    from sweeps.spec.arm_syntax import parse_sets

    if target not in TARGETS:
        message = f"must be one of {', '.join(TARGETS)}"
        raise ConfigError([ValidationIssue("TARGET", message, did_you_mean(target, TARGETS), target)])
    config = TARGETS[target].config
    has_required = any(field.is_required() for field in config.model_fields.values())
    if fields or (has_required and not sets and out is None):
        _print_fields(target, config)
        return
    try:
        text = render_text(target, parse_sets(sets))
    except ValidationError as error:
        from lagvae_core.config.validation import issues_of  # knows the strategies, which import torch

        raise ConfigError(issues_of(error, config), f"lagvae cluster render {target}") from None
    if out is None:
        print(text, end="")
    else:
        from sweeps.cli.terminal import write_file

        write_file("--out", out, text.encode())


def _print_fields(target: str, config: type[Launch]) -> None:
    """Print the fields of a launch file with their constraints, defaults and meanings."""
    from lagvae_core.settings import describe_constraints
    from sweeps.cli.terminal import console_of_stdout, rich_table

    table = rich_table("field", "constraints", "default", "meaning")
    for name, field in config.model_fields.items():
        table.add_row(name, ", ".join(describe_constraints(field.metadata)), _default(field), field.description)
    console = console_of_stdout()
    console.print(f"{config.summary} Then: {config.usage}\n")
    console.print(table)
    required = [name for name, field in config.model_fields.items() if field.is_required()]
    example = " ".join(f"--set {name}=..." for name in required) or "--out FILE"
    console.print(f"\nlagvae cluster render {target} {example}")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    return "empty" if value in ((), {}) else str(value)


@cluster_app.command()
def wait(
    address: Annotated[str, typer.Argument(help="Address of the Ray cluster: `auto` or HOST:PORT.")],
    nodes: Annotated[int, typer.Option(min=1, help="Number of nodes to wait for.")] = 1,
    seconds: Annotated[float, typer.Option(min=0, help="Maximum time to wait [s].")] = 600.0,
) -> None:
    """Wait until a cluster responds and enough nodes have joined."""
    from cluster.nodes import wait_for_nodes

    joined = wait_for_nodes(address, nodes, seconds)
    print(f"{joined} node{'' if joined == 1 else 's'} at {address}", file=sys.stderr)
