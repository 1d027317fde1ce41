"""The jet form of a group convolution: cost linear in the order of the group.
"""
from .function import Form, JetConv
