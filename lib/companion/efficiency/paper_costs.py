"""What the paper's supplement D reports (one A800, 256 frames of 224 x 224)."""

FRAMES, CLIPS = 256, 3726  # clips: VAGTA's training items
TABLE5 = {  # fvcore's operations, in which a multiply-add is one
    "vision encoder": 4.501e12,
    "visual projection": 0.101e9,
    "temporal transformer": 1.076e9,
    "text encoder": 10.133e9,
    "text projection": 0.262e9,
    "ROI projection": 0.503e9,
}
TABLE6_HOURS = {1: 66.85, 2: 19.4}
TABLE6_GB = {1: 71.53, 2: 79.81}  # the upper ends
TABLE6_EPOCHS = {1: 100, 2: 20}
TABLE7_MS = 213.26
