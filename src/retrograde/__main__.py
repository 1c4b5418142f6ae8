"""``python -m retrograde`` is the command ``retrograde``."""

from .cli import main

if __name__ == "__main__":
    main()
