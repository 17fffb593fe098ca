"""The simulated prompts of three challenges, one module each, to the letter of their scripts.

Volumes are boolean arrays of the image file's own axes (i, j, k), slices along k, and indices
count in them. What a script leaves to the order in which it meets voxels, such as which of two
equally large components comes first, is decided as on the arrays that the script itself loads,
however the arrays given here lie in memory.
"""
