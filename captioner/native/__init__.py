"""Compiled C++ kernels: their source, the compilation, and the loaded library."""
