"""A network's accuracy on labelled images, by the kernels of a build, and the layers that cost most accuracy."""
