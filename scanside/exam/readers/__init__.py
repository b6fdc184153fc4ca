"""One reader a file format; `scanside.exam.open_exam` picks the one that fits and loads it only then."""
