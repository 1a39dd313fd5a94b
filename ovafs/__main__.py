"""``python -m ovafs`` is ``ovafs``."""

from ovafs.cli.main import main

if __name__ == "__main__":
    main()
