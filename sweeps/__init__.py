"""Sweeps: specification, search, execution, storage, analysis and command line. Ray and Optuna are imported lazily."""

from lagvae_core.packages import use_own_package

use_own_package("cluster")
