"""The paper's statistics for any cohort, and found lesions against known ones."""
