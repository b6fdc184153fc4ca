"""How time, memory and overlap are measured; behind `scanside bench`."""
