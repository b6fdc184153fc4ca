"""`python -m scanside` is the `scanside` command."""

from scanside.cli import main

if __name__ == "__main__":
    main()
