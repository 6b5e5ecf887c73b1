"""The `repr` of objects that hold arrays is one short line, so that a prompt or a debugger stays readable."""

import inflections
import torch
from helpers import dataset_of, run, tiny, tiny_images

from lagvae_core.data import ReinflectionData
from lagvae_core.studies.trained_model import TrainedModel


def check_short(thing, *facts):
    shown = repr(thing)
    assert shown.startswith(type(thing).__name__)
    assert len(shown) < 250, shown
    assert "\n" not in shown
    for fact in facts:
        assert fact in shown, shown


def test_data_of_every_kind(tmp_path):
    words = ReinflectionData(path=inflections.write(tmp_path), language="tiny")
    for config in (tiny().data, tiny_images().data, words):
        dataset = dataset_of(config)
        check_short(dataset, f"train={len(dataset.train)}", dataset.fingerprint[:12])
        check_short(dataset.valid, f"examples={len(dataset.valid)}", f"units={dataset.valid.units}")
        check_short(dataset.valid.batches(3)[0], "size=")
    check_short(dataset_of(tiny().data).vocabulary, "size=24")


def test_records_and_trained_models():
    config = tiny()
    record = run(config)
    check_short(record, record.run_id, "status='finished'", f"au={record.metrics['au']}")
    check_short(record.curve[0], "epoch=1", "valid_kl=")
    trained = TrainedModel.untrained(config, dataset_of(config.data), torch.device("cpu"))
    check_short(trained, trained.run_id)
    check_short(trained.encoded, "examples=16", "latent=2")
