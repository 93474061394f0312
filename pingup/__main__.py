"""`python -m pingup` is the same as `pingup`."""

from pingup.cli import main

if __name__ == "__main__":
    main()
