"""Main functions of tools/analysis_tools."""
