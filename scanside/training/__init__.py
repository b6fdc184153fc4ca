"""The workshop's training: data sets, cohorts of phantoms, recipes, the loop, and what it leaves behind.

`scanside cohort` and `scanside train` run it; every step continues where a killed one stopped.
``python -m scanside.training {reference,busbra,default}`` does what has no verb of its own.
"""
