"""The parts of benchmarks/coc_ablation.py."""
