"""``python -m voxclick`` is the command ``voxclick``; ``torchrun -m voxclick`` needs it."""

from voxclick.cli.main import run

if __name__ == "__main__":
    run()
