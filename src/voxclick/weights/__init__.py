"""The model that is shipped with voxclick.

`phantom_pet` was trained on phantoms alone, by ``configs/phantom-pet.yaml``; it is for the demo
and for trying things out, not for patients.
"""

from pathlib import Path

PHANTOM_PET = Path(__file__).parent / "phantom-pet.safetensors"
"""Lesions in phantoms of whole-body FDG-PET, labels background and tumor."""
