"""``python -m lungvq``."""

from lungvq.cli import main

if __name__ == "__main__":
    main()
