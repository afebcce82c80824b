"""What travels: arrays and the states of models as records, and how images and weights are encoded.

A message between server and clients holds records. `tensor_record` and `tensors` turn named arrays
into a record and back, `pack_state` and `load_state` the state of a model. A codec makes them
smaller.
"""

from fedsim.wire.arrays import add_scaled, load_state, pack_state, tensor_record, tensors
from fedsim.wire.codecs import (
    Codec,
    clipped_fraction,
    decode_images,
    decode_tensors,
    encode_images,
    encode_tensors,
    intensities,
)

__all__ = [
    "Codec",
    "add_scaled",
    "clipped_fraction",
    "decode_images",
    "decode_tensors",
    "encode_images",
    "encode_tensors",
    "intensities",
    "load_state",
    "pack_state",
    "tensor_record",
    "tensors",
]
