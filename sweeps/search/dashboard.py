"""`lagvae dashboard`: shows the stored rows in optuna-dashboard, as one Optuna study per arm."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend

from lagvae_core.errors import ConfigError, ValidationIssue
from sweeps.search.arm_study import ArmStudy
from sweeps.search.plan import Plan
from sweeps.spec.sweep import SweepSpec

__all__ = ["serve", "studies_of"]


def studies_of(spec: SweepSpec, plan: Plan, storage: optuna.storages.BaseStorage) -> list[str]:
    """Rebuild the Optuna study of every arm from the stored rows and copy it into `storage`.

    Returns:
        The names of the studies, in the order of the arms.
    """
    names = []
    race = plan.race
    for arm in spec.arms:
        arm_study = ArmStudy(spec, arm)
        study = optuna.create_study(
            study_name=f"{spec.name}: {arm.name}", storage=storage, directions=arm_study.study.directions
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(spec.objectives))
        for (name, index), configuration in sorted(plan.configurations.items(), key=lambda item: item[0][1]):
            if name != arm.name:
                continue
            arm_study.enqueue(configuration)
            if not plan.runs(arm, configuration, race=race):
                arm_study.tell(index, list(plan.ended_rows(configuration).values()))
            trial = arm_study.trial(index)
            trial.set_user_attr("config_id", configuration.config_id)
            study.add_trial(trial)
        names.append(study.study_name)
    return names


def serve(spec: SweepSpec, plan: Plan, host: str, port: int) -> None:
    """Serve optuna-dashboard with a temporary copy of the sweep's Optuna studies, until interrupted.

    Raises:
        ConfigError: optuna-dashboard is not installed.
    """
    try:
        from optuna_dashboard import run_server
    except ModuleNotFoundError:
        hint = "Run: pip install optuna-dashboard"
        raise ConfigError([ValidationIssue("optuna-dashboard", "must be installed", hint)]) from None
    with tempfile.TemporaryDirectory(prefix="lagvae-dashboard-") as folder:
        path = Path(folder) / "sweep.log"
        backend = JournalFileBackend(str(path))
        storage = optuna.storages.JournalStorage(backend)
        studies_of(spec, plan, storage)
        print(f"http://{host}:{port}/ shows the sweep {spec.name}. Press Ctrl-C to stop.", flush=True)
        run_server(storage, host=host, port=port)
