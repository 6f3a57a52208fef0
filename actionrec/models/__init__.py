"""Networks: backbones, the nonlocal blocks that go into them, weights, and the recognizer."""
