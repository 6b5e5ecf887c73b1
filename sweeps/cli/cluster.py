"""`lagvae cluster`: launch files, and a running cluster's nodes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.jobs import check

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from cluster.launch.validators import Launch

__all__ = ["cluster_app"]

cluster_app = typer.Typer(help="Get a Ray cluster, and look at one.", no_args_is_help=True)
cluster_app.command()(check)


@cluster_app.command(
    epilog="Without --set, a target that needs values lists what can be set; with --fields, every target does."
)
def render(
    target: Annotated[str, typer.Argument(help="kuberay, slurm, ray-up, ray-up-aws or dockerfile.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A value of the file: nodes=4. Repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there instead of on stdout.")] = None,
    fields: Annotated[bool, typer.Option("--fields", help="List what can be set.")] = False,
) -> None:
    """Print a launch file: for KubeRay, Slurm, `ray up` over SSH or on AWS, or the Dockerfile of the nodes."""
    from pydantic import ValidationError

    from cluster.render import TARGETS
    from cluster.render import render as rendered
    from lagvae_core.config.validation import issues_of
    from lagvae_core.errors import ConfigError, ValidationIssue
    from sweeps.spec.arm_syntax import parse_sets

    if target not in TARGETS:
        hint = "For example `lagvae cluster render slurm`."
        raise ConfigError([ValidationIssue("TARGET", f"must be one of {', '.join(TARGETS)}", hint, target)])
    settings = TARGETS[target].settings
    needy = any(field.is_required() for field in settings.model_fields.values())
    if fields or (needy and not sets and out is None):
        list_fields(target, settings)
        return
    try:
        text = rendered(target, parse_sets(sets))
    except ValidationError as error:
        found = issues_of(error, settings)
        raise ConfigError(found, f"lagvae cluster render {target}") from None
    if out is None:
        print(text, end="")
    else:
        write(out, text)


def write(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` as a whole; ConfigError if it cannot be written."""
    from lagvae_core.errors import ConfigError, ValidationIssue
    from lagvae_core.files import write_atomically

    try:
        write_atomically(path, text.encode())
    except OSError as error:
        message = f"must be a file that can be written ({error.strerror})"
        raise ConfigError([ValidationIssue("--out", message, "Choose another.", str(path))]) from None


def list_fields(target: str, settings: type[Launch]) -> None:
    """What a launch file takes: each field with its law, default and meaning."""
    from rich.table import Table

    from sweeps.cli.terminal import console_of_stdout

    listing = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("field", "law", "default", "meaning"):
        listing.add_column(heading)
    for name, field in settings.model_fields.items():
        default = "needed" if field.is_required() else default_of(field)
        listing.add_row(name, ", ".join(laws_of(field)), default, field.description)
    console = console_of_stdout()
    console.print(f"{settings.summary} Then: {settings.usage}\n")
    console.print(listing)
    needed = [name for name, field in settings.model_fields.items() if field.is_required()]
    example = " ".join(f"--set {name}=..." for name in needed) or "--out FILE"
    console.print(f"\nlagvae cluster render {target} {example}")


def default_of(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    return "empty" if value in ((), {}) else str(value)


def laws_of(field: FieldInfo) -> Iterator[str]:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    for mark in field.metadata:
        yield from (f"{sign} {getattr(mark, name):,}" for name, sign in signs.items() if hasattr(mark, name))


@cluster_app.command()
def wait(
    address: Annotated[str, typer.Argument(help="A Ray cluster: `auto` or HOST:PORT.")],
    nodes: Annotated[int, typer.Option(min=1, help="How many nodes must have joined.")] = 1,
    seconds: Annotated[float, typer.Option(min=0, help="How long to wait for them.")] = 600.0,
) -> None:
    """Wait until a cluster answers and has all its nodes."""
    from cluster.nodes import wait_for_nodes

    joined = wait_for_nodes(address, nodes, seconds)
    print(f"{joined} node{'' if joined == 1 else 's'} at {address}", file=sys.stderr)
