"""``python -m miniworld --out DIR``: render a world."""

from miniworld import main

if __name__ == "__main__":
    main()
