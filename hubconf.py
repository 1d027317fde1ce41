"""The trained networks for ``torch.hub``: one entry per name in ``pdoe/weights/index.json``.

net = torch.hub.load("path/of/a/checkout", "mnistrot_pdo_p8", source="local")
"""

from pdoe.pretrained import entries as _entries
from pdoe.pretrained import load_pretrained as _load_pretrained
from pdoe.pretrained import untrained as _untrained

dependencies = ["torch", "numpy"]


def _entrypoint(name, about):
    def entrypoint(pretrained=True):
        return _load_pretrained(name) if pretrained else _untrained(name)

    entrypoint.__name__ = name
    entrypoint.__doc__ = f"""{about}

    Args:
        pretrained: with its weights and in evaluation mode; else as before training.

    ``net.preprocess`` turns uint8 images [B, C, H, W] into its input. Card: pdoe/weights/{name}.md
    """
    return entrypoint


for _name, _about in _entries().items():
    globals()[_name] = _entrypoint(_name, _about["summary"])
