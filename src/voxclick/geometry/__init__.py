"""Index boxes and affines: small frozen values, no voxels."""
