import json

from sweeps.analysis.result_warnings import result_warnings_of


def row(arm, *warnings, status="finished"):
    return {"arm": arm, "status": status, "warnings": json.dumps(warnings)}


def test_one_warning_per_arm_and_code_counts_the_finished_runs():
    rows = [
        row("a", "W7: at 0.1", "W4: groups"),
        row("a", "W7: at 0.2"),
        row("a"),
        row("a", "W7: at 0.3", status="failed"),
        row("b", "W10: unreliable"),
        {"arm": "c", "status": "finished", "warnings": None},
    ]
    assert result_warnings_of(rows) == ["a (2 of 3 runs): W7: at 0.1", "b (1 of 1 runs): W10: unreliable"]
