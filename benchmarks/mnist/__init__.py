"""The parts of benchmarks/mnist_study.py."""
