"""Functions and classes of the library that no lesson teaches, by what they are for."""

from __future__ import annotations

PLUMBING: dict[str, str] = {
    # Reading and checking files: the lessons show the messages, not the code behind each of them.
    "DfineError": "the base class of every error that names a mistake and the way out",
    "json_safe": "null for NaN and infinity in JSON",
    "read_json": "opens a JSON file and says what is wrong with it",
    "why_no_json": "the same in words, also of a number too long for Python",
    "objects_of": "the records of one list of a COCO file",
    "indices_in": "where each key is in a list of keys",
    "key_of": "what an id in a JSON file means",
    "leaves_folder": "whether a file name climbs out of its folder",
    "kind_of": "the JSON type of a value, in words",
    "repeated": "which keys occurred before",
    "check_lists": "the three lists of a COCO file are there",
    "written_as_fractions": "boxes that are fractions of their image although pixels are meant, for messages",
    "looks_whole": "whether the end of an image file is that of a whole one",
    "open_image": "its header, by Pillow or the plug-in for HEIC",
    "decode_opened": "its pixels after that",
    "register_heif": "Pillow opens HEIC where its plug-in is installed",
    "to_tensor": "pixels of an image as a tensor",
    "exif_orientation": "how a camera was held, from the header of its file",
    "Window": "the part of an image that a sample shows",
    "resize_window": "lesson 03's padding, cropping, flipping and stretching, in one",
    "planes": "an image channel by channel, in any order of its channels",
    "distort": "torchvision's photometric changes, rounded once",
    "turn_hue": "torchvision's change of hue, without going through HSV",
    "upright_size": "width and height as EXIF turns them, without decoding the pixels",
    "Draw": "names the draws of a run, each of which has seeds of its own",
    # Images out of tar archives: another way to the same batches.
    "num_workers_of": "how many DataLoader workers there are where nobody chose",
    "data_loader": "torch's DataLoader with the settings of this project, for images and for tar shards",
    "raw_batches": "raises the errors of workers in this process",
    "whole_file": "a file to write into that appears whole or not at all",
    "write_atomically": "a file that appears whole or not at all",
    # What functions hand on, and the errors that they raise.
    "DataConfig": "fields of a recipe; the lessons change them by name",
    "WeightsError": "a weights file that cannot be used",
    "CocoFolder": "where images come from: lesson 02 opens a folder without it",
    # Small parts of what a lesson teaches as a whole.
    "as_tokens": "a feature map flattened to tokens, past a bug of torch",
    "num_dn_groups": "number of denoising groups of a batch",
    "pick": "tokens at chosen indices",
    "max_2x2": "the stem's max pooling, by whichever of two functions is faster",
    # Which row of a class head is which class.
    "of_heads": "whether an entry of a state dict is of a class head",
    "by_class": "whether an entry of a state dict has a row for each class",
    "carried_rows": "a model's entries by class, with the rows of a file's",
    "configs_of": "the configs of a weights file, from JSON",
    "source_rows": "the file's class row for each class of a model",
    "is_set": "whether an annotation is marked, as by ignore or difficult",
    # Several processes that train as one: started, joined, ended.
    "Ranks": "this process among those that train together",
    "current_ranks": "which process this is",
    "running_statistics": "what batch norms keep, to be averaged over processes",
    "parse_hw": "height and width of the input, however they are written",
    # Speed and memory, which change no result.
    "usable_precision": "the precision asked for, or what the device has instead",
    "has_bf16": "whether a device computes in bf16",
    "describe_device": "a device by name",
    "copy_to": "a tensor of the host on the model's device, by a copy that nothing waits for",
    "set_backends": "what torch keeps for the whole process, set in one place",
    "term_names": "names of all loss terms, the same in every process",
    # The model once more, as a graph of few nodes; tests compare it with the one that is taught.
}
