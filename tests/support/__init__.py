"""What tests of the real programs share: gateways as subprocesses, engines, and clients that see every byte."""
