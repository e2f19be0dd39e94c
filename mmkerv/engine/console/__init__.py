"""What a training or a test shows in the terminal; the log file has every line, as mmengine writes it."""
