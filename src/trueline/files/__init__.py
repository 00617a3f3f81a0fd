"""Files: folders in which each file appears whole or not at all, runs that go on, strict readers, checksums."""

from trueline.files.claims import Busy, Claim, Claims
from trueline.files.digests import file_digest, json_digest, pixel_hash
from trueline.files.folder import (
    KEY,
    Bundle,
    DiskFull,
    Folder,
    Subfolder,
    Target,
    clean_leftovers,
    disk_full_said,
    json_bytes,
    json_lines,
    save_png,
    write_text,
)
from trueline.files.journal import Journal
from trueline.files.readers import (
    parse_json,
    read_json,
    read_json_lines,
    read_json_list,
    read_json_object,
    read_lines,
    read_table,
    read_text,
)
from trueline.files.run_folder import MANIFEST, Job, OtherRun, Outcome, RunFolder

__all__ = [
    "KEY",
    "MANIFEST",
    "Bundle",
    "Busy",
    "Claim",
    "Claims",
    "DiskFull",
    "Folder",
    "Job",
    "Journal",
    "OtherRun",
    "Outcome",
    "RunFolder",
    "Subfolder",
    "Target",
    "clean_leftovers",
    "disk_full_said",
    "file_digest",
    "json_bytes",
    "json_digest",
    "json_lines",
    "parse_json",
    "pixel_hash",
    "read_json",
    "read_json_lines",
    "read_json_list",
    "read_json_object",
    "read_lines",
    "read_table",
    "read_text",
    "save_png",
    "write_text",
]
