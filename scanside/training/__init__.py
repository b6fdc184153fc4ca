"""The workshop's training: cohorts of phantoms, BUS-BRA, recipes, the loop, and what it leaves behind.

``python -m scanside.training {cohort,segment,classify,busbra,default}`` runs it. The order is
cohort -> segment -> classify -> pack; every step continues where a killed one stopped.
"""
