"""Cost and structure of networks: parameters, MACs, receptive fields, speed, training logs."""
