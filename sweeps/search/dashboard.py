"""`lagvae dashboard`: an Optuna storage derived from the table, one study an arm, for optuna-dashboard to look at."""

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
    """Copy every arm's search, as the stored rows tell it, into `storage`; the names of the studies."""
    names = []
    for arm in spec.arms:
        search = ArmStudy(spec, arm)
        study = optuna.create_study(
            study_name=f"{spec.name}: {arm.name}", storage=storage, directions=search.study.directions
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(spec.objectives))
        for (name, index), configuration in sorted(plan.configurations.items(), key=lambda item: item[0][1]):
            if name != arm.name:
                continue
            search.enqueue(configuration)
            rows = [plan.rows.get(f"{configuration.config_id}-{seed}") for seed in spec.search.run_seeds]
            ended = [row for row in rows if row is not None and plan.ended(row)]
            if len(ended) == len(rows):
                search.tell(index, ended)
            trial = search.study.trials[-1]
            trial.set_user_attr("config_id", configuration.config_id)
            study.add_trial(trial)
        names.append(study.study_name)
    return names


def serve(spec: SweepSpec, plan: Plan, host: str, port: int) -> None:
    """Show the sweep in optuna-dashboard until interrupted; the storage is a copy and goes with the process."""
    try:
        from optuna_dashboard import run_server
    except ModuleNotFoundError:
        message = "must be installed for `lagvae dashboard`"
        hint = "Run  pip install 'lagvae[dashboard]'"
        raise ConfigError([ValidationIssue("optuna-dashboard", message, hint, None)]) from None
    with tempfile.TemporaryDirectory(prefix="lagvae-dashboard-") as folder:
        path = Path(folder) / "sweep.log"
        backend = JournalFileBackend(str(path))
        storage = optuna.storages.JournalStorage(backend)
        studies_of(spec, plan, storage)
        print(f"http://{host}:{port}/ shows {spec.name}; stop with Ctrl-C", flush=True)
        run_server(storage, host=host, port=port)
