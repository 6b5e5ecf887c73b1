"""Settings of the tests with random inputs."""

from hypothesis import HealthCheck, settings

BOUNDED = settings(
    max_examples=150,
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""150 inputs, the same in every run."""
