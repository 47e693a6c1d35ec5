"""`python -m onward`: the command line where its script is not on the path."""

from onward.cli import main

main()
