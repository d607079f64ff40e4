"""`python -m flux_pg` is `flux`."""

from flux_pg.cli import main

if __name__ == "__main__":
    main()
