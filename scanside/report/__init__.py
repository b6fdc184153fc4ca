"""The result: typed objects, report.json, masks and pictures."""
