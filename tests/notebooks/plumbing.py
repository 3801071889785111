"""Functions and classes of the library that no lesson teaches, by what they are for."""

from __future__ import annotations

PLUMBING: dict[str, str] = {
    # Reading and checking files: the lessons show the messages, not the code behind each of them.
    "read_json": "opens a JSON file and says what is wrong with it",
    "records_of": "the list under one key of a COCO file, checked",
    "to_tensor": "pixels of a picture as a tensor",
    "upright_size": "width and height as EXIF turns them, without decoding the pixels",
    "write_atomically": "a file that appears whole or not at all",
    # What functions hand on, and the errors that they raise.
    "DataConfig": "fields of a recipe; the lessons change them by name",
    "Weights": "a state dict and what its file says of it",
    "WeightsError": "a weights file that cannot be used",
    "Metrics": "what the trainer needs to know of an evaluation",
    "Score": "the type of what scores a model",
    "Drawing": "the type of a figure in the report",
    # Small parts of what a lesson teaches as a whole.
    "FoldedBottleneck": "what lesson 50's fold leaves in place of a bottleneck",
    "Detector": "the model with boxes in pixels behind it, as it is exported",
    "parent_of": "which recipe another one is told from; `dfine recipes` prints it",
    "for_image_size": "a recipe for another input size: one field",
    "in_words": "seconds as hours and minutes, for the progress bar",
    # Weights in another project's form.
    "is_huggingface": "whether a state dict is named as in transformers",
    "from_huggingface": "names of transformers to ours",
    "to_huggingface": "names of ours to those of transformers",
    "model_config": "a config.json of transformers as our ModelConfig",
    "huggingface_config": "our ModelConfig as a config.json of transformers",
    "save_huggingface": "a folder that transformers opens",
    "described": "which size a state dict is of, told from its shapes",
    "home": "the folder of downloaded files",
    "fetch": "a published file, downloaded once and whole",
    "DownloadError": "a published file that could not be had",
    "locate_weights": "the file that a path, a folder or a published name means",
    "describe_weights": "what `dfine weights` prints",
    "convert_weights": "what `dfine weights --to` does",
}
