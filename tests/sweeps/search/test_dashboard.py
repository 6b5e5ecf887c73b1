"""The Optuna studies of a stored sweep, which grow with its table."""

from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState
from worlds import FINGERPRINT, play, row_of, spec_of

from sweeps.search.dashboard import LiveStudies
from sweeps.search.plan import Plan

ONE = {"objectives": {"nll_iw": "min"}}


def curve(*values: float | None) -> list[dict[str, float | None]]:
    names = ("valid_kl", "valid_mi", "valid_au")
    return [{"epoch": n, "valid_nll_elbo": value} | dict.fromkeys(names, 1.0) for n, value in enumerate(values, 1)]


def trials(storage: optuna.storages.BaseStorage) -> dict[str, list[optuna.trial.FrozenTrial]]:
    return {study.study_name: storage.get_all_trials(study._study_id) for study in storage.get_all_studies()}


@pytest.fixture
def storage() -> optuna.storages.InMemoryStorage:
    return optuna.storages.InMemoryStorage()


def test_trials_appear_and_end_with_their_runs(storage):
    spec = spec_of()
    live = LiveStudies(spec, storage)
    assert trials(storage) == {"tiny: vae": [], "tiny: beta": []}
    seen = []
    for ends in (0, 1, 2, None):
        rows, scheduler = play(spec, ends=ends, concurrent=2)
        live.update(Plan(spec, FINGERPRINT, rows), {})
        seen.append([trial.state for trial in trials(storage)["tiny: vae"]])
    running, complete = TrialState.RUNNING, TrialState.COMPLETE
    assert seen == [[running], [running], [complete], [complete]]
    [trial] = trials(storage)["tiny: vae"]
    of_arm = [row for row in rows if row["arm"] == "vae"]
    assert trial.values == [sum(row[name] for row in of_arm) / 2 for name in ("nll_iw", "au")]
    assert trial.user_attrs == {"config_id": of_arm[0]["config_id"]}
    driver = [trial.params for trial in scheduler._studies["beta"].study.trials]
    assert [trial.params for trial in trials(storage)["tiny: beta"]] == driver


@pytest.mark.parametrize("changes", [{}, ONE])
def test_the_curves_of_running_runs(storage, changes):
    spec = spec_of(**changes)
    live = LiveStudies(spec, storage)
    rows, _ = play(spec, ends=0, concurrent=2)
    plan = Plan(spec, FINGERPRINT, rows)
    first, second = (row["run_id"] for row in rows)
    live.update(plan, {first: curve(9.0, None)})
    live.update(plan, {first: curve(9.0, None, 5.0), second: curve(7.0)})
    live.update(plan, {second: curve(7.0)})
    [trial] = trials(storage)["tiny: vae"]
    assert trial.intermediate_values == ({1: 8.0, 3: 5.0} if changes else {}), "no values for several objectives"
    assert trial.user_attrs["seed 0: epoch"] == 3
    assert trial.user_attrs["seed 1: valid_nll_elbo"] == 7.0


def test_a_study_that_is_changed_in_the_dashboard_is_left_alone(storage):
    spec = spec_of()
    live = LiveStudies(spec, storage)
    rows, _ = play(spec, ends=0, concurrent=3)
    live.update(Plan(spec, FINGERPRINT, rows), {})
    storage.delete_study(storage.get_study_id_from_name("tiny: vae"))
    [trial] = trials(storage)["tiny: beta"]
    storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0, 2.0])
    live.update(Plan(spec, FINGERPRINT, play(spec)[0]), {rows[-1]["run_id"]: curve(3.0)})
    assert list(trials(storage)) == ["tiny: beta"]
    assert trials(storage)["tiny: beta"][0].values == [1.0, 2.0]
    assert len(trials(storage)["tiny: beta"]) == 3


def test_a_later_seed_does_not_change_a_trial(storage):
    spec = spec_of()
    live = LiveStudies(spec, storage)
    rows, _ = play(spec)
    live.update(Plan(spec, FINGERPRINT, rows), {})
    before = [trial.values for trial in trials(storage)["tiny: beta"]]
    plan = Plan(spec, FINGERPRINT, rows)
    key = next(key for key in plan.configurations if key[0] == "beta")
    run = plan.run(plan.configurations[key], 0)
    others = [row for row in rows if row["run_id"] != run.run_id]
    live.update(Plan(spec, FINGERPRINT, [*others, row_of(run, status="running")]), {run.run_id: curve(1.0)})
    assert [trial.values for trial in trials(storage)["tiny: beta"]] == before
