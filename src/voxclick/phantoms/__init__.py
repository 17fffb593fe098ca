"""Made-up whole-body FDG-PET in SUV, with exact lesion labels."""

from voxclick.phantoms.lesions import Lesion
from voxclick.phantoms.phantom import Phantom, make_phantom
from voxclick.phantoms.settings import PhantomSettings

__all__ = ["Lesion", "Phantom", "PhantomSettings", "make_phantom"]
