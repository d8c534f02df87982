"""Settings of heads, sweeps and runs."""
