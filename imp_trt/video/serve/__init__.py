"""The browser view: a page with the live overlay, its classes and its timing.

What the page asks for is there for other programs too, all of it GET and read only:

- ``/frame?after=N&layers=classes,instances&alpha=50&source=NAME``: a JPEG as soon as there is one with a
  higher number than N (204 if none comes within 5 s), with Frame-Sequence, -Index, -Name and -Age (ms) as
  headers. The layers are classes, instances, canvas and disagreement; none is the camera's picture.
  ``hold=1`` keeps the picture for ``/frame?held=N``.
- ``/stream?layers=...``: the same as motion JPEG, for VLC, OpenCV and the like.
- ``/state?after=N``: counters, share of each class, and the times of the pictures after number N, as JSON.
- ``/about``: title and classes, as JSON.
"""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
