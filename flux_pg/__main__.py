"""`python -m flux_pg`: the same as the console script `flux`."""

from flux_pg.cli import main

if __name__ == "__main__":
    main()
