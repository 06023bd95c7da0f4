"""Records of finished jobs, the store that keeps them, and what is computed from them."""
