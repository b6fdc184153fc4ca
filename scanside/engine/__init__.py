"""Runtimes, and the pipeline that takes an exam to its findings."""
