"""What SOURCE names: the paths of the images of a folder, a list or a URL."""
