"""The peer: torchvision's Mask R-CNN with a ResNet-50 and FPN, exported to ONNX and run in ONNX Runtime.

It answers another question (COCO's objects, no class map), so only its time is compared. Frames come to it at
the size that the artifact's network has, letterboxed the same way, and its own resizing then does nothing.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import Manifest
from imp_trt.data.files import make_folder, temporary_beside
from imp_trt.errors import DependencyMissing, ImpTrtError, VerificationError
from imp_trt.preprocessing.letterbox import LetterboxTransform
from imp_trt.results.result import DEFAULT_SCORE_THRESHOLD

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTPUTS = ("boxes", "labels", "scores", "masks")
LEAST_F1 = 0.98

_SEED = 0
_OPSET = 17
_MASK_LEVEL = 0.5


class PeerRival:
    """See the module.

    Args:
        manifest: of the artifact that is measured: network size, letterbox, number of detections.
        threads: of ONNX Runtime; None takes one per physical core.
        folder: where the exported file is kept, and found again.

    Raises:
        DependencyMissing: torch, torchvision, onnx or onnxruntime is not installed.
        ImpTrtError: torchvision's network cannot be exported; says what the exporter said.
    """

    name = "peer"

    def __init__(self, manifest: Manifest, threads: int | None, folder: Path) -> None:
        try:
            import onnx  # noqa: F401  the exporter asks for it late
            import onnxruntime
            import torch
            import torchvision
        except ImportError as error:
            raise DependencyMissing(
                "--compare peer",
                expected="torchvision, ONNX and ONNX Runtime",
                got=error,
                fix="pip install 'imp-trt[export]'",
            ) from error
        self._contract = manifest.input
        size = (manifest.input.height, manifest.input.width)
        detections = manifest.detections or 100
        self._model, trained = peer_model(size, detections)
        weights = "coco" if trained else f"random{_SEED}"
        name = (
            f"maskrcnn_resnet50_fpn_{size[0]}x{size[1]}_{detections}_{weights}_torch{torch.__version__}.onnx"
        )
        path = folder / name.replace("+", "_")
        if not path.is_file():
            export_peer(self._model, size, path)
        self._session: Any
        self._session, where = _session(path, threads, manifest.engine is not None)
        self.title = (
            f"torchvision {torchvision.__version__} maskrcnn_resnet50_fpn in ONNX Runtime "
            f"{onnxruntime.__version__}, float32, {size[1]}x{size[0]}, on the {where}"
        )
        self.notes = [
            "the peer finds COCO's objects and gives no class map: times compare, answers do not",
            f"the peer has {sum(p.numel() for p in self._model.parameters()) / 1e6:.0f} million parameters "
            f"and {self._model.rpn.post_nms_top_n():,} proposals, as torchvision has them",
        ]
        if not trained:
            self.notes.append(
                f"the peer's weights are random (COCO's are not in torch.hub's folder): it finds up to "
                f"{detections} objects in every frame, and its mask head works on them all"
            )

    def check(self, images: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
        """The exported peer against torchvision's own, on the first two frames."""
        import torch

        from imp_trt.export.verification.gates import Agreement, Detections

        agreement, checked = Agreement(), images[:2]
        for image in checked:
            tensor = self._tensor(image, self._fit(image))
            with torch.inference_mode():
                eager = self._model([torch.from_numpy(tensor)])[0]
            exported = self._infer(tensor)
            found = [
                Detections(
                    np.asarray(answer["boxes"], np.float32),
                    np.asarray(answer["labels"], np.int32),
                    np.asarray(answer["scores"], np.float32),
                )
                for answer in (eager, exported)
            ]
            nothing = np.zeros((1, 1), np.uint8)
            agreement.add((nothing, nothing), (found[0], found[1]))
        if agreement.instance_f1 < LEAST_F1:
            raise VerificationError(
                "the exported peer does not answer as torchvision does, so no time is counted",
                expected=f"instance F1 of at least {LEAST_F1}",
                got=f"{agreement.instance_f1:.4f}",
                fix="another version of torch or torchvision may export it rightly",
            )
        return {
            "frames": len(checked),
            "against": "the same network in torchvision, eager",
            "instances_matched": agreement.matched,
            "instances_torchvision": agreement.reference,
            "instances_exported": agreement.candidate,
        }

    def run(self, image: NDArray[np.uint8]) -> object:
        """Boxes [N, 4] and masks [h, w] in the frame's pixels, of what is sure enough to be drawn."""
        fit = self._fit(image)
        answer = self._infer(self._tensor(image, fit))
        keep = answer["scores"] >= DEFAULT_SCORE_THRESHOLD
        masks = [fit.invert_mask((m[0] > _MASK_LEVEL).view(np.uint8)) for m in answer["masks"][keep]]
        return fit.invert_boxes(answer["boxes"][keep]), masks

    def close(self) -> None:
        """Release the session; idempotent."""
        self._session = None

    def _fit(self, image: NDArray[np.uint8]) -> LetterboxTransform:
        return LetterboxTransform.of((image.shape[0], image.shape[1]), self._contract)

    def _tensor(self, image: NDArray[np.uint8], fit: LetterboxTransform) -> NDArray[np.float32]:
        """[3, H, W] float32 RGB, 0 to 1."""
        blob = cv2.dnn.blobFromImage(fit.apply(np.ascontiguousarray(image)), 1 / 255, swapRB=True)
        return np.asarray(blob[0], np.float32)

    def _infer(self, tensor: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return dict(zip(OUTPUTS, self._session.run(OUTPUTS, {"image": tensor}), strict=True))


def _session(path: Path, threads: int | None, engine: bool) -> tuple[Any, str]:
    """The exported network, and where it runs: on the GPU beside an engine, if it can, else on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4
    # As for the artifact: the pool's threads shall not spin into the other side's turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    cuda = "CUDAExecutionProvider"
    wanted = [cuda] if engine and cuda in onnxruntime.get_available_providers() else []
    session = onnxruntime.InferenceSession(str(path), options, providers=[*wanted, "CPUExecutionProvider"])
    return session, "GPU" if cuda in session.get_providers() else "CPU"


def peer_model(size: tuple[int, int], detections: int) -> tuple[Any, bool]:
    """Torchvision's network in evaluation mode, and whether its weights are COCO's.

    Nothing is downloaded: the weights are COCO's if torch.hub has fetched them before, else random.

    Args:
        size: (H, W) at which it shall run without resizing anything.
        detections: objects it gives at most.
    """
    import torch
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn

    weights = MaskRCNN_ResNet50_FPN_Weights.COCO_V1
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    trained = cached.is_file()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = maskrcnn_resnet50_fpn(
            weights=weights if trained else None,
            progress=False,
            weights_backbone=None,
            min_size=min(size),
            max_size=max(size),
            box_detections_per_img=detections,
        )
    return model.eval(), trained


def export_peer(model: Any, size: tuple[int, int], path: Path) -> Path:
    """Write the peer's ONNX file, whole or not at all.

    By torch's older exporter, which records one run: torch.export refuses torchvision's non-maximum
    suppression, whose number of boxes depends on the picture.

    Raises:
        ImpTrtError: the exporter refuses; says what it said.
    """
    import torch

    make_folder(path.parent)
    with temporary_beside(path) as temporary:
        try:
            picture = torch.rand(3, *size, generator=torch.Generator().manual_seed(_SEED))
            with _silent(), torch.inference_mode():
                torch.onnx.export(
                    model,
                    ([picture],),
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
                fix="compare without --compare peer, or with another version of torch",
            ) from error
        os.replace(temporary, path)
    return path


@contextmanager
def _silent() -> Iterator[None]:
    """The exporter warns hundreds of times about torchvision's code, which is not ours to change."""
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
