"""The trained networks for ``torch.hub``: one entry point per name in ``pdoe/weights/index.json``.

net = torch.hub.load("path/of/a/checkout", "mnistrot_pdo_p8", source="local")
"""

from pdoe.pretrained import load_pretrained as _load_pretrained
from pdoe.pretrained import load_untrained as _load_untrained
from pdoe.pretrained import read_index as _read_index

dependencies = ["torch", "numpy"]


def _build_entrypoint(name, summary):
    def entrypoint(pretrained=True):
        return _load_pretrained(name) if pretrained else _load_untrained(name)

    entrypoint.__name__ = name
    entrypoint.__doc__ = f"""{summary}

    ``net.preprocess`` turns uint8 images [B, C, H, W] into its input. Card: pdoe/weights/{name}.md

    Args:
        pretrained: trained and in evaluation mode, or untrained and in training mode.
    """
    return entrypoint


globals().update({name: _build_entrypoint(name, e["summary"]) for name, e in _read_index().items()})
