"""Benches that run ours and a peer side by side, in one process, on the same work."""
