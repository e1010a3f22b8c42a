"""What holds for every test."""

from hypothesis import HealthCheck, settings

# A slow machine is no fault of the code: speed is for `make bench` to claim.
settings.register_profile("spendstream", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("spendstream")
