"""How often a network is right on labelled images, by the kernels of a build; and which layers cost it most."""
