"""What runs on this machine: the private stack, Flower, the checks of the doctor."""
