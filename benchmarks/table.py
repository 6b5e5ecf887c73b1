"""Measure the time to write and to read a row of the table on this disk, including the flush.

    python benchmarks/table.py [--rows N ...] [--away MS] [--readers N]

Each N is a folder of N runs. The times depend on the disk, but a row should take the same time in a table of ten rows
as in one of ten thousand. `--away` adds a pause of this many milliseconds to each read, to simulate a remote store;
`--readers` sets how many files are read concurrently.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from driver import TRIAL

from lagvae_core import train
from lagvae_core.config.trial import parse_trial
from sweeps.storage import folder as store
from sweeps.storage.provenance import now
from sweeps.storage.table import ResultsFolder


def delay(seconds: float) -> None:
    """Add a pause to each read of a file."""
    read = store.SweepFolder._read

    def delayed_read(self: store.SweepFolder, name: str) -> bytes | None:
        time.sleep(seconds)
        return read(self, name)

    store.SweepFolder._read = delayed_read  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--away", type=float, default=0.0)
    parser.add_argument("--readers", type=int, default=store.READERS)
    options = parser.parse_args()
    store.READERS = options.readers
    if options.away:
        delay(options.away / 1000)
    record = train(parse_trial(TRIAL)).to_json()
    measured = record["metrics"] | record["cost"] | {"config": json.dumps(record["config"]), "status": "finished"}
    config_id = "0" * 12
    identity = {"sweep": "bench", "arm": "vae", "config_id": config_id, "attempt": 1}
    print(f"{'rows':>8} {'write_ms':>9} {'read_ms':>9} {'bytes':>9}")
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
        times = (1000 * (written - begin) / rows, 1000 * (read - written) / rows)
        print(f"{rows:>8} {times[0]:>9.2f} {times[1]:>9.2f} {size // rows:>9}")


if __name__ == "__main__":
    main()
