"""Measure the time to write and to read a row of the table on this disk, including the flush, and to compact it.

    python benchmarks/table.py [--rows N ...] [--away MS] [--readers N]
    python benchmarks/table.py --generated N [--single] [--results FOLDER]        whole commands on a table of N runs

Each N is a folder of N runs. The times depend on the disk, but a row should take the same time in a table of ten rows
as in one of ten thousand. `--away` adds a pause of this many milliseconds to each read, to simulate a remote store;
`--readers` sets how many files are read concurrently. The last three times are those to compact a row, to read it then,
and to read two of its columns.

With --generated, a sweep of N runs with three seeds per configuration is written as compacted files (`generated.py`),
and each command that reads it runs as a process of its own. With --single, each run has a file of its own, and the
commands are those that compact them and show the front then. FOLDER keeps the table, and a table that it holds is not
written again.

    wall      wall time of the command, start of the interpreter included
    cpu       its processor time, which other processes disturb less
    MiB       its peak resident memory
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from driver import TRIAL
from generated import NAME, generate_sweep

from lagvae_core import train
from lagvae_core.config.trial import parse_trial
from sweeps.storage import folder as store
from sweeps.storage.compaction import compact
from sweeps.storage.provenance import now
from sweeps.storage.table import ResultsFolder


def delay(seconds: float) -> None:
    """Add a pause to each read of a file."""
    read = store.SweepFolder._read

    def delayed_read(self: store.SweepFolder, name: str) -> bytes | None:
        time.sleep(seconds)
        return read(self, name)

    store.SweepFolder._read = delayed_read  # type: ignore[method-assign]


VERBS = (
    "list",
    f"pareto {NAME}",
    f"rate {NAME}",
    f"compare {NAME} vae beta",
    f"rank {NAME}",
    f"show {NAME}",
    f"curves {NAME}",
)
"""Commands that are measured on a generated sweep."""


def measure_verbs(runs: int, results: str, *, single: bool) -> None:
    """Print wall time, processor time and memory of each command on a generated sweep."""
    if not (Path(results) / NAME / "runs").exists():
        trial = TRIAL | {"training": {"epochs": 3}}
        generate_sweep(results, runs, trial, compacted=not single)
    print(f"{'command':<32} {'wall':>8} {'cpu':>8} {'MiB':>8}")
    for verb in (f"compact {NAME}", f"pareto {NAME}") if single else VERBS:
        begin = time.perf_counter()
        command = [sys.executable, "-m", "sweeps", "results", *verb.split(), "--results", results]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0, f"{verb} ended with {status}"
        wall, cpu = time.perf_counter() - begin, used.ru_utime + used.ru_stime
        print(f"{verb:<32} {wall:>8.1f} {cpu:>8.1f} {used.ru_maxrss // 1024:>8}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--away", type=float, default=0.0)
    parser.add_argument("--readers", type=int, default=store.READERS)
    parser.add_argument("--generated", type=int)
    parser.add_argument("--single", action="store_true")
    parser.add_argument("--results")
    options = parser.parse_args()
    if options.generated:
        with tempfile.TemporaryDirectory() as place:
            measure_verbs(options.generated, options.results or place, single=options.single)
        return
    store.READERS = options.readers
    if options.away:
        delay(options.away / 1000)
    record = train(parse_trial(TRIAL)).to_json()
    measured = record["metrics"] | record["cost"] | {"config": json.dumps(record["config"]), "status": "finished"}
    config_id = "0" * 12
    identity = {"sweep": "bench", "arm": "vae", "config_id": config_id, "attempt": 1}
    headings = ("write_ms", "read_ms", "bytes", "compact_ms", "again_ms", "two_columns_ms")
    print(f"{'rows':>8}", *(f"{heading:>{max(9, len(heading))}}" for heading in headings))
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as place:
            folder = ResultsFolder(place, "bench")
            folder.prepare()
            begin = time.perf_counter()
            for seed in range(rows):
                row = measured | identity | {"run_id": f"{config_id}-{seed}", "seed": seed, "started_at": now()}
                folder.write_run(row)
            written = time.perf_counter()
            assert len(folder.runs()) == rows
            read = time.perf_counter()
            size = sum(file.stat().st_size for file in Path(place).glob("bench/runs/*.parquet"))
            begin_again = time.perf_counter()
            compact(folder)
            compacted = time.perf_counter()
            assert len(folder.runs()) == rows
            again = time.perf_counter()
            folder.runs(only=["nll_iw", "au"])
            columns = time.perf_counter()
        spans = (written - begin, read - written, compacted - begin_again, again - compacted, columns - again)
        write, first, compacting, second, few = (1000 * span / rows for span in spans)
        print(
            f"{rows:>8} {write:>9.2f} {first:>9.2f} {size // rows:>9} {compacting:>10.2f} {second:>9.3f} {few:>14.4f}"
        )


if __name__ == "__main__":
    main()
