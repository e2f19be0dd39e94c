"""Kernel of the oracle for the parameters of an operator."""

import torch

from mmkerv.ops import CoCConv2d
from tests.ops.coc.coc_oracle import coc_kernel, super_kernel_geometry


def naive_kernel(op: CoCConv2d) -> torch.Tensor:
    """Compute the kernel of the oracle for the parameters of ``op``."""
    options, layers = op.options, op.super_layers
    sizes = [super_kernel_geometry(k, options.kernel_plus, options.dilate) for k in op.kernel_size]
    final = (op.kernel_norm_weight, op.kernel_norm_bias) if options.standardize == 'ln' else None
    kernel = coc_kernel(
        op.weight.detach().double(),
        [layer.weight for layer in layers],
        [layer.bias for layer in layers] if options.super_bias else [None] * len(layers),
        association=options.association,
        super_kernel=tuple(s for s, _ in sizes),
        super_dilation=tuple(d for _, d in sizes),
        skip=options.skip,
        share=options.share,
        groups=op.groups,
        super_norm=options.super_norm,
        norm_affine=[(layer.norm_weight, layer.norm_bias) for layer in layers] if options.super_norm else None,
        super_standardize=options.super_standardize,
        standardize=options.standardize,
        standardize_affine=final,
    )
    return torch.from_numpy(kernel)
