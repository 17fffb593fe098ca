"""The parts of voxclick's MONAI Label app; the folder has the name that MONAI Label expects."""
