"""Main functions of tools/model_converters."""
