"""A public benchmark of sick and healthy recurrent trainings: `python -m benchmarks.doctor`."""
