"""The model as a graph of few nodes: what is exported. Equal to the model up to float rounding."""

from dfine_tools.deploy.graph.model import GraphModel, RawDetector, graph_form

__all__ = ["GraphModel", "RawDetector", "graph_form"]
