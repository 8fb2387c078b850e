"""Fast kernels, in Triton: one file a formula. They know tensors alone; what they must give is in `models`."""
