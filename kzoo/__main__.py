"""``python -m kzoo``."""

from kzoo.cli.main import main

main()
