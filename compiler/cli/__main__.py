"""`python -m octavo.compiler.cli`, where the script `octavo` is not on the path."""

from . import main

main()
