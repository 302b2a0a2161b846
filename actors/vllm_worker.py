"""What runs of ours in vLLM's own processes: how they take weights, and what they tell."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from actors import cuda_ipc, vllm_faults
from actors.buckets import views

FILE_TRANSFER = "agon_file"
IPC_TRANSFER = "agon_ipc"


class WorkerExtension:
    """Mixed into vLLM's worker; naming this class makes the worker import this module."""

    def unplaced_layers(self) -> list[str]:
        """Those of the adapter that vLLM took and will not compute."""
        manager = self.model_runner.lora_manager._adapter_manager  # type: ignore[attr-defined]
        parts = (name for names in manager.packed_modules.values() for name in names)
        return sorted(manager.get_adapter(1).loras.keys() - {*manager.modules, *parts})


@dataclass
class NoInit(WeightTransferInitInfo):
    pass


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    path: str
    places: list[list]


@dataclass
class IpcUpdate(WeightTransferUpdateInfo):
    handles: dict[str, list]
    places: list[list]


class LayerwiseTransfer(WeightTransferEngine):
    """Takes over weights in Hugging Face format.

    CPU linear layers repack and free their weights when loaded, and CUDA graphs hold on to the
    memory of theirs, so loading anew is only possible layer by layer.
    """

    init_info_cls = NoInit

    def init_transfer_engine(self, init_info: NoInit) -> None:
        pass

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            _pack_experts(self.model)

    def shutdown(self) -> None:
        pass

    @staticmethod
    def trainer_send_weights(iterator: Any, trainer_args: Any) -> None:
        raise TypeError("weights are sent by actors.weight_sync and actors.cuda_ipc")


def _pack_experts(model: torch.nn.Module) -> None:
    """Mixtures of experts are packed for CPUs once; a reload puts them back unpacked, and vLLM
    does not pack them again."""
    for layer in model.modules():
        kernel = getattr(getattr(layer, "quant_method", None), "moe_kernel", None)
        if kernel is not None:
            kernel.fused_experts.process_weights_after_loading(layer)


class FileTransfer(LayerwiseTransfer):
    """From a file on this machine, normally one in shared memory, which is looked at in place."""

    update_info_cls = FileUpdate

    def receive_weights(self, update_info: FileUpdate) -> None:
        size = Path(update_info.path).stat().st_size
        data = torch.from_file(update_info.path, shared=False, size=size, dtype=torch.uint8)
        take(self.model, views(update_info.places, data))


class IpcTransfer(LayerwiseTransfer):
    """From a policy rank's memory on the same GPU."""

    update_info_cls = IpcUpdate

    def receive_weights(self, update_info: IpcUpdate) -> None:
        weights = cuda_ipc.read(update_info.handles, update_info.places, self.device)
        take(self.model, weights)


def take(model: torch.nn.Module, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Loads them; a head that is tied to the embedding comes too, for models that have a layer
    of their own by that name, and Gemma 2 has none."""
    has_head = any(name.rpartition(".")[2] == "lm_head" for name, _ in model.named_modules())
    model.load_weights(  # type: ignore[operator]
        (name, value) for name, value in weights if has_head or name != "lm_head.weight"
    )


WeightTransferEngineFactory.register_engine(FILE_TRANSFER, FileTransfer)
WeightTransferEngineFactory.register_engine(IPC_TRANSFER, IpcTransfer)

# This module is what vLLM's processes import of ours, before they read a model.
vllm_faults.listen()
