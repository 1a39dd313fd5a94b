"""Where disk bytes come from: local files and chains of images."""
