"""SW-FastEdit's command line, for those who have used it: its options, our commands.

``train.py`` at the root of the project takes the options of the original's ``train.py`` (Hadlich,
Marinov et al., ISBI 2024), says which `voxclick` command they come to, and runs that command.
docs/reference/sw-fastedit-options.md maps every option.
"""

from voxclick.cli.sw_fastedit.run import main

__all__ = ["main"]
