# SPDX-License-Identifier: Apache-2.0
"""Baseline: torchvision's Mask R-CNN (ResNet-50-FPN), exported to ONNX and run in ONNX Runtime.

It solves another task (COCO's objects, no class map), so only its time is compared. It gets frames at the
input size of the artifact's network, with the same letterbox, so that its own resizing has no effect.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import Manifest
from imp_trt.backends.onnxruntime_import import import_onnxruntime
from imp_trt.cuda.cpus import usable_cores
from imp_trt.data.files import make_folder, temporary_beside
from imp_trt.errors import DependencyMissing, ImpTrtError, VerificationError
from imp_trt.preprocessing.letterbox import LetterboxTransform
from imp_trt.results.result import DEFAULT_SCORE_THRESHOLD

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnxruntime
    from torch import nn
    from torchvision.models.detection import MaskRCNN

    from imp_trt.benchmark.compare import Agreement

OUTPUTS = ("boxes", "labels", "scores", "masks")
MIN_F1 = 0.98

_SEED = 0
_OPSET = 17
_MASK_THRESHOLD = 0.5


class MaskRCNNBaseline:
    """See the docstring of the module.

    Args:
        manifest: of the measured artifact: input size, letterbox, number of detections.
        threads: CPU threads of ONNX Runtime; None uses one per physical core that this process may use.
        folder: folder of the exported file, which is reused if it exists.

    Raises:
        DependencyMissing: torch, torchvision, onnx or onnxruntime is not installed.
        ImpTrtError: torchvision's network cannot be exported; contains the exporter's message.
    """

    name = "maskrcnn"

    def __init__(self, manifest: Manifest, threads: int | None, folder: Path) -> None:
        try:
            import onnx  # noqa: F401  imported by the exporter, but only at the end
            import torch
            import torchvision
            from torchvision.models.detection.rpn import RegionProposalNetwork

            runtime = import_onnxruntime()
        except ImportError as error:
            raise DependencyMissing(
                "--compare maskrcnn",
                expected="torchvision, ONNX and ONNX Runtime",
                got=error,
                fix="pip install 'imp-trt[export]'",
            ) from error
        self._contract = manifest.input
        size = (manifest.input.height, manifest.input.width)
        detections = manifest.detections or 100
        self._model, trained = maskrcnn_model(size, detections)
        weights = "coco" if trained else f"random{_SEED}"
        name = (
            f"maskrcnn_resnet50_fpn_{size[0]}x{size[1]}_{detections}_{weights}_torch{torch.__version__}.onnx"
        )
        path = folder / name.replace("+", "_")
        if not path.is_file():
            export_maskrcnn(self._model, size, path)
        self._session: onnxruntime.InferenceSession | None
        self._session, where = _create_session(path, threads, manifest.engine is not None)
        self.title = (
            f"torchvision {torchvision.__version__} maskrcnn_resnet50_fpn in ONNX Runtime "
            f"{runtime.__version__}, float32, {size[1]}x{size[0]}, on the {where}"
        )
        rpn = cast(RegionProposalNetwork, self._model.rpn)
        self.notes = [
            "Mask R-CNN detects COCO's objects and has no class map: only times are comparable",
            f"Mask R-CNN has {sum(p.numel() for p in self._model.parameters()) / 1e6:.0f} million parameters "
            f"and {rpn.post_nms_top_n():,} proposals, torchvision's default",
        ]
        if not trained:
            self.notes.append(
                f"Mask R-CNN has random weights (COCO's are not in the cache of torch.hub): it detects up to "
                f"{detections} objects in every frame, and its mask head processes all of them"
            )

    def check(self, images: Sequence[NDArray[np.uint8]]) -> Agreement:
        """Compare the exported network with the same network in torchvision, on the first two frames."""
        import torch

        from imp_trt.export.verification import gates
        from imp_trt.export.verification.gates import FrameDetections

        agreement, checked = gates.Agreement(), images[:2]
        for image in checked:
            tensor = self._tensor(image, self._fit(image))
            with torch.inference_mode():
                eager = self._model([torch.from_numpy(tensor)])[0]
            exported = self._infer(tensor)
            detections = [
                FrameDetections(
                    np.asarray(outputs["boxes"], np.float32),
                    np.asarray(outputs["labels"], np.int32),
                    np.asarray(outputs["scores"], np.float32),
                )
                for outputs in (eager, exported)
            ]
            no_class_map = np.zeros((1, 1), np.uint8)
            agreement.add((no_class_map, no_class_map), (detections[0], detections[1]))
        if agreement.instance_f1 < MIN_F1:
            raise VerificationError(
                "the outputs of the exported Mask R-CNN differ from torchvision's, so nothing is timed",
                expected=f"instance F1 of at least {MIN_F1}",
                got=f"{agreement.instance_f1:.4f}",
                fix="use another version of torch or torchvision",
            )
        return {
            "frames": len(checked),
            "against": "the same network in torchvision, eager",
            "instances_matched": agreement.matched,
            "instances_torchvision": agreement.reference,
            "instances_exported": agreement.candidate,
        }

    def run(self, image: NDArray[np.uint8]) -> object:
        """Return boxes [N, 4] xyxy and masks [h, w] in frame pixels, of detections that would be drawn."""
        fit = self._fit(image)
        outputs = self._infer(self._tensor(image, fit))
        keep = outputs["scores"] >= DEFAULT_SCORE_THRESHOLD
        masks = [fit.invert_mask((m[0] > _MASK_THRESHOLD).view(np.uint8)) for m in outputs["masks"][keep]]
        return fit.invert_boxes(outputs["boxes"][keep]), masks

    def close(self) -> None:
        """Release the session; idempotent."""
        self._session = None

    def _fit(self, image: NDArray[np.uint8]) -> LetterboxTransform:
        return LetterboxTransform.of((image.shape[0], image.shape[1]), self._contract)

    def _tensor(self, image: NDArray[np.uint8], fit: LetterboxTransform) -> NDArray[np.float32]:
        """[3, H, W] float32 RGB, 0 to 1."""
        blob = cv2.dnn.blobFromImage(fit.apply(np.ascontiguousarray(image)), 1 / 255, swapRB=True)
        return np.asarray(blob[0], np.float32)

    def _infer(self, tensor: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Run the exported network; labels [N] are int64, the other outputs float32."""
        assert self._session is not None  # noqa: S101  # open until close()
        outputs = self._session.run(OUTPUTS, {"image": tensor})
        return dict(zip(OUTPUTS, cast("list[NDArray[np.float32]]", outputs), strict=True))


def _create_session(
    path: Path, threads: int | None, engine: bool
) -> tuple[onnxruntime.InferenceSession, Literal["CPU", "GPU"]]:
    """Load the exported network: on the GPU for a comparison with an engine, if possible, else on the CPU."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 4
    # As for the artifact, so that idle threads do not spin while the other side is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    cuda = "CUDAExecutionProvider"
    gpu = [cuda] if engine and cuda in runtime.get_available_providers() else []
    session = runtime.InferenceSession(str(path), options, providers=[*gpu, "CPUExecutionProvider"])
    return session, "GPU" if cuda in session.get_providers() else "CPU"


def maskrcnn_model(size: tuple[int, int], detections: int) -> tuple[MaskRCNN, bool]:
    """Return torchvision's network in evaluation mode, and whether it has COCO's weights.

    Nothing is downloaded: the weights are COCO's if they are in the cache of torch.hub, otherwise random.

    Args:
        size: input size (H, W), at which the network does not resize.
        detections: maximum number of detections.
    """
    import torch
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn

    weights = MaskRCNN_ResNet50_FPN_Weights.COCO_V1
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    trained = cached.is_file()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model: MaskRCNN = maskrcnn_resnet50_fpn(
            weights=weights if trained else None,
            progress=False,
            weights_backbone=None,
            min_size=min(size),
            max_size=max(size),
            box_detections_per_img=detections,
        )
    return model.eval(), trained


def export_maskrcnn(model: nn.Module, size: tuple[int, int], path: Path) -> Path:
    """Export the network to ONNX; the file is written atomically.

    Uses the TorchScript-based exporter, because torch.export does not support torchvision's NMS, whose
    number of boxes depends on the image.

    Raises:
        ImpTrtError: the export fails; contains the exporter's message.
    """
    import torch

    make_folder(path.parent)
    with temporary_beside(path) as temporary:
        try:
            image = torch.rand(3, *size, generator=torch.Generator().manual_seed(_SEED))
            with _silent(), torch.inference_mode():
                torch.onnx.export(
                    model,
                    ([image],),
                    str(temporary),
                    dynamo=False,
                    opset_version=_OPSET,
                    input_names=["image"],
                    output_names=list(OUTPUTS),
                    dynamic_axes={name: [0] for name in OUTPUTS},
                )
        except Exception as error:
            raise ImpTrtError(
                f"torchvision's Mask R-CNN cannot be exported by torch {torch.__version__}",
                got=" ".join(f"{type(error).__name__}: {error}".split())[:300],
                fix="omit --compare maskrcnn, or use another version of torch",
            ) from error
        os.replace(temporary, path)
    return path


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress the hundreds of warnings of the exporter about torchvision's code."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            with redirect_stdout(nowhere), redirect_stderr(nowhere):
                yield
        finally:
            logger.setLevel(level)
