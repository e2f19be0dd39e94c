"""A config for data of one's own: find the files, check them, choose the settings, and write the config."""
