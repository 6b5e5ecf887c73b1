"""Questions to the table, each answered in pandas and in SQL, as a section of docs/results.md."""

from __future__ import annotations

__all__ = ["QUESTIONS"]

QUESTIONS = """\
## Five questions in pandas and SQL

The examples ask about a sweep `mine` with the arms `vae` and `free_bits`. Each is answered twice, with the same result:
in pandas, where it is `answer`, and in the SQL of DuckDB (`python -c "import duckdb; print(duckdb.sql('...'))"`). The
pandas code needs these lines first:

    import pandas as pd

    runs = pd.read_parquet("results/mine/runs")
    curves = pd.read_parquet("results/mine/curves")
    finished = runs[runs["status"] == "finished"]

Both read every row. After an edit of the sweep file, rows of its earlier version are among them;
`lagvae results export` marks these in the column `version`.

### Which configuration has the best NLL with at least two active units?

The mean over seeds counts, not the best run. `n` is the number of its seeds.

    means = finished.groupby(["arm", "config_id"]).agg(
        n=("nll_iw", "count"), nll_iw=("nll_iw", "mean"), se=("nll_iw", "sem"), au=("au", "mean")
    )
    answer = means[means["au"] >= 2].sort_values("nll_iw").head(5).reset_index()

In SQL:

    SELECT arm, config_id, count(nll_iw) AS n, avg(nll_iw) AS nll_iw,
           stddev_samp(nll_iw) / sqrt(count(nll_iw)) AS se, avg(au) AS au
    FROM 'results/mine/runs/*.parquet'
    WHERE status = 'finished'
    GROUP BY arm, config_id
    HAVING avg(au) >= 2
    ORDER BY avg(nll_iw)
    LIMIT 5

### Is the remedy better than the plain VAE with the same recipe and seed?

In a sweep with `search.paired`, configurations with the same number have the same shared values in every arm. Runs
with the same number and seed are therefore pairs; a difference below 0 is better. The command
`lagvae results compare mine vae free_bits` adds an interval and a test.

    keys = ["configuration", "seed"]
    pairs = finished[finished["arm"] == "free_bits"].merge(finished[finished["arm"] == "vae"], on=keys)
    pairs["difference"] = pairs["nll_iw_x"] - pairs["nll_iw_y"]
    pairs["is_better"] = pairs["difference"] < 0
    answer = pairs.groupby("configuration").agg(
        pairs=("difference", "count"), difference=("difference", "mean"), better=("is_better", "sum")
    )
    answer = answer.reset_index()

In SQL:

    SELECT configuration, count(*) AS pairs, avg(remedy.nll_iw - plain.nll_iw) AS difference,
           count(*) FILTER (WHERE remedy.nll_iw < plain.nll_iw) AS better
    FROM 'results/mine/runs/*.parquet' AS remedy
    JOIN 'results/mine/runs/*.parquet' AS plain USING (configuration, seed)
    WHERE remedy.arm = 'free_bits' AND remedy.status = 'finished'
      AND plain.arm = 'vae' AND plain.status = 'finished'
    GROUP BY configuration
    ORDER BY configuration

### How does the NLL depend on a searched field?

Each searched field has a column of its own, which is null in arms that do not search it. Group a continuous field by
rounded values.

    answer = finished.dropna(subset="free_bits.floor").groupby("free_bits.floor").agg(
        runs=("nll_iw", "count"), nll_iw=("nll_iw", "mean"), std=("nll_iw", "std"), kl=("kl", "mean")
    )
    answer = answer.reset_index()

In SQL:

    SELECT "free_bits.floor", count(nll_iw) AS runs, avg(nll_iw) AS nll_iw, stddev_samp(nll_iw) AS std, avg(kl) AS kl
    FROM 'results/mine/runs/*.parquet'
    WHERE status = 'finished' AND "free_bits.floor" IS NOT NULL
    GROUP BY "free_bits.floor"
    ORDER BY "free_bits.floor"

### What did each arm cost, and why did runs fail?

`threads` and `gpus` are the resources that a run reserved. `seconds` includes validation and the final evaluation.

    costs = runs.assign(
        cpu_hours=runs["seconds"] * runs["threads"] / 3600,
        gpu_hours=runs["seconds"] * runs["gpus"] / 3600,
        failed=runs["status"].isin(["diverged", "failed", "out_of_memory"]),
    )
    costs["reason"] = costs["stop_reason"].where(costs["failed"])
    answer = costs.groupby("arm").agg(
        runs=("run_id", "count"),
        cpu_hours=("cpu_hours", "sum"),
        gpu_hours=("gpu_hours", "sum"),
        failed=("failed", "sum"),
        reasons=("reason", lambda reasons: "; ".join(sorted(reasons.dropna().unique()))),
    )
    answer = answer.reset_index()

In SQL:

    SELECT arm, count(*) AS runs,
           coalesce(sum(seconds * threads), 0) / 3600 AS cpu_hours,
           coalesce(sum(seconds * gpus), 0) / 3600 AS gpu_hours,
           count(*) FILTER (WHERE failed) AS failed,
           coalesce(string_agg(DISTINCT stop_reason, '; ' ORDER BY stop_reason) FILTER (WHERE failed), '') AS reasons
    FROM (SELECT *, status IN ('diverged', 'failed', 'out_of_memory') AS failed FROM 'results/mine/runs/*.parquet')
    GROUP BY arm
    ORDER BY arm

### At which epoch does the KL collapse?

A run has collapsed if its KL on the validation split is below 0.1 nats in its last epoch. The collapse is the first
epoch from which it stays there.

    last = curves.sort_values("epoch").groupby(["arm", "run_id"])["valid_kl"].last()
    last_above = curves[curves["valid_kl"] >= 0.1].groupby(["arm", "run_id"])["epoch"].max()
    collapse = (last_above.reindex(last.index).fillna(0) + 1)[last < 0.1]
    answer = collapse.rename("epoch").reset_index()

In SQL:

    SELECT arm, run_id, coalesce(max(epoch) FILTER (WHERE valid_kl >= 0.1), 0) + 1 AS epoch
    FROM 'results/mine/curves/*.parquet'
    GROUP BY arm, run_id
    HAVING arg_max(valid_kl, epoch) < 0.1
    ORDER BY arm, run_id
"""
