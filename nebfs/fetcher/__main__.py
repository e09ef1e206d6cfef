"""``python -m nebfs.fetcher SOCKET PARENT SETTINGS``: started by process.py, not by people."""

from nebfs.fetcher.worker import main

if __name__ == "__main__":
    main()
