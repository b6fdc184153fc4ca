"""Commands that make the committed tables under benchmarks/results/."""
