"""`lagvae diagnose`: why models do not use their latent variable, and which arms act on the cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lagvae_core.config.trial import TrialConfig
from lagvae_core.errors import ConfigError
from lagvae_core.studies.diagnosis import CAUSES, Cause, causes_of
from sweeps.analysis.remedies import next_sweep
from sweeps.cli.evaluate import EvaluationRequest, studied
from sweeps.cli.outcomes import StudyResult
from sweeps.cli.terminal import console_of_stdout, folder_issues, print_json, print_whole, rich_table, write_file
from sweeps.formatting import format_value

__all__ = ["diagnose_models"]


def diagnose_models(request: EvaluationRequest, out: Path | None) -> None:
    """Diagnose each model, print the causes, and print or write a sweep that acts on the most frequent one.

    Args:
        request: The models; its `what` is the study `diagnosis`, optionally with fields.
        out: File for the sweep; None to print it.

    Raises:
        UserError: An argument is invalid, or the data have changed.
        CheckpointError: The weights of a model are damaged.
        StoreError: The results cannot be read or written.
    """
    if out is not None and (issues := folder_issues("--out", out.parent, out, create=False)):
        raise ConfigError(issues)
    pairs = studied(request)
    found = [(config, result, causes_of(result.findings.values)) for config, result in pairs]
    counts = Counter(causes[0].cause for _, _, causes in found)
    main = next((cause for cause, _ in counts.most_common() if cause != "none"), "none")
    config = next(config for config, _, causes in found if causes[0].cause == main)
    sweep = next_sweep(main, config)
    if out is not None and sweep is not None:
        write_file("--out", out, sweep.encode())
    if request.as_json:
        print_json({"runs": [_json(result, causes) for _, result, causes in found], "main": main, "next": sweep})
        return
    _print(found, counts)
    if sweep is None:
        return
    console = console_of_stdout()
    if out is not None:
        console.print(f"\narms that act on {main}: lagvae run {out}", highlight=False)
    else:
        console.print(f"\na sweep of arms that act on {main} (--out FILE writes it):\n", highlight=False)
        print(sweep, end="")


def _json(result: StudyResult, causes: Sequence[Cause]) -> Mapping[str, Any]:
    listed = [asdict(cause) | {"means": cause.means} for cause in causes]
    return {"run_id": result.run_id, "arm": result.arm, "causes": listed, "values": result.findings.values}


def _print(found: Sequence[tuple[TrialConfig, StudyResult, Sequence[Cause]]], counts: Counter[str]) -> None:
    console = console_of_stdout()
    table = rich_table(
        "run", "arm", "cause", "measured", "threshold", "mi", "kl", "swap cost", "refined gain", "encoder change"
    )
    for _, result, causes in found:
        values = result.findings.values
        shown = [
            values[name] for name in ("diagnosis_mi", "diagnosis_kl", "swap_cost", "refined_gain", "encoder_change")
        ]
        for number, cause in enumerate(causes):
            first = number == 0
            table.add_row(
                result.run_id if first else "",
                (result.arm or "") if first else "",
                cause.cause,
                _number(cause.value),
                _number(cause.threshold),
                *((_number(value) if first else "") for value in shown),
            )
    print_whole(console, table)
    for name, count in counts.most_common():
        many = f" ({count} of {len(found)} runs)" if len(found) > 1 else ""
        console.print(f"{name}{many}: {CAUSES[name]}", highlight=False)
    for name in dict.fromkeys(cause.cause for _, _, causes in found for cause in causes[1:]):
        console.print(f"{name}: {CAUSES[name]}", highlight=False)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return format_value(value) if abs(value) < 1e-9 else f"{value:z.3f}"
