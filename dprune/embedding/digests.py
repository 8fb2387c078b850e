"""What stands for the content of weights in a record, as far as that needs no torch."""

from __future__ import annotations

# What stands for the digest of weights that are not looked at before they are needed.
HUB = "hub"
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_SIZE = 95_628_359
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
