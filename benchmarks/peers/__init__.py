"""The standard exam as others would run it: one file each, written fairly, and giving the same lesions."""
