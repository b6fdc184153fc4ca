"""`python -m scanside.training`: see `scanside.training.command`."""

from scanside.training.command import main

if __name__ == "__main__":
    main()
