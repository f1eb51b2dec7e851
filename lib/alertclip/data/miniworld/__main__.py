"""``python -m alertclip.data.miniworld --out DIR``: render a world."""

from alertclip.data.miniworld import main

if __name__ == "__main__":
    main()
