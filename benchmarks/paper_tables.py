"""The figures that Liu et al. 2025 print in Tables 1 to 6 and in the text, as data. Nothing here is computed."""

from __future__ import annotations

from dataclasses import dataclass

N_MALIGNANT, N_BENIGN = 54, 62
"""Of the internal test set, on which Tables 4 to 6 stand."""

# Row: (tp, fn, tn, fp) recovered from the figures; printed sensitivity, specificity, PPV, NPV, accuracy, F1.
TABLE_2 = {
    "VGG19": ((47, 7, 57, 5), (0.870, 0.919, 0.904, 0.891, 0.897, 0.887)),
    "DenseNet161": ((50, 4, 55, 7), (0.926, 0.887, 0.877, 0.932, 0.905, 0.901)),
    "ResNet101": ((47, 7, 56, 6), (0.870, 0.903, 0.887, 0.889, 0.888, 0.879)),
    "ResNet50": ((53, 1, 56, 6), (0.982, 0.903, 0.898, 0.983, 0.940, 0.938)),
}
TABLE_3 = {
    "Transverse": ((47, 7, 53, 9), (0.870, 0.855, 0.839, 0.883, 0.862, 0.855)),
    "Sagittal": ((43, 11, 57, 5), (0.796, 0.919, 0.896, 0.838, 0.862, 0.843)),
    "Coronal": ((43, 11, 59, 3), (0.796, 0.952, 0.935, 0.843, 0.879, 0.860)),
    "Feature fusion 1": ((48, 6, 56, 6), (0.889, 0.903, 0.889, 0.903, 0.897, 0.889)),
    "Feature fusion 2": ((53, 1, 56, 6), (0.982, 0.903, 0.898, 0.983, 0.940, 0.938)),
    "Feature fusion 2, external test set 1": ((51, 2, 41, 8), (0.962, 0.837, 0.864, 0.954, 0.902, 0.911)),
    "Feature fusion 2, external test set 2": ((53, 4, 51, 11), (0.930, 0.823, 0.828, 0.927, 0.874, 0.876)),
}

# Row: tp, tn as printed in parentheses; printed accuracy, sensitivity, specificity, PPV, NPV in %; AUC, low, high.
TABLE_4 = {
    ("two-plane", "R1"): ((41, 29), (60.3, 75.9, 46.8, 55.4, 69.0), (0.614, 0.511, 0.716)),
    ("two-plane", "R2"): ((32, 53), (73.3, 59.3, 85.5, 78.0, 70.1), (0.724, 0.628, 0.819)),
    ("two-plane", "R3"): ((40, 62), (87.9, 74.1, 100.0, 100.0, 81.6), (0.870, 0.797, 0.943)),
    ("two-plane", "R4"): ((53, 58), (95.7, 98.1, 93.5, 93.0, 98.3), (0.958, 0.917, 1.000)),
    ("two-plane", "R5"): ((44, 62), (91.4, 81.5, 100.0, 100.0, 86.1), (0.907, 0.844, 0.971)),
    ("two-plane", "R6"): ((53, 57), (94.8, 98.1, 91.9, 91.4, 98.3), (0.950, 0.905, 0.995)),
    ("three-plane", "R1"): ((36, 40), (65.6, 66.7, 64.5, 62.1, 69.0), (0.656, 0.555, 0.756)),
    ("three-plane", "R2"): ((29, 57), (74.1, 53.7, 91.9, 85.3, 69.5), (0.728, 0.633, 0.824)),
    ("three-plane", "R3"): ((45, 61), (91.4, 83.3, 98.4, 97.8, 87.1), (0.909, 0.846, 0.971)),
    ("three-plane", "R4"): ((52, 60), (96.6, 96.3, 96.8, 96.3, 96.8), (0.965, 0.927, 1.000)),
    ("three-plane", "R5"): ((50, 61), (95.7, 92.6, 98.4, 98.0, 93.8), (0.955, 0.910, 1.000)),
    ("three-plane", "R6"): ((52, 59), (95.7, 96.3, 95.2, 94.5, 93.8), (0.957, 0.915, 1.000)),
}

# Row: sensitivity and specificity in % with assistance; P1 and P2 of sensitivity, then of specificity.
TABLE_5 = {
    "R1": ((77.8, 79.0), ("0.026", "1.000"), ("<0.001", "<0.001")),
    "R2": ((81.5, 98.4), ("<0.001", "0.003"), ("0.228", "0.027")),
    "R3": ((87.0, 98.4), ("0.182", "0.617"), ("0.371", "/")),
    "R4": ((98.1, 96.8), ("0.680", "1.000"), ("0.680", "/")),
    "R5": ((96.3, 93.5), ("0.680", "0.617"), ("0.371", "0.249")),
    "R6": ((100.0, 98.4), ("0.671", "0.479"), ("1.000", "0.479")),
}
# Reading time in s, mean and SD, without and with assistance; printed P2.
READING_TIMES = {
    "R1": ((41.4, 9.3), (17.0, 5.7), "<0.001"),
    "R2": ((39.7, 8.6), (18.2, 8.4), "0.048"),
    "R3": ((36.1, 5.4), (14.4, 4.6), "<0.001"),
    "R4": ((38.2, 6.5), (15.6, 3.8), "<0.001"),
    "R5": ((33.0, 6.8), (10.8, 5.2), "<0.001"),
    "R6": ((30.9, 2.0), (10.3, 1.6), "<0.001"),
}
MEAN_TIMES = (36.5, 14.4)
"""Without and with assistance, over all readers (Results)."""

# Results: level, quantity, with assistance; printed %.
POOLED = {
    ("junior", "sensitivity", False): 60.2,
    ("junior", "specificity", False): 78.2,
    ("junior", "accuracy", False): 69.9,
    ("junior", "sensitivity", True): 79.7,
    ("junior", "specificity", True): 88.7,
    ("junior", "accuracy", True): 84.4,
    ("middle", "sensitivity", False): 89.8,
    ("senior", "sensitivity", False): 94.4,
    ("senior", "specificity", False): 96.8,
}
LEVELS = {"junior": ("R1", "R2"), "middle": ("R3", "R4"), "senior": ("R5", "R6")}

# First rater, second rater: kappa, low, high.
TABLE_6 = {
    ("ResNet50", "R1"): (0.222, 0.055, 0.389),
    ("ResNet50", "R2"): (0.454, 0.295, 0.613),
    ("ResNet50", "R3"): (0.755, 0.635, 0.875),
    ("ResNet50", "R4"): (0.792, 0.680, 0.904),
    ("ResNet50", "R5"): (0.809, 0.701, 0.916),
    ("ResNet50", "R6"): (0.810, 0.702, 0.918),
    ("R1", "R2"): (0.314, 0.242, 0.386),
    ("R1", "R3"): (0.315, 0.239, 0.391),
    ("R1", "R4"): (0.222, 0.137, 0.307),
    ("R1", "R5"): (0.249, 0.167, 0.331),
    ("R1", "R6"): (0.303, 0.140, 0.466),
    ("R2", "R3"): (0.504, 0.422, 0.586),
    ("R2", "R4"): (0.419, 0.336, 0.502),
    ("R2", "R5"): (0.428, 0.344, 0.512),
    ("R2", "R6"): (0.510, 0.432, 0.588),
    ("R3", "R4"): (0.755, 0.694, 0.816),
    ("R3", "R5"): (0.805, 0.749, 0.861),
    ("R3", "R6"): (0.733, 0.675, 0.791),
    ("R4", "R5"): (0.844, 0.794, 0.894),
    ("R4", "R6"): (0.844, 0.794, 0.894),
    ("R5", "R6"): (0.861, 0.814, 0.908),
}


@dataclass(frozen=True)
class Group:
    """One column of Table 1. `age` and `size_mm` are mean, SD, lowest, highest; the rest are counts."""

    n: int
    age: tuple[float, float, float, float]
    age_classes: tuple[int, int]
    size_mm: tuple[float, float, float, float]
    size_classes: tuple[int, int, int]
    histology: tuple[int, int, int]


TABLE_1 = {
    "training, malignant": Group(
        386, (58.1, 12.8, 20, 95), (37, 349), (33.5, 19.3, 7, 130), (81, 226, 79), (248, 53, 85)
    ),
    "training, benign": Group(446, (43.6, 12.9, 18, 79), (187, 259), (18.8, 9.9, 4, 91), (296, 142, 8), (255, 122, 69)),
    "validation, malignant": Group(95, (57.8, 11.7, 29, 84), (6, 89), (29.6, 14.1, 10, 76), (20, 64, 11), (48, 19, 28)),
    "validation, benign": Group(109, (44.9, 13.5, 20, 75), (37, 72), (19.4, 12.2, 4, 83), (68, 36, 5), (68, 29, 12)),
    "internal test, malignant": Group(
        54, (59.1, 12.3, 30, 79), (4, 50), (29.2, 11.4, 13, 62), (13, 35, 6), (42, 1, 11)
    ),
    "internal test, benign": Group(62, (41.5, 12.0, 18, 67), (30, 32), (18.5, 8.1, 8, 49), (42, 19, 1), (44, 14, 4)),
    "external test 1, malignant": Group(
        53, (54.5, 12.0, 37, 89), (25, 28), (21.8, 6.77, 10, 40), (14, 37, 2), (41, 2, 10)
    ),
    "external test 1, benign": Group(49, (43.3, 12.9, 18, 77), (13, 36), (20.5, 10.5, 6, 60), (28, 20, 1), (25, 6, 18)),
    "external test 2, malignant": Group(
        57, (56.5, 11.4, 40, 85), (14, 43), (22.3, 13.4, 12, 73), (16, 37, 4), (48, 4, 5)
    ),
    "external test 2, benign": Group(62, (42.5, 12.5, 18, 61), (22, 40), (19.7, 11.4, 7, 58), (35, 24, 3), (56, 5, 1)),
}

PATIENTS = {"Hospital A": 1147, "Hospital B": 102, "Hospital C": 119}
LESIONS = {"Hospital A": 1152, "Hospital B": 102, "Hospital C": 119}
PRINTED_PATIENTS, PRINTED_CASES = 1368, 1373
