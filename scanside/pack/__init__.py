"""The model pack: the only thing that crosses from the workshop to the scanner side."""

from scanside.pack.describe import describe, info_rows
from scanside.pack.golden import GoldenCase, GoldenResult, golden_cases, judge_golden
from scanside.pack.load import DEFAULT_PACK, Pack, load_pack
from scanside.pack.manifest import (
    GRAPH_PRECISIONS,
    MANIFEST_NAME,
    NETWORKS,
    PRECISIONS,
    SCHEMA,
    AucParity,
    Certificate,
    ClassifierSpec,
    DerivedGraph,
    ExportCheck,
    FileRecord,
    GoldenSpec,
    Licence,
    Manifest,
    MaskParity,
    SegmenterSpec,
    Spread,
)
from scanside.pack.write import add_certificates, file_records, write_pack

__all__ = [
    "DEFAULT_PACK",
    "GRAPH_PRECISIONS",
    "MANIFEST_NAME",
    "NETWORKS",
    "PRECISIONS",
    "SCHEMA",
    "AucParity",
    "Certificate",
    "ClassifierSpec",
    "DerivedGraph",
    "ExportCheck",
    "FileRecord",
    "GoldenCase",
    "GoldenResult",
    "GoldenSpec",
    "Licence",
    "Manifest",
    "MaskParity",
    "Pack",
    "SegmenterSpec",
    "Spread",
    "add_certificates",
    "describe",
    "file_records",
    "golden_cases",
    "info_rows",
    "judge_golden",
    "load_pack",
    "write_pack",
]
