"""Which code trained and scored a network, as a short digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

# Of the folders that schedule and show, what takes part in the scores; and so do results in pictures' pixels.
_SCORING = ("canvas.py", "measure.py", "shown.py")
_RESULTS = ("decode.py", "instances.py", "panoptic.py", "resize.py", "result.py")


def code_digest() -> str:
    """Short digest of the sources that decide weights and scores, as they lie on disk now."""
    import imp_trt
    import imp_trt.models
    import imp_trt.ops
    import imp_trt.train

    digest = hashlib.sha256()
    for package in (imp_trt.models, imp_trt.ops, imp_trt.train):
        folder = Path(package.__path__[0])
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder)
            if name.parts[0] not in ("ablation", "report") or name.name in _SCORING:
                digest.update(f"{package.__name__}/{name.as_posix()}\0".encode())
                digest.update(path.read_bytes())
    for file in _RESULTS:
        digest.update((Path(imp_trt.__file__).parent / file).read_bytes())
    return digest.hexdigest()[:12]
