"""The science of lagvae: one trial, from configuration to record. Knows torch and numpy; knows nothing of sweeps."""

from lagvae_core.config.trial import TrialConfig
from lagvae_core.training.record import EpochRecord, TrialRecord
from lagvae_core.training.trial import train

__all__ = ["EpochRecord", "TrialConfig", "TrialRecord", "train"]
