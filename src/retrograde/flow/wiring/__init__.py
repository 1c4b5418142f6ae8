"""How the losses depend on the recorded layers: which states each loss reads, and at which step of a layer it is."""
