"""Which values of two arms are compared: matched configurations, common seeds, or independent runs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from helpers import rejects
from worlds import play, spec_of

from sweeps.analysis.arm_comparison import compare_arms
from sweeps.analysis.significance import independent_difference, paired_difference

ARMS = {"vae": [], "beta": ["beta_vae"], "bits": ["free_bits"]}
SPEC = spec_of(arms=ARMS)


def row(arm, configuration, seed, nll, valid=None, **changes):
    return {
        "arm": arm,
        "config_id": f"{arm}{configuration}",
        "configuration": configuration,
        "seed": seed,
        "status": "finished",
        "parameters": json.dumps({}),
        "nll_iw": nll,
        "valid_nll_elbo": nll if valid is None else valid,
        "valid_mi": 0.0,
        "au": seed,
        **changes,
    }


def runs(arm, values, configuration=0, first=0, **changes):
    return [row(arm, configuration, first + place, value, **changes) for place, value in enumerate(values)]


def compared(rows, *arms, column="nll_iw", spec=SPEC, **changes):
    return compare_arms(spec, rows, arms or ("vae", "beta"), column, **changes)


def only(rows, *arms, **changes):
    (difference,) = compared(rows, *arms, **changes).differences
    return difference


class TestBySeed:
    def test_runs_with_the_same_seed_are_paired(self):
        vae, beta = [3.0, 5.0, 9.0, 4.0, 1.0, 7.0], [2.5, 4.0, 8.0, 3.5, 0.0, 6.0]
        found = only([*runs("vae", vae), *reversed(runs("beta", beta))])
        assert found.difference == paired_difference(beta, vae)
        assert (found.matched, found.verdict, found.p_holm) == ("seed", "better", found.difference.p)
        assert found.p_holm == pytest.approx(1 / 32)

    def test_runs_without_a_partner_are_left_out_and_counted(self):
        found = only([*runs("vae", [1.0, 2.0, 90.0]), *runs("beta", [3.0, 4.0])])
        assert (found.difference.mean, found.unmatched, found.baseline_value.mean) == (2.0, 1, 1.5)

    def test_a_single_seed_is_compared_with_the_same_seed(self):
        found = only([*runs("vae", [1.0, 2.0, 90.0]), *runs("beta", [3.0], first=1)])
        assert (found.difference.mean, found.difference.interval, found.difference.n) == (1.0, None, 1)

    def test_seeds_that_differ_give_independent_samples(self):
        vae, beta = [1.0, 2.0, 3.0, 4.0], [6.0, 7.0, 8.0, 9.0]
        found = only([*runs("vae", vae), *runs("beta", beta, first=10)])
        assert (found.matched, found.difference) == ("none", independent_difference(beta, vae))
        assert found.verdict == "worse"

    def test_the_direction_decides_what_is_better(self):
        rows = [*runs("vae", [1.0] * 6), *runs("beta", [2.0] * 6)]
        assert only(rows).verdict == "worse"
        maximised = spec_of(arms=ARMS, objectives={"nll_iw": "max"})
        assert only(rows, spec=maximised).verdict == "better"
        assert only([r | {"iw_k": r["nll_iw"]} for r in rows], column="iw_k").verdict == "higher"
        assert only(rows, column="au").verdict == "undecided"

    def test_too_few_seeds_have_an_interval_but_no_p_value(self):
        found = only([*runs("vae", [1.0, 2.0, 3.0]), *runs("beta", [9.0, 8.5, 9.5])])
        assert found.difference.interval is not None
        assert (found.verdict, found.p_holm, found.difference.required) == ("too few", None, 6)

    def test_several_arms_are_corrected_together(self):
        rows = [*runs("vae", range(7)), *runs("beta", range(9, 16)), *runs("bits", [0.0, 1.5, 2.0, 2.5, 4, 5, 6])]
        first, second = compared(rows, "vae", "beta", "bits").differences
        assert first.p_holm == pytest.approx(2 * first.difference.p)
        assert second.p_holm == second.difference.p
        assert (first.difference.required, first.verdict, second.verdict) == (7, "worse", "undecided")


class TestRepresentative:
    def test_validation_values_choose_it_and_never_the_compared_ones(self):
        worse_on_test = runs("beta", [9.0] * 3, 0, valid=1.0)
        better_on_test = runs("beta", [1.0] * 3, 1, valid=2.0)
        found = only([*runs("vae", [5.0] * 3), *worse_on_test, *better_on_test])
        assert found.representative.config_id == "beta0"
        assert (found.representative.candidates, found.value.mean) == (2, 9.0)

    def test_another_validation_column_can_choose_it(self):
        rows = [*runs("vae", [5.0] * 3), *runs("beta", [4.0] * 3), *runs("beta", [6.0] * 3, 1, valid_mi=3.0)]
        assert only(rows).representative.config_id == "beta0"
        assert only(rows, select={"valid_mi": "max"}).representative.config_id == "beta1"

    def test_a_lucky_configuration_with_fewer_seeds_is_no_candidate(self):
        rows = [*runs("vae", [5.0] * 3), *runs("beta", [4.0] * 3), *runs("beta", [1.0], 1)]
        chosen = only(rows).representative
        assert (chosen.config_id, chosen.n, chosen.candidates, chosen.configurations) == ("beta0", 3, 1, 2)
        assert chosen.better == 1

    @pytest.mark.parametrize("evaluated", ["valid", "test"])
    def test_a_column_of_the_split_that_chose_is_marked(self, evaluated):
        several = [*runs("vae", [5.0] * 3), *runs("beta", [4.0] * 3), *runs("beta", [6.0] * 3, 1)]
        spec = spec_of(arms=ARMS, trial=dict(SPEC.trial) | {"evaluation": {"split": evaluated}})
        assert compared(several, spec=spec).is_selected_on_its_split == (evaluated == "valid")
        assert compared(several, column="valid_mi").is_selected_on_its_split
        assert not compared(several[:6], spec=spec).is_selected_on_its_split


class TestByConfiguration:
    SPEC = spec_of(
        arms=ARMS,
        space={"training.learning_rate": {"low": 0.01, "high": 1.0, "log": True}},
        search={"sampler": "random", "configurations": 7, "seeds": 2, "paired": True},
    )

    def rows(self):
        """A finished sweep in which the recipe matters most, and `beta` is better by 0.1 to 0.8."""

        def answer(run):
            gain = 0.1 * (run.configuration + 1) if run.arm == "beta" else 0.0
            nll = 50 * math.log(run.parameters["training.learning_rate"]) + run.seed - gain
            return {"nll_iw": nll, "valid_nll_elbo": nll}

        return play(self.SPEC, answer=answer)[0]

    def test_configurations_with_the_same_shared_values_are_paired(self):
        found = only(self.rows(), spec=self.SPEC)
        assert (found.matched, found.difference.n, found.unmatched) == ("configuration", 7, 0)
        assert found.difference.mean == pytest.approx(-0.1 * np.mean(range(1, 8)))
        assert found.difference.p == pytest.approx(2 / 2**7)
        assert (found.verdict, found.representative) == ("better", None)

    def test_the_means_are_over_common_seeds(self):
        rows = [row for row in self.rows() if (row["arm"], row["configuration"], row["seed"]) != ("vae", 2, 1)]
        assert only(rows, spec=self.SPEC).difference.mean == pytest.approx(-0.1 * np.mean(range(1, 8)))

    def test_configurations_without_a_partner_are_left_out_and_counted(self):
        rows = [row for row in self.rows() if row["arm"] == "beta" or row["configuration"] != 6]
        found = only(rows, spec=self.SPEC)
        assert (found.difference.n, found.unmatched) == (6, 1)

    def test_a_configuration_with_other_shared_values_has_no_partner(self):
        changed = json.dumps({"training.learning_rate": 0.123})
        rows = [
            row | {"parameters": changed} if (row["arm"], row["configuration"]) == ("vae", 3) else row
            for row in self.rows()
        ]
        assert only(rows, spec=self.SPEC).difference.n == 6

    def test_a_column_that_chooses_compares_representatives_in_a_paired_sweep_as_well(self):
        found = only(self.rows(), spec=self.SPEC, select={"valid_nll_elbo": "min"})
        assert (found.matched, found.representative.candidates, found.difference.n) == ("seed", 7, 2)

    def test_without_pairing_in_the_sweep_each_arm_has_a_representative(self):
        found = only(self.rows(), spec=SPEC)
        assert (found.matched, found.representative.candidates) == ("seed", 7)


class TestRejected:
    @pytest.mark.parametrize("arms", [("vae",), ("vae", "vae"), ("vae", "bat"), ("vae", "beta", "vae")])
    def test_arms(self, arms):
        with rejects("ARMS"):
            compare_arms(SPEC, runs("vae", [1.0]), arms, "nll_iw")

    def test_columns(self):
        with rejects("--column"):
            compared([], column="nll")

    @pytest.mark.parametrize(
        "select", [{"nll_iw": "min"}, {}, {"valid_x": "min"}, {"valid_mi": "max", "valid_au": "max"}]
    )
    def test_columns_that_choose(self, select):
        with rejects("--select"):
            compared([], select=select)

    def test_a_column_that_chooses_among_several_must_have_values(self):
        rows = [*runs("vae", [1.0]), *runs("vae", [1.0], 1), *runs("beta", [1.0])]
        rows = [row | {"valid_au": None} for row in rows]
        with rejects("--select"):
            compared(rows, select={"valid_au": "max"})

    @pytest.mark.parametrize("changes", [{"nll_iw": None}, {"nll_iw": math.nan}, {"status": "diverged"}])
    def test_arms_without_a_measured_run(self, changes):
        rows = [*runs("vae", [1.0, 2.0]), *(row | changes for row in runs("beta", [1.0, 2.0]))]
        with rejects("ARMS"):
            compared(rows)


@pytest.mark.slow
class TestSimulated:
    """Rates of significant differences between arms that are equal in truth, over 2,000 sweeps with 8 seeds.

    Seeds are shared noise of standard deviation 1, and so is the noise of a run; the validation value differs from the
    test value by 0.3.
    """

    @pytest.mark.parametrize(
        ("configurations", "spread", "low", "high"),
        [
            ((1, 1), 0.0, 0.03, 0.07),
            ((6, 6), 0.0, 0.0, 0.03),  # both are lucky
            ((1, 6), 0.0, 0.06, 0.12),  # only one is lucky
            ((6, 6), 1.0, 0.18, 0.28),  # configurations differ by as much as runs: the test sees that, not the arms
        ],
    )
    def test_selection_changes_the_rate(self, configurations, spread, low, high):
        rng = np.random.default_rng(0)
        significant = 0
        for _ in range(2000):
            shared = rng.normal(size=8)
            rows = []
            for arm, count in zip(("vae", "beta"), configurations, strict=True):
                for number in range(count):
                    nll = spread * rng.normal() + shared + rng.normal(size=8)
                    valid = nll + 0.3 * rng.normal(size=8)
                    rows += [row(arm, number, seed, nll[seed], valid[seed]) for seed in range(8)]
            significant += only(rows).verdict in ("better", "worse")
        assert low <= significant / 2000 <= high
