"""SW-FastEdit's training script by its options (docs/reference/sw-fastedit-options.md).

`voxclick train` is ours, and shorter.
"""

import sys

from voxclick.allocator import reuse_freed_memory
from voxclick.cli.sw_fastedit import main

if __name__ == "__main__":
    reuse_freed_memory()
    sys.exit(main())
