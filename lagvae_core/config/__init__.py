"""Configuration of one trial: defaults by kind of data, validation, and TrialConfig."""
