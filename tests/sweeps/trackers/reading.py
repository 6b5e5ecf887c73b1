"""Reading back what trackers have written, each with the tool's own reader where it has one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Stored", "mlflow_runs", "tensorboard_runs", "wandb_runs"]

LEVELDB_BLOCK, LEVELDB_HEADER, FILE_HEADER = 32768, 7, 7


@dataclass
class Stored:
    """A run as a tool has stored it.

    Args:
        config: Its configuration. TensorBoard has only numbers and texts, MLflow only texts.
        curve: Values of the curve by epoch and column.
        values: The final values by column.
        status: The status in the table, as far as the tool shows it.
        group: How the tool groups runs, if it does.
    """

    config: dict[str, Any] = field(default_factory=dict)
    curve: dict[int, dict[str, float]] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    status: str = ""
    group: str = ""

    def add(self, name: str, epoch: int, value: float) -> None:
        section, _, column = name.rpartition("/")
        if section == "curve":
            assert column not in self.curve.setdefault(epoch, {}), f"epoch {epoch} is stored twice"
            self.curve[epoch][column] = value
        else:
            self.values[name] = value


def tensorboard_runs(folder: Path) -> dict[str, Stored]:
    """Return the runs below a log folder, by its relative path."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    runs = {}
    for place in sorted({file.parent for file in folder.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(place), size_guidance={"scalars": 0})
        events.Reload()
        run = runs[str(place.relative_to(folder))] = Stored()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                run.add(tag, event.step, event.value)
        for content in events.PluginTagToContent("hparams").values() if "_hparams_" in str(events.Tags()) else ():
            data = HParamsPluginData.FromString(content)
            for name, value in data.session_start_info.hparams.items():
                run.config[name] = getattr(value, value.WhichOneof("kind"))
        for tag in ("status", "front"):
            if tag in events.Tags()["tensors"]:
                run.status = events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    return runs


def mlflow_runs(uri: str, experiment: str) -> dict[str, Stored]:
    """Return the runs of an experiment by their tag `lagvae.run_id`, or "" for the run of the sweep."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    [stored] = [item for item in client.search_experiments() if item.name == experiment]
    runs: dict[str, Stored] = {}
    for item in client.search_runs([stored.experiment_id]):
        name = item.data.tags.get("lagvae.run_id", "")
        assert name not in runs, f"{name} has two runs"
        run = runs[name] = Stored(dict(item.data.params), status=item.data.tags.get("lagvae.status", item.info.status))
        run.group = item.data.tags.get("lagvae.front", "off")
        for metric in item.data.metrics:
            for value in client.get_metric_history(item.info.run_id, metric):
                run.add(metric, value.step, value.value)
    return runs


def wandb_runs(folder: Path) -> dict[str, Stored]:
    """Return the runs of the files that wandb wrote offline, by the id of the run."""
    from wandb.proto.wandb_internal_pb2 import Record

    runs: dict[str, Stored] = {}
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        run = Stored()
        for content in _leveldb_records(file.read_bytes()):
            record = Record.FromString(content)
            match record.WhichOneof("record_type"):
                case "run":
                    assert record.run.run_id not in runs, f"{record.run.run_id} has two folders"
                    runs[record.run.run_id] = run
                    run.group = record.run.run_group
                    run.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
                case "history":
                    items = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
                    for name, value in items.items():
                        if name.startswith("curve/"):
                            run.add(name, record.history.step.num, json.loads(value))
                case "summary":
                    updates = {item.key or item.nested_key[0]: item.value_json for item in record.summary.update}
                    values = {name: json.loads(value) for name, value in updates.items()}
                    run.status = values.get("status", run.status)
                    run.values |= {name: v for name, v in values.items() if not name.startswith(("curve/", "_"))}
    return runs


def _leveldb_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a file in LevelDB's log format, which wandb uses with a header of its own."""
    record, position = b"", FILE_HEADER
    while position + LEVELDB_HEADER <= len(content):
        left = LEVELDB_BLOCK - position % LEVELDB_BLOCK
        if left < LEVELDB_HEADER:
            position += left
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        if kind == 0:
            return
        position += LEVELDB_HEADER
        record += content[position : position + length]
        position += length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""
