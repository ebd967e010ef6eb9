# SPDX-License-Identifier: Apache-2.0
"""Browser view: a web page with the live overlay, the classes and the timing of a run.

The page uses this HTTP interface, which is open to other programs. All requests are GET and read-only:

- ``/frame?after=N&layers=classes,instances&alpha=50&source=NAME``: the next frame with a sequence number
  above N as JPEG (204 if there is none within 5 s), with the headers Frame-Sequence, -Index, -Name and -Age
  (ms). Layers are classes, instances, canvas and disagreement; without layers, the plain frame.
  ``hold=1`` keeps the frame for ``/frame?held=N``.
- ``/stream?layers=...``: the same as Motion JPEG, for VLC, OpenCV and other programs.
- ``/state?after=N``: statistics, fraction of each class, and timing of the frames after number N, as JSON.
- ``/about``: title and classes, as JSON.
"""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
