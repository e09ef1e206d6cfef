"""``python -m nebfs.cli``: the command ``nebfs`` without an installed script."""

from nebfs.cli.main import main

if __name__ == "__main__":
    main()
