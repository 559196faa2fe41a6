"""`encapkeras bench`: what routing, transport, a training step and the input pipeline cost on this machine."""
