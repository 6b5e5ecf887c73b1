"""The `lagvae` command.

Each verb imports what it needs when it runs, so that `lagvae trial` never imports Ray.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lagvae_core.errors import LagvaeError
from sweeps.cli.cluster import cluster_app
from sweeps.cli.jobs import jobs_app
from sweeps.cli.results_app import results_app
from sweeps.cli.streams import check_stdout, prepare_streams
from sweeps.cli.sweep_app import sweep_app
from sweeps.cli.trial_app import trial_app
from sweeps.execution.signals import interrupt_on_signals
from sweeps.formatting import printable

__all__ = ["app", "main"]


class Commands(TyperGroup):
    """The top-level command group. It turns expected errors into a message and an exit code.

    If a LagvaeError is raised, the command prints its message and exits with its `exit_code`. After SIGINT, SIGTERM or
    SIGHUP, it exits with 130. If stdout cannot be written, see `check_stdout`.
    """

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with check_stdout():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with check_stdout():
            try:
                return super().invoke(ctx)
            except LagvaeError as error:
                print(printable(f"lagvae: {error}"), file=sys.stderr)
                raise typer.Exit(error.exit_code) from None
            except KeyboardInterrupt:
                print("lagvae: interrupted.", file=sys.stderr)
                raise typer.Exit(130) from None


app = typer.Typer(
    cls=Commands,
    help="Compare remedies for posterior collapse by likelihood and by use of the latent space.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(trial_app)
app.add_typer(sweep_app)
app.add_typer(results_app, name="results")
app.add_typer(cluster_app, name="cluster")
app.add_typer(jobs_app)


def _print_versions(asked: bool) -> None:
    if asked:
        import platform

        from sweeps.storage.provenance import versions

        found = {name.removesuffix("_version"): version or "not installed" for name, version in versions().items()}
        print(f"lagvae {found['lagvae']}")
        print(f"Python {found['python']}, torch {found['torch']}, Ray {found['ray']}, {platform.platform()}")
        raise typer.Exit


@app.callback()
def common_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_versions,
            is_eager=True,
            help="Print the versions of lagvae, Python, torch, Ray and the platform.",
        ),
    ] = False,
) -> None:
    """Take the options of the command itself; each of them has a callback."""


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: Any = None
) -> str:
    """Return a warning as one line. A warning for programmers keeps its category and place."""
    place = "" if category is UserWarning else f"{filename}:{lineno}: {category.__name__}: "
    return printable(f"lagvae: warning, {place}{message}\n")


def main() -> None:
    """Entry point. Exit codes: 0 success, 1 failed runs or lost results, 2 invalid input, 130 interrupted."""
    prepare_streams()
    # Figures must look alike everywhere. A notebook sets a backend that only its own environment has.
    os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
    warnings.formatwarning = _format_warning
    with interrupt_on_signals():
        app()


if __name__ == "__main__":
    main()
