"""TensorBoard: a folder of event files for each run, with its hyperparameters for the HParams tab."""

from __future__ import annotations

import io
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from sweeps.formatting import markdown_table
from sweeps.trackers.base import SUCCESSFUL, Front, TrackedRun, Tracker, curve_name

__all__ = ["TensorBoardTracker"]

FRONT = "front"
"""Name of the folder and of the tags of the Pareto front."""


class TensorBoardTracker(Tracker):
    """Writes event files to FOLDER/ARM/RUN_ID.

    The x axis of the curves is the epoch. A run that resumes is written again from its first epoch, because the last
    events before a kill may be missing.
    """

    def __init__(self, *, folder: str, sweep: str) -> None:
        self._folder = Path(folder)
        self._writers: dict[str, EventFileWriter] = {}
        self._epochs: dict[str, int] = {}

    def start_run(self, run: TrackedRun) -> int:
        for earlier in self._folder.glob(f"*/{run.run_id}"):
            shutil.rmtree(earlier)
        self._writers[run.run_id] = self._writer(_folder_name(run.arm), run.run_id)
        self._epochs[run.run_id] = 0
        start = SessionStartInfo()
        for name, value in run.config.items():
            field = start.hparams[name]
            if isinstance(value, bool):
                field.bool_value = value
            elif isinstance(value, int | float):
                field.number_value = value
            else:
                field.string_value = str(value)
        self._add_session(run.run_id, hparams.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))
        return 0

    def log_epoch(self, run_id: str, epoch: int, values: Mapping[str, float]) -> None:
        self._epochs[run_id] = epoch
        self._add_scalars(run_id, {curve_name(name): value for name, value in values.items()})

    def end_run(self, run_id: str, values: Mapping[str, float], status: str, stop_reason: str) -> None:
        self._add_scalars(run_id, values)
        _add(self._writers[run_id], _text("status", f"{status}: {stop_reason}"))
        outcome = api_pb2.STATUS_SUCCESS if status in SUCCESSFUL else api_pb2.STATUS_FAILURE
        end = HParamsPluginData(session_end_info=SessionEndInfo(status=outcome))
        self._add_session(run_id, hparams.SESSION_END_INFO_TAG, end)
        self._writers.pop(run_id).close()

    def log_front(self, front: Front) -> None:
        shutil.rmtree(self._folder / FRONT, ignore_errors=True)
        writer = self._writer(FRONT)
        cells = ([str(row[name]) for name in front.columns] for row in front.rows)
        _add(writer, _text(FRONT, "\n".join(markdown_table(front.columns, cells))))
        if (png := front.png()) is not None:
            with Image.open(io.BytesIO(png)) as image:
                width, height = image.size
            picture = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
            _add(writer, Summary.Value(tag=FRONT, image=picture))
        writer.close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _writer(self, *parts: str) -> EventFileWriter:
        return EventFileWriter(str(self._folder.joinpath(*parts)))

    def _add_scalars(self, run_id: str, values: Mapping[str, float]) -> None:
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        _add(self._writers[run_id], *scalars, step=self._epochs[run_id])

    def _add_session(self, run_id: str, tag: str, content: Any) -> None:
        metadata = hparams.create_summary_metadata(content)
        _add(self._writers[run_id], Summary.Value(tag=tag, metadata=metadata, tensor=hparams.NULL_TENSOR))


def _add(writer: EventFileWriter, *values: Summary.Value, step: int = 0) -> None:
    writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
    writer.flush()


def _text(tag: str, text: str) -> Summary.Value:
    """Return a text in Markdown for the Text tab."""
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=shape)
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _folder_name(arm: str) -> str:
    """Return the name of an arm as that of a folder, without separators and dots at its start."""
    return re.sub(r"^\.|[^\w.+-]", "_", arm)
