"""Configuration of one trial: recipes by kind of data, validation, and TrialConfig."""
