"""L1 distance between patches and filters: one function with four implementations.

:func:`l1_distance` chooses among Triton kernels, loops compiled for a CPU, and chunks of patches that run on every
device; graphs that must run without mmkerv get a sum over the kernel's taps.
"""

from mmkerv.ops.kerv.l1.dispatch import l1_distance

__all__ = ['l1_distance']
